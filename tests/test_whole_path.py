"""The whole path as a user walks it: build → train → kill → resume → evaluate, each as a command of its own."""

import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest

from dlkd_jax.training.checkpoints import read_best
from tests.runs import SINGLE, Commands, assert_same_end, commands, logged_steps, records, wait_until

__all__ = ['commands']  # The fixture.


WATCH = """
import runpy, sys

class Watch:
  def find_spec(self, name, path=None, target=None):
    # etils asks whether TensorFlow could be found, without importing it.
    if name.split('.')[0] in ('tensorflow', 'torch') and sys._getframe(2).f_code.co_name != 'find_spec':
      raise AssertionError(f'{name} was imported')

sys.meta_path.insert(0, Watch())
module, sys.argv = sys.argv[1], sys.argv[1:]
try:
  runpy.run_module(module, run_name='__main__', alter_sys=True)
except SystemExit as end:
  assert not end.code, end.code
assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules
print('neither TensorFlow nor torch was imported')
"""


@pytest.fixture(scope='module')
def undisturbed(commands, tmp_path_factory):
  """A run to its end, watched for what it imports."""
  workdir = tmp_path_factory.mktemp('undisturbed')
  options = commands.options(*commands.training(workdir))
  options['args'][1:2] = ['-c', WATCH]
  done = subprocess.run(**options, capture_output=True, check=False)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
  return workdir, done.stdout


@pytest.fixture
def single(commands):
  """The same with one branch and no teacher: where the program is compiled anew and the model does not matter."""
  return Commands(commands.folder, *SINGLE)


def test_neither_tensorflow_nor_torch_is_imported(undisturbed):
  workdir, output = undisturbed
  assert output.splitlines()[-1] == 'neither TensorFlow nor torch was imported'
  assert (workdir / 'results.json').exists()


def test_training_leaves_what_the_readme_says(undisturbed):
  workdir, output = undisturbed
  for name in ('config.json', 'metrics.jsonl', 'results.json', 'results.md', 'checkpoints', 'tensorboard'):
    assert (workdir / name).exists(), name
  results = json.loads((workdir / 'results.json').read_text())
  for split in ('val', 'test'):
    for scorer in ('teacher', 'inheritance', 'exploration', 'fused'):
      assert 0 <= results['metrics'][f'{split}/{scorer}/SumR'] <= 400
  assert 'epoch   3/3' in output and 'teacher alone' in output and 'chance' in output
  assert any((workdir / 'tensorboard').iterdir())
  found = records(workdir)
  steps = [record['step'] for record in found if 'loss/total' in record]
  assert steps == list(range(1, 13))  # 64 videos, 16 a batch, 3 epochs.
  names = set().union(*found)
  assert {'loss/total', 'norm/gradient', 'norm/parameters', 'schedule/alpha', 'schedule/learning_rate'} <= names
  assert {'time/steps_per_second', 'time/step', 'time/data_wait', 'time/checkpoint', 'val/fused/SumR'} <= names
  assert {'memory/host_peak', 'compile/programs', 'compile/seconds'} <= names


def test_training_learns(commands, tmp_path):
  """A student that was trained finds videos that it never saw: by each branch, and by both together."""
  world = {'background': 0.5, 'num_train': 512, 'student_noise': 0.2, 'token_noise': 0.2}
  options = (f'--{name}={value}' for name, value in world.items())
  commands.run('tfds_builders.build', 'synthetic', '--config=small', *options, f'--data_dir={tmp_path / "data"}')
  (name,) = (path.name for path in (tmp_path / 'data' / 'synthetic_prvr').glob('small_*'))
  learning = {
    'data.data_dir': tmp_path / 'data',
    'data.dataset': f'synthetic_prvr/{name}',
    'data.batch_videos': 32,
    'data.packing': False,
    'data.word_sizes': (16,),  # One program to compile.
    'model.hidden': 32,
    'training.epochs': 12,
    'training.checkpoint_every_steps': 0,
    'optimizer.learning_rate': 1e-3,
    'logging.every_steps': 16,
  }
  options = (f'--config.{name}={value}' for name, value in learning.items())
  commands.run(*commands.training(tmp_path / 'run', *options), devices=1)
  metrics = json.loads((tmp_path / 'run' / 'results.json').read_text())['metrics']
  # 254, 171 and 254 were found. By chance it is 150 of 32 videos, with a standard deviation of 9.
  for scorer, least in (('inheritance', 205), ('exploration', 165), ('fused', 205)):
    assert metrics[f'test/{scorer}/SumR'] > least, (scorer, metrics)


@pytest.mark.parametrize('moment', [pytest.param(2, marks=pytest.mark.slow), 7])
def test_killed_and_resumed_gives_the_same_bits(undisturbed, commands, tmp_path, moment):
  process = commands.start(tmp_path)
  wait_until(lambda: max(logged_steps(tmp_path), default=0) >= moment, process)
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()
  assert not (tmp_path / 'results.json').exists()

  output = commands.run(*commands.training(tmp_path))
  assert moment < 4 or 'resumed from the checkpoint of step' in output
  assert_same_end(tmp_path, undisturbed[0])


@pytest.mark.slow
def test_features_that_travel_with_each_batch_give_the_same_bits(undisturbed, commands, tmp_path):
  assert 'stay on the device(s): ' in undisturbed[1]
  assert 'stay on the device' not in commands.run(*commands.training(tmp_path, '--config.data.on_device=False'))
  assert_same_end(tmp_path, undisturbed[0])


def test_run_again_reports_the_same(undisturbed, commands):
  workdir, _ = undisturbed
  before = (workdir / 'results.json').read_text()
  output = commands.run(*commands.training(workdir))
  assert 'resumed from the checkpoint of step 12' in output and '| step ' not in output
  assert (workdir / 'results.json').read_text() == before


def test_evaluation_alone_gives_the_final_numbers(undisturbed, commands):
  workdir, _ = undisturbed
  commands.run(*commands.training(workdir, '--mode=eval', '--split=test'))
  alone = json.loads((workdir / 'eval_test.json').read_text())
  final = json.loads((workdir / 'results.json').read_text())['metrics']
  assert alone == {name: value for name, value in final.items() if name.startswith('test/')}


def test_exported_parameters_evaluate_alike(undisturbed, commands, tmp_path):
  workdir, _ = undisturbed
  file = tmp_path / 'student.safetensors'
  commands.run('dlkd_jax.tools.convert_checkpoint', f'--workdir={workdir}', str(file))
  commands.run(*commands.training(tmp_path, '--mode=eval', f'--params={file}'))
  alone = json.loads((tmp_path / 'eval_test_student.json').read_text())
  final = json.loads((workdir / 'results.json').read_text())['metrics']
  for name, value in alone.items():
    assert value == final[name], name


def test_an_evaluation_takes_its_settings_from_the_run(undisturbed, commands, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(undisturbed[0], workdir)
  final = json.loads((workdir / 'results.json').read_text())['metrics']
  evaluate = ('dlkd_jax.main', '--mode=eval', f'--workdir={workdir}')
  recipe = '--config=configs/charades.py'  # Of another data set and another size.
  for arguments in ((), (recipe, '--config.evaluation.block_videos=5')):
    output = commands.run(*evaluate, *arguments)
    alone = json.loads((workdir / 'eval_test.json').read_text())
    assert alone == {name: value for name, value in final.items() if name.startswith('test/')}
    assert ('evaluated with another evaluation.block_videos: 32 → 5' in output) == bool(arguments)
  for heads in (1, 2):
    done = commands.try_to(*evaluate, recipe, f'--config.model.heads={heads}')
    assert done.returncode == 1 and f'model.heads: 4 → {heads}' in done.stderr and 'Traceback' not in done.stderr
  commands.run(*evaluate, recipe, '--config.evaluation.weights=(1.0,0.0)')
  other = json.loads((workdir / 'eval_test_weights=1.0-0.0.json').read_text())
  assert other['test/fused/SumR'] == alone['test/inheritance/SumR']
  commands.run(*evaluate, recipe, '--config.evaluation.weights=(0.0,0.0,1.0)')
  other = json.loads((workdir / 'eval_test_weights=0.0-0.0-1.0.json').read_text())
  assert other['test/fused/SumR'] == alone['test/teacher/SumR']
  assert json.loads((workdir / 'eval_test.json').read_text()) == alone


def test_weights_are_found_behind_the_training(commands, tmp_path):
  arguments = commands.training(tmp_path, '--config.evaluation.weights=()')
  output = commands.run(*arguments)
  (line,) = (line for line in output.splitlines() if 'prefer weights ' in line)
  weights = json.loads((tmp_path / 'config.json').read_text())['evaluation']['weights']
  assert ', teacher ' in line and weights[2] > 0.5  # The teacher of this world is good, the student has seen little.
  results = json.loads((tmp_path / 'results.json').read_text())['metrics']
  assert results['test/fused/SumR'] > results['test/teacher/SumR'] - 5 > results['test/inheritance/SumR']


def test_a_bug_keeps_its_traceback(commands, tmp_path):
  code = (
    'import runpy\n'
    'from dlkd_jax.training import objective\n'
    'def broken(*_, **__):\n'
    "  raise ValueError('shapes (3,) and (4,)')\n"
    'objective.total_loss = broken\n'
    "runpy.run_module('dlkd_jax.main', run_name='__main__', alter_sys=True)\n"
  )
  options = commands.options(*commands.training(tmp_path))
  options['args'][1:3] = ['-c', code]
  done = subprocess.run(**options, capture_output=True, check=False)
  assert done.returncode == 1 and 'in broken' in done.stderr
  assert 'ValueError: shapes (3,) and (4,)' in done.stderr


def test_another_configuration_is_refused(undisturbed, commands):
  workdir, _ = undisturbed
  arguments = commands.training(workdir, '--config.loss.margin=0.3')
  done = commands.try_to(*arguments)
  assert done.returncode == 1
  assert 'loss.margin: 0.1 → 0.3' in done.stderr and 'Traceback' not in done.stderr


def test_missing_data_set_says_how_to_build_it(commands, tmp_path):
  done = commands.try_to(*commands.training(tmp_path / 'run', f'--config.data.data_dir={tmp_path}'))
  assert done.returncode == 1
  assert 'dlkd build synthetic' in done.stderr and 'Traceback' not in done.stderr
  assert not (tmp_path / 'run').exists()


def test_nan_stops_the_run_and_keeps_the_last_checkpoint(single, tmp_path):
  arguments = single.training(tmp_path, '--config.optimizer.learning_rate=1e30', '--config.optimizer.warmup=0.4')
  done = single.try_to(*arguments)
  assert done.returncode == 1
  assert 'became NaN or infinite' in done.stderr and 'Traceback' not in done.stderr
  if (tmp_path / 'checkpoints').exists() and any((tmp_path / 'checkpoints').iterdir()):
    params, _ = read_best(tmp_path)
    assert all(np.isfinite(x).all() for branch in params.values() for x in _leaves(branch))


def _leaves(tree):
  return [x for value in tree.values() for x in (_leaves(value) if isinstance(value, dict) else [np.asarray(value)])]
