"""Sweeps: order, what is left alone, what is refused, and the table of results written by hand."""

import json

import jax
import numpy as np
import pytest

from configs import charades
from dlkd_jax import multihost
from dlkd_jax.reporting import sweep_table, sweeping, variants
from dlkd_jax.training import monitoring, recipe
from dlkd_jax.training import train as training

CONFIG = variants.prepare(charades.get_config(), 5)
EVERY = variants.variants_of(CONFIG)
CHOSEN = variants.choose(EVERY, ['recipe', 'single', 'hard_labels'])


def finish(run, sum_r):
  """Writes what a training would leave: the given SumR everywhere."""
  names = ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'median_rank', 'mean_rank', 'mAP')
  branches = run.config.model.branches
  scorers = (*branches, *['fused'] * (len(branches) > 1), 'teacher')
  metrics = {f'test/{s}/{n}': sum_r if n == 'SumR' else 0.5 for s in scorers for n in names}
  run.folder.mkdir(parents=True, exist_ok=True)
  (run.folder / 'config.json').write_text(run.config.to_json_best_effort())
  (run.folder / 'results.json').write_text(json.dumps({'best_epoch': 2, 'epochs': 5, 'metrics': metrics}))
  return metrics


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
  """Programs that are forgotten behind a training are those of all tests before, which takes seconds: not here."""
  times = []
  monkeypatch.setattr(jax, 'clear_caches', lambda: times.append(1))
  return times


@pytest.fixture
def trained(monkeypatch):
  """Trainings take no time and give 100 plus the seed; one of a single branch fails."""
  done = []

  def train(config, folder, stop):
    done.append((folder.parent.name, config.seed))
    if len(config.model.branches) == 1:
      raise monitoring.NonFiniteLossError('step 3: loss/total became NaN')
    return finish(sweeping.Run(None, config.seed, folder, config), 100.0 + config.seed)

  monkeypatch.setattr(training, 'train', train)
  return done


def test_seeds_come_first_and_a_failure_does_not_end_the_sweep(trained, forgotten, tmp_path):
  runs = sweeping.plan(CONFIG, CHOSEN, range(2), tmp_path)
  tables = []
  failed = sweeping.train_all(runs, multihost.StopRequest(), lambda: tables.append(1))
  assert trained == [(name, seed) for seed in (0, 1) for name in ('recipe', 'hard_labels', 'single')]
  assert len(forgotten) == len(trained)
  assert [text.split(':')[0] for text in failed] == ['single, seed 0', 'single, seed 1'] and len(tables) == 4


def test_finished_runs_are_left_alone(trained, tmp_path):
  runs = sweeping.plan(CONFIG, CHOSEN, [0], tmp_path)
  finish(runs[0], 90.0)
  assert [run.state for run in runs] == ['finished', 'not started', 'not started']
  sweeping.train_all(runs, multihost.StopRequest(), lambda: None)
  assert trained == [('hard_labels', 0), ('single', 0)]


def test_an_interrupted_run_goes_on(trained, tmp_path):
  (run,) = sweeping.plan(CONFIG, CHOSEN[:1], [0], tmp_path)
  run.folder.mkdir(parents=True)
  (run.folder / 'config.json').write_text(run.config.to_json_best_effort())
  assert run.state == 'started'
  sweeping.train_all([run], multihost.StopRequest(), lambda: None)
  assert trained == [('recipe', 0)] and run.state == 'finished'


def test_a_request_to_stop_ends_the_sweep(monkeypatch, tmp_path):
  def train(config, folder, stop):
    raise multihost.Stopped('stopped at step 4')

  monkeypatch.setattr(training, 'train', train)
  with pytest.raises(multihost.Stopped, match='step 4'):
    sweeping.train_all(sweeping.plan(CONFIG, CHOSEN, [0], tmp_path), multihost.StopRequest(), lambda: None)


def test_runs_of_another_recipe_are_refused(tmp_path):
  finish(sweeping.make_run(CONFIG, CHOSEN[0], 0, tmp_path), 1.0)
  other = variants.prepare(charades.get_config(), 6)
  with pytest.raises(ValueError, match=r'another configuration .*\n.*training.epochs: 5 → 6'):
    sweeping.plan(other, CHOSEN, [0], tmp_path)


@pytest.mark.parametrize(('field', 'value'), [('training.patience', 3), ('model.precision', 'bfloat16')])
def test_a_table_does_not_mix_settings_that_runs_may_go_on_with(tmp_path, field, value):
  run = sweeping.make_run(recipe.resolved(CONFIG, 'cpu'), CHOSEN[0], 0, tmp_path)
  finish(run, 1.0)
  assert sweeping.plan(CONFIG, CHOSEN, [0], tmp_path)[0].state == 'finished'  # With what 'auto' meant to it.
  other = CONFIG.copy_and_resolve_references()
  other.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=rf'another configuration .*\n.*{field}: .* → .*{value}'):
    sweeping.plan(other, CHOSEN, [0], tmp_path)


def summary(tmp_path):
  for name, seed, value in (('recipe', 0, 100), ('recipe', 1, 104), ('hard_labels', 1, 101), ('hard_labels', 2, 105)):
    finish(sweeping.make_run(CONFIG, next(x for x in EVERY if x.name == name), seed, tmp_path), float(value))
  finish(sweeping.make_run(CONFIG, next(x for x in EVERY if x.name == 'single'), 0, tmp_path), 90.0)
  finished = sweeping.finished_runs(CONFIG, EVERY, tmp_path)
  return sweep_table.summarise(EVERY, finished, 'test', 50)


def test_table(tmp_path):
  found = summary(tmp_path)
  rows = {row[0]: dict(zip(sweep_table.cells(found)[0], row, strict=True)) for row in sweep_table.cells(found)[1:]}
  assert list(rows) == ['chance', 'teacher alone', 'recipe', 'hard_labels', 'single']
  assert rows['recipe']['SumR'] == f'102.0 ± {np.std([100, 104], ddof=1):.1f}' and rows['recipe']['seeds'] == '2'
  assert rows['hard_labels']['SumR over recipe'] == '-3.0'  # Of the one seed that both have.
  assert rows['single']['SumR over recipe'] == '-10.0' and rows['single']['exploration'] == ''
  assert rows['chance']['R@1'] == '2.0'


def test_rows_of_a_ladder_are_compared_with_the_one_before(tmp_path):
  """Ranks of six captions of three videos: all 1, or all 2."""
  ladder = variants.ladder_of(CONFIG)[:3]
  for variant, sum_r, rank in zip(ladder, (100, 110, 105), (2, 1, 2), strict=True):
    for seed in (0, 1):
      run = sweeping.make_run(CONFIG, variant, seed, tmp_path)
      finish(run, float(sum_r + seed))
      if variant is not ladder[0] or seed == 0:  # One of an older version.
        np.savez(run.folder / 'ranks.npz', **{'test/fused': np.full(6, rank), 'test/video': np.arange(6) // 2})
  finished = sweeping.finished_runs(CONFIG, ladder, tmp_path)
  found = sweep_table.summarise(ladder, finished, 'test', 50)
  assert [row['difference'] for row in found['rows']] == [[], [10.0, 10.0], [-5.0, -5.0]]
  assert found['rows'][1]['interval'] is None and found['rows'][2]['interval'] == (-100.0, -100.0)
  rows = [row[-1] for row in sweep_table.cells(found)]
  assert rows[0] == 'SumR over another row' and rows[-2] == '+10.0 ± 0.0 recipe'
  assert rows[-1] == f'-5.0 ± 0.0 [-100.0, -100.0] {ladder[1].name}'


def test_table_is_written_in_three_forms(tmp_path):
  found = summary(tmp_path)
  text = sweep_table.write(tmp_path, CONFIG, found)
  assert (tmp_path / 'sweep.txt').read_text() == text + '\n'
  assert '| recipe | 2 |' in (tmp_path / 'sweep.md').read_text()
  content = json.loads((tmp_path / 'sweep.json').read_text())
  assert content['rows'][0]['values']['SumR'] == [100.0, 104.0] and content['epochs'] == 5
  assert '5 epochs each' in text and f'{0.95**4:.2f} (exp)' in text and '0.96 (linear)' in text


def test_an_empty_sweep_has_a_table(tmp_path):
  found = sweep_table.summarise(EVERY, {}, 'test', 10)
  assert [row[0] for row in sweep_table.cells(found)] == ['', 'chance']
