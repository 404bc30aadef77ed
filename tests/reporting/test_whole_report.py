"""The commands as a user gives them, on a tiny set: a sweep, the sweep again, and a report of its runs."""

import json

import numpy as np
import pytest

from dlkd_jax.reporting.frame_curves import pair_curves
from dlkd_jax.reporting.split_data import read_split
from dlkd_jax.reporting.trained_run import open_run
from tests.reporting.test_document import assert_self_contained
from tests.runs import SMALL, commands

__all__ = ['commands']  # The fixture.


@pytest.fixture(scope='module')
def sweep(commands, tmp_path_factory):
  """The arguments of a sweep of one variant over two seeds, made to its end, and its folder."""
  workdir = tmp_path_factory.mktemp('sweep')
  more = ('--seeds=2', '--epochs=3', '--only=recipe', f'--config.data.data_dir={commands.data_dir}')
  arguments = ('dlkd_jax.sweep', f'--config={commands.recipe}', f'--workdir={workdir}', *more, *SMALL)
  return arguments, workdir, commands.run(*arguments)


@pytest.fixture(scope='module')
def report(commands, sweep):
  workdirs = [sweep[1] / 'recipe' / f'seed_{seed}' for seed in (0, 1)]
  output = sweep[1] / 'report'
  relevant = sweep[1] / 'relevant.jsonl'
  run = open_run(workdirs[0], 'a', 'test')
  data = read_split(run, 'test')
  relevant.write_text(json.dumps({'caption': data.caption_ids[0], 'videos': data.video_ids[:2]}))
  more = (f'--output={output}', '--samples=100', '--permutations=100', '--examples=1', f'--relevant={relevant}')
  before = {path for folder in workdirs for path in folder.rglob('*')}
  commands.run('dlkd_jax.report', *(f'--workdir={folder}' for folder in workdirs), *more)
  assert {path for folder in workdirs for path in folder.rglob('*')} == before
  return workdirs, output, run, data


def test_sweep_leaves_a_table(sweep):
  _, workdir, output = sweep
  results = [json.loads((workdir / f'recipe/seed_{seed}/results.json').read_text())['metrics'] for seed in (0, 1)]
  content = json.loads((workdir / 'sweep.json').read_text())
  assert content['rows'][0]['values']['SumR'] == [x['test/fused/SumR'] for x in results]
  assert (workdir / 'sweep.txt').read_text().strip() in output and 'epoch   3/3' in output


def test_sweep_again_trains_nothing_and_prints_the_table(sweep, commands):
  arguments, workdir, _ = sweep
  before = (workdir / 'sweep.txt').read_text()
  output = commands.run(*arguments)
  assert 'epoch   3/3' not in output and before.strip() in output
  listed = commands.run(*arguments, '--list')
  assert 'seed 0 finished, seed 1 finished' in listed


def test_sweep_errors_are_one_line(sweep, commands):
  arguments = sweep[0]
  for more, words in ((('--only=nothing',), "no variant 'nothing'"), (('--epochs=2',), 'training.epochs: 3 → 2')):
    done = commands.try_to(*arguments, *more)
    assert done.returncode == 1 and words in done.stderr and 'Traceback' not in done.stderr


def test_report_has_the_numbers_of_the_runs(report):
  workdirs, output, _, _ = report
  content = json.loads((output / 'report.json').read_text())
  for folder, run in zip(workdirs, content['runs'], strict=True):
    results = json.loads((folder / 'results.json').read_text())['metrics']
    for scorer in ('inheritance', 'exploration', 'fused', 'teacher'):
      for metric, estimate in run['metrics'][scorer].items():
        assert estimate['value'] == pytest.approx(results[f'test/{scorer}/{metric}'], abs=1e-6)
    assert run['annotated'] == 96 and run['moments']['teacher']['every'] and run['relevant'][0] == 1
    assert run['log']['validation']['fused'] and len(run['examples']) == 2
  (group,) = content['comparison']['groups']
  assert group['runs'] == ['seed_0', 'seed_1']


def test_report_is_one_file_that_needs_nothing_else(report):
  output = report[1]
  text = (output / 'report.html').read_text()
  assert_self_contained_with_pictures(text)
  assert text.count('<svg') == len(list((output / 'figures').iterdir())) > 15
  markdown = (output / 'report.md').read_text()
  for figure in (output / 'figures').iterdir():
    assert f'(figures/{figure.name})' in markdown


def assert_self_contained_with_pictures(text):
  """Heat maps are pictures inside the page."""
  import re

  pictures = re.findall(r'<image [^>]*>', text)
  assert all('href="data:image/png;base64,' in picture for picture in pictures)
  assert_self_contained(re.sub(r'<image [^>]*>', '', text))


def test_curves_reach_the_scores(report):
  _, _, run, data = report
  pairs = [(row, (row * 7) % len(data.video_ids)) for row in range(len(data.caption_ids))]
  curves = pair_curves(run, data, pairs)
  for name in ('inheritance', 'exploration', 'teacher'):
    for row, column in pairs:
      assert curves[name][row, column].max() == pytest.approx(data.scores[name][row, column], abs=1e-5)
      video = data.videos[column]
      times = video.teacher_times if name == 'teacher' else video.student_times
      assert curves[name][row, column].shape == times.shape
  fused = [0.7 * curves['inheritance'][p] + 0.3 * curves['exploration'][p] for p in pairs]
  np.testing.assert_allclose(np.concatenate(fused), np.concatenate([curves['fused'][p] for p in pairs]), atol=1e-6)


@pytest.mark.parametrize(
  ('more', 'words'),
  [
    (('--workdir=/nowhere',), 'holds no config.json; expected the --workdir of a training'),
    (('--data_dir=/nowhere',), 'dlkd build synthetic'),
    (('--relevant=/nowhere.jsonl',), 'nowhere.jsonl'),
  ],
)
def test_report_errors_are_one_line(report, commands, more, words):
  workdirs = report[0]
  done = commands.try_to('dlkd_jax.report', f'--workdir={workdirs[0]}', *more)
  assert done.returncode == 1 and words in done.stderr and 'Traceback' not in done.stderr
  assert not (workdirs[0] / 'report').exists()
