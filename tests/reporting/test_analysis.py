"""The analysis of a run whose split and curves are known: numbers against the parts they are made of."""

import json
import types

import numpy as np
import pytest

from dlkd_jax.reporting import analysis, bootstrap, fusion, moment_accuracy, relevance
from dlkd_jax.retrieval.metrics import metrics_from_ranks
from tests.reporting import worlds


@pytest.fixture(scope='session')
def analysed():
  """What was analysed before, by what was asked."""
  return {}


@pytest.fixture
def found(monkeypatch, tmp_path, analysed):
  """Analyses a made-up split; the validation split is another. Nobody changes what it returns."""

  def analyse(options=worlds.QUICK, **more):
    asked = repr((options, more))
    if asked not in analysed:
      analysed[asked] = anew(options, **more)
    return analysed[asked]

  def anew(options, **more):
    data = {'test': worlds.split(**more), 'val': worlds.split(seed=9, name='val', **more)}
    monkeypatch.setattr(analysis, 'read_split', lambda run, split: data[split])
    monkeypatch.setattr(analysis, 'pair_curves', lambda run, data, pairs: worlds.curves(data, pairs))
    monkeypatch.setattr(analysis.recipe, 'names', lambda *_: ['val'])
    config = types.SimpleNamespace(
      data=types.SimpleNamespace(dataset='made_up'),
      seed=4,
      loss=types.SimpleNamespace(soft_labels=True, teacher=True),
      model=types.SimpleNamespace(name='dldkd', branches=('inheritance', 'exploration')),
    )
    run = types.SimpleNamespace(name='a', workdir=tmp_path, config=config, epoch=2, epochs=3)
    return data['test'], data['val'], analysis.analyse(run, options)

  return analyse


def test_metrics_and_intervals(found):
  data, _, result = found()
  assert result.primary == 'fused' and list(result.metrics) == ['inheritance', 'exploration', 'fused', 'teacher']
  for name, ranks in data.ranks.items():
    for metric, value in metrics_from_ranks(ranks).as_dict().items():
      estimate = result.metrics[name][metric]
      assert estimate.value == value and estimate.videos.low <= value <= estimate.videos.high
  intervals = bootstrap.rank_intervals(data.ranks, data.own, 100)
  assert result.metrics['fused']['SumR'].videos == intervals['fused']['SumR']
  assert result.metrics['fused']['SumR'].captions == bootstrap.rank_intervals(data.ranks, None, 100)['fused']['SumR']


def test_slices_are_the_whole(found):
  data, _, result = found()
  assert list(result.slices) == ['moment-to-video ratio', 'video length', 'caption length']
  for parts in result.slices.values():
    assert sum(part.captions for part in parts) == len(data.caption_ids)
    for name in data.ranks:
      mean = sum(part.captions * part.metrics[name]['SumR'].value for part in parts) / len(data.caption_ids)
      assert mean == pytest.approx(result.metrics[name]['SumR'].value)


def test_moments(found):
  data, _, result = found()
  pairs = [(row, int(data.own[row])) for row in range(60)]
  wanted = worlds.curves(data, pairs)
  times = [data.videos[column].student_times for _, column in pairs]
  judged = moment_accuracy.judge([wanted['inheritance'][p] for p in pairs], times, data.durations, data.moments)
  every = result.moments['inheritance'].every
  assert every[moment_accuracy.COLUMNS[0]].value == pytest.approx(100 * judged.inside.mean())
  assert result.moments['inheritance'].found_first == (data.ranks['inheritance'] == 1).sum()
  first = judged.percent()[data.ranks['inheritance'] == 1].mean(axis=0)
  assert [x.value for x in result.moments['inheritance'].first.values()] == pytest.approx(first.tolist())


def test_fusion_is_chosen_on_validation_and_measured_on_test(found):
  data, val, result = found()
  points = fusion.sweep(val.scores, val.own, val.weights)
  assert result.fusion.chosen == fusion.best(points, teacher=False) and result.fusion.split == 'val'
  measured = metrics_from_ranks(fusion.ranks_of(data.scores, result.fusion.blended.weights, data.own))
  assert result.fusion.results['blended']['SumR'].value == measured.sum_r
  assert result.fusion.results['configured']['SumR'].value == result.metrics['fused']['SumR'].value


def test_several_relevant_videos(found, tmp_path):
  path = tmp_path / 'relevant.jsonl'
  path.write_text(json.dumps({'caption': 'c004', 'videos': ['v001', 'v007']}))
  options = analysis.Options(relevant=path, samples=100, permutations=100)
  data, _, result = found(options)
  judged = relevance.read_relevant(path, data.caption_ids, data.video_ids, data.own)
  values = relevance.multiple_values(data.scores, {'fused': 1.0}, judged)
  assert result.relevance['fused']['R@5'].value == pytest.approx(values['R@5'].mean())
  assert result.relevant == (1, pytest.approx(61 / 60))


def test_a_set_without_moments(found):
  _, _, result = found(moments=False)
  assert result.moments is None and result.without_looking is None and 'moment-to-video ratio' not in result.slices


@pytest.mark.parametrize('scorers', [('inheritance',), ('inheritance', 'teacher'), ('inheritance', 'exploration')])
def test_other_students(found, scorers):
  _, _, result = found(scorers=scorers)
  assert result.primary == ('fused' if 'exploration' in scorers else 'inheritance')
  assert (result.fusion is None) == (scorers == ('inheritance',))


def test_findings_are_plain_values(found):
  _, _, result = found()
  content = json.loads(json.dumps(result.as_json(), allow_nan=False))
  assert content['metrics']['fused']['SumR']['videos'].keys() == {'low', 'high'}
  assert 'values' not in content and np.isfinite(content['fusion']['points'][0]['metrics']['r1'])
