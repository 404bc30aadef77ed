"""Commands as a user gives them, each a process of its own, on a tiny synthetic data set."""

import fcntl
import json
import os
import pathlib
import socket
import sys
import time

import jax
import numpy as np
import pytest

from dlkd_jax.training.checkpoints import Checkpoints
from tests import forked
from tests.environment import environment
from tests.paths import repository

# A small student and few steps, on two virtual devices. Checkpoints come in the middle of epochs, too: 64 training
# videos make 4 steps an epoch.
SMALL = (
  '--config.data.dataset=synthetic_prvr/small',
  '--config.data.batch_videos=16',
  '--config.model.hidden=16',
  '--config.training.epochs=3',
  '--config.training.checkpoint_every_steps=3',
  '--config.logging.every_steps=1',
  '--config.data.row_words=60',  # One shape of batches, so one program of the step.
)


# One branch without a teacher compiles sooner. The mean of the parameters is a part of what is saved.
SINGLE = ('configs/synthetic.py:single,no_teacher', '--config.training.average=0.8')


class Commands:
  """Runs commands that share a data set below one folder.

  What is compiled is kept for a session of tests. Runs of one recipe that differ in nothing that the program of a step
  has in it (sizes, rates, the number of epochs, devices) compile it once.
  """

  def __init__(self, folder: pathlib.Path, recipe: str = 'configs/synthetic.py', *options: str):
    """Builds the data set where it is absent; trainings are of a recipe, with options."""
    self.folder, self.recipe, self._options = folder, recipe, options
    self.data_dir = folder / 'data'
    with open(folder / 'lock', 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not self.data_dir.exists():
        self.run('tfds_builders.build', 'synthetic', '--config=small', f'--data_dir={self.data_dir}')

  def options(self, module, *arguments, devices=2):
    """Arguments of `subprocess.run` and `Popen`."""
    command = [sys.executable, '-m', module, *arguments]
    return {'args': command, 'env': environment(devices), 'cwd': repository(), 'text': True}

  def try_to(self, module, *arguments, **more):
    """Runs a command to its end, whatever that is."""
    options = self.options(module, *arguments, **more)
    return forked.run(module, arguments, options['env'], options['cwd'])

  def run(self, module, *arguments, **more):
    """Runs a command that must succeed; returns what it printed."""
    done = self.try_to(module, *arguments, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  def training(self, workdir, *more):
    """The module and the arguments of a small training."""
    where = (f'--config.data.data_dir={self.data_dir}', f'--workdir={workdir}')
    return ('dlkd_jax.main', f'--config={self.recipe}', *SMALL, *self._options, *where, *more)

  def start(self, workdir, *more):
    """Starts a training in a session of its own."""
    module, *arguments = self.training(workdir, *more)
    options = self.options(module, *arguments)
    return forked.start(module, arguments, options['env'], options['cwd'])

  def start_two(self, workdir, *more):
    """Starts a training in two processes of two devices each."""
    with socket.socket() as listening:
      listening.bind(('localhost', 0))
      address = f'localhost:{listening.getsockname()[1]}'
    join = (f'--coordinator_address={address}', '--num_processes=2')
    return [self.start(workdir, *more, *join, f'--process_id={i}') for i in range(2)]


def shared_folder(tmp_path_factory):
  """The folder of the data set, one for all processes that share the tests."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  folder /= 'runs'
  folder.mkdir(exist_ok=True)
  return folder


def records(workdir):
  """The whole lines of the log, as far as there is one."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith('}')]


def logged_steps(workdir):
  """The steps of the log, those of evaluations negative, in their order."""
  return [record['step'] * (1 if 'loss/total' in record else -1) for record in records(workdir)]


def wait_until(condition, process, seconds=200):
  """Waits for a condition while a process runs."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.005)


def assert_same_end(one, other):
  """Asserts that two finished runs have the same results, parameters to the bit, progress, and steps logged."""
  assert (one / 'results.json').read_text() == (other / 'results.json').read_text()
  a, b = Checkpoints(one, read_only=True), Checkpoints(other, read_only=True)
  assert a.newest_whole() == b.newest_whole() and a.best_whole() == b.best_whole()
  assert a.progress(a.newest_whole()) == b.progress(b.newest_whole())
  assert_same_bits(a.restore_params(a.newest_whole()), b.restore_params(b.newest_whole()))
  assert logged_steps(one) == logged_steps(other)


def assert_same_bits(one, other):
  """Asserts that two trees of arrays are equal."""
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True), one, other)


@pytest.fixture(scope='module')
def commands(tmp_path_factory):
  """Commands over the data set that all modules of a session share."""
  return Commands(shared_folder(tmp_path_factory))
