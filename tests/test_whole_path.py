"""The whole path as a user walks it: build → train → kill → resume → evaluate, each as a command of its own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dlkd_jax.training.checkpoints import Checkpoints, read_best
from tests.paths import repository

# A small student and few steps, on two virtual devices. Checkpoints come in the middle of epochs, too.
SMALL = (
  '--config.data.dataset=synthetic_prvr/small',
  '--config.data.batch_videos=16',
  '--config.data.caption_sizes=(48,)',
  '--config.model.hidden=16',
  '--config.training.epochs=3',
  '--config.training.checkpoint_every_steps=3',
  '--config.logging.every_steps=1',
)


def command(module, *arguments):
  environment = dict(os.environ, XLA_FLAGS='--xla_force_host_platform_device_count=2', JAX_PLATFORMS='cpu')
  return {'args': [sys.executable, '-m', module, *arguments], 'env': environment, 'cwd': repository(), 'text': True}


def run(module, *arguments):
  done = subprocess.run(**command(module, *arguments), capture_output=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def training(data_dir, workdir, *more):
  where = (f'--config.data.data_dir={data_dir}', f'--workdir={workdir}')
  return ('dlkd_jax.main', '--config=configs/demo.py', *SMALL, *where, *more)


def logged_steps(workdir):
  path = workdir / 'metrics.jsonl'
  if not path.exists():
    return []
  lines = path.read_text().splitlines()
  return [json.loads(line)['step'] for line in lines if line.endswith('}')]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  run('tfds_builders.build', 'synthetic', '--config=small', f'--data_dir={folder}')
  return folder


@pytest.fixture(scope='module')
def undisturbed(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed')
  return workdir, run(*training(data_dir, workdir))


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
  records = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  steps = [record['step'] for record in records if 'loss/total' in record]
  assert steps == list(range(1, 13))  # 64 videos, 16 a batch, 3 epochs.
  names = set().union(*records)
  assert {'loss/total', 'norm/gradient', 'norm/parameters', 'schedule/alpha', 'schedule/learning_rate'} <= names
  assert {'time/steps_per_second', 'time/data_wait', 'val/fused/SumR'} <= names


def test_training_learns(undisturbed):
  records = [json.loads(line) for line in (undisturbed[0] / 'metrics.jsonl').read_text().splitlines()]
  losses = [record['loss/total'] for record in records if 'loss/total' in record]
  assert np.mean(losses[-4:]) < 0.9 * losses[0]


@pytest.mark.parametrize('moment', [2, 7])
def test_killed_and_resumed_gives_the_same_bits(undisturbed, data_dir, tmp_path, moment):
  expected = undisturbed[0]
  process = subprocess.Popen(
    **command(*training(data_dir, tmp_path)), stdout=subprocess.DEVNULL, start_new_session=True
  )
  deadline = time.monotonic() + 120
  while max(logged_steps(tmp_path), default=0) < moment:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert not (tmp_path / 'results.json').exists()

  output = run(*training(data_dir, tmp_path))
  assert moment < 4 or 'resumed from the checkpoint of step' in output
  assert (tmp_path / 'results.json').read_text() == (expected / 'results.json').read_text()
  with Checkpoints(expected, read_only=True) as one, Checkpoints(tmp_path, read_only=True) as other:
    assert one.latest_step == other.latest_step == 12
    assert_same_bits(one.restore_params(12), other.restore_params(12))
  assert logged_steps(tmp_path) == logged_steps(expected)


def assert_same_bits(one, other):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True), one, other)


def test_run_again_reports_the_same(undisturbed, data_dir):
  workdir, _ = undisturbed
  before = (workdir / 'results.json').read_text()
  output = run(*training(data_dir, workdir))
  assert 'resumed from the checkpoint of step 12' in output and '| step ' not in output
  assert (workdir / 'results.json').read_text() == before


def test_evaluation_alone_gives_the_final_numbers(undisturbed, data_dir):
  workdir, _ = undisturbed
  run(*training(data_dir, workdir, '--mode=eval', '--split=test'))
  alone = json.loads((workdir / 'eval_test.json').read_text())
  final = json.loads((workdir / 'results.json').read_text())['metrics']
  assert alone == {name: value for name, value in final.items() if name.startswith('test/')}


def test_exported_parameters_evaluate_alike(undisturbed, data_dir, tmp_path):
  workdir, _ = undisturbed
  file = tmp_path / 'student.safetensors'
  run('dlkd_jax.tools.convert_checkpoint', f'--workdir={workdir}', str(file))
  run(*training(data_dir, tmp_path, '--mode=eval', f'--params={file}'))
  alone = json.loads((tmp_path / 'eval_test_student.json').read_text())
  final = json.loads((workdir / 'results.json').read_text())['metrics']
  for name, value in alone.items():
    assert value == final[name], name


def test_another_configuration_is_refused(undisturbed, data_dir):
  workdir, _ = undisturbed
  arguments = training(data_dir, workdir, '--config.loss.margin=0.3')
  done = subprocess.run(**command(*arguments), capture_output=True, check=False)
  assert done.returncode == 1
  assert 'loss.margin: 0.1 → 0.3' in done.stderr and 'Traceback' not in done.stderr


def test_missing_data_set_says_how_to_build_it(tmp_path):
  done = subprocess.run(**command(*training(tmp_path, tmp_path / 'run')), capture_output=True, check=False)
  assert done.returncode == 1
  assert 'python -m tfds_builders.build synthetic' in done.stderr and 'Traceback' not in done.stderr
  assert not (tmp_path / 'run').exists()


def test_nan_stops_the_run_and_keeps_the_last_checkpoint(undisturbed, data_dir, tmp_path):
  arguments = training(data_dir, tmp_path, '--config.optimizer.learning_rate=1e30', '--config.optimizer.warmup=0.4')
  done = subprocess.run(**command(*arguments), capture_output=True, check=False)
  assert done.returncode == 1
  assert 'became NaN or infinite' in done.stderr and 'Traceback' not in done.stderr
  if (tmp_path / 'checkpoints').exists() and any((tmp_path / 'checkpoints').iterdir()):
    params, _ = read_best(tmp_path)
    assert all(np.isfinite(x).all() for branch in params.values() for x in _leaves(branch))


def test_training_stops_when_validation_does_not_improve(data_dir, tmp_path):
  still = ('--config.optimizer.learning_rate=1e-12', '--config.training.epochs=9', '--config.training.patience=2')
  run(*training(data_dir, tmp_path, *still))
  results = json.loads((tmp_path / 'results.json').read_text())
  assert (results['best_epoch'], results['epochs']) == (1, 3)


def _leaves(tree):
  return [x for value in tree.values() for x in (_leaves(value) if isinstance(value, dict) else [np.asarray(value)])]


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
"""


def test_neither_tensorflow_nor_torch_is_imported(data_dir, tmp_path):
  arguments = command(*training(data_dir, tmp_path, '--config.training.epochs=1'))
  arguments['args'][1:2] = ['-c', WATCH]
  done = subprocess.run(**arguments, capture_output=True, check=False)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
  assert (pathlib.Path(tmp_path) / 'results.json').exists()
