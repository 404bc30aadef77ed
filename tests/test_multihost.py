"""Several processes: finding each other, signals, agreeing to stop, failing together, and sharing a checkpoint."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dlkd_jax import multihost, sharding
from dlkd_jax.errors import UserError
from dlkd_jax.training.checkpoints import Checkpoints
from tests import forked
from tests.environment import environment
from tests.paths import repository
from tests.two_processes import STATE, place


def play(scene, folder, timeout=150):
  """Runs a scene in two processes of two virtual devices; returns their (exit codes, standard errors)."""
  with socket.socket() as listening:
    listening.bind(('localhost', 0))
    port = listening.getsockname()[1]
  join = (scene, f'localhost:{port}')
  processes = [
    forked.start('tests.two_processes', (*join, i, folder), environment(devices=2), repository()) for i in range(2)
  ]
  errors = [process.communicate(timeout=timeout)[1] for process in processes]
  return [process.returncode for process in processes], errors


def notes(folder):
  return [json.loads((folder / f'{i}.json').read_text()) for i in range(2)]


@pytest.mark.parametrize(
  ('variables', 'expected'),
  [
    ({}, False),
    ({'SLURM_JOB_ID': '5', 'SLURM_NTASKS': '4'}, False),  # A shell in an allocation, not a step of four tasks.
    ({'SLURM_JOB_ID': '5', 'SLURM_STEP_NUM_TASKS': '4'}, True),
    ({'SLURM_STEP_NUM_TASKS': '1'}, False),
    ({'SLURM_STEP_NUM_TASKS': 'unknown'}, False),  # No number: JAX could not find its way by it.
    ({'OMPI_COMM_WORLD_SIZE': '2'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
    ({'MEGASCALE_NUM_SLICES': '2'}, True),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, True),
  ],
)
def test_evident_clusters(variables, expected):
  assert multihost.evident(variables) is expected


def test_a_lone_machine_needs_nothing():
  multihost.initialize()  # JAX is in use already: it would raise if it did anything.
  assert multihost.alone() and multihost.is_main()
  assert multihost.on_main(lambda: 5) == 5
  with pytest.raises(ZeroDivisionError):
    multihost.on_main(lambda: 1 / 0)


def test_several_processes_that_nothing_joined_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  monkeypatch.setattr(multihost, 'evident', lambda variables: False)
  with pytest.raises(UserError, match='one of 4 processes that nothing has joined; start each of them with --distr'):
    multihost.initialize()


def test_a_cluster_that_is_not_there_is_explained():
  code = 'from dlkd_jax import multihost; multihost.initialize(num_processes=2)'
  variables = dict(os.environ, JAX_PLATFORMS='cpu', TPU_SKIP_MDS_QUERY='1')
  done = subprocess.run([sys.executable, '-c', code], env=variables, cwd=repository(), capture_output=True, text=True)
  assert 'UserError: the processes of the run could not be joined' in done.stderr
  assert '--coordinator_address=HOST:PORT' in done.stderr


def test_processes_stop_at_the_same_step(tmp_path):
  codes, errors = play('stop', tmp_path)
  assert codes == [75, 75], errors
  one, other = notes(tmp_path)
  assert one['step'] == other['step'] >= 50
  assert one['questions'] == other['questions'] < one['step'] / 2  # Steps between them wait for nothing.
  assert (one['signal'], other['signal']) == (None, 'SIGTERM')
  assert 'stopped on request' in errors[0] and 'stopped on request' not in errors[1]


def test_a_failure_of_the_main_process_is_known_to_all(tmp_path):
  codes, errors = play('main_fails', tmp_path)
  assert codes == [0, 0], errors
  assert notes(tmp_path) == ['no room', 'process 0 failed; its message says why.']


@pytest.mark.slow  # It waits for the heartbeat to fail.
def test_one_process_that_fails_does_not_leave_the_other_waiting(tmp_path):
  start = time.monotonic()
  codes, errors = play('one_dies', tmp_path)
  assert codes[1] == 1 and '[process 1] error: bad features' in errors[1]
  assert codes[0] != 0, errors[0]
  assert time.monotonic() - start < 120


def test_a_checkpoint_of_two_processes_opens_in_one(tmp_path):
  codes, errors = play('checkpoint', tmp_path)
  assert codes == [0, 0], errors
  failed, told = notes(tmp_path)
  assert 'step 8 could not be written' in failed and 'the newest whole one is of step 7' in failed
  assert told == 'process 0 failed; its message says why.'
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['7', '8.partial']

  checkpoints = Checkpoints(tmp_path)
  for devices, model in ((1, 1), (8, 1), (8, 4)):
    like = place(STATE, sharding.make_mesh(jax.devices()[:devices], model=model))
    restored, progress = checkpoints.restore(checkpoints.newest_whole(), like)
    jax.tree.map(np.testing.assert_array_equal, restored, STATE)
    assert restored.params['large'].sharding == like.params['large'].sharding
    assert progress.iterator == {'batches': 7}


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, multihost.STOPPED), (signal.SIGINT, multihost.INTERRUPTED)]
)
def test_a_signal_is_noted(number, code):
  before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
  with multihost.StopRequest() as stop:
    assert not stop.agreed(0)
    for again in (number, signal.SIGTERM, signal.SIGTERM):
      os.kill(os.getpid(), again)
    assert stop.agreed(0) and stop.agreed(1)
    assert stop.signal == number and stop.code == code
    name = signal.Signals(number).name
    assert stop.describe(multihost.Stopped('at step 3')) == f'stopped on request ({name}) at step 3'
  assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
  os.kill(os.getpid(), signal.SIGTERM)  # The process would be leaving now.
  assert stop.signal == number
  signal.signal(signal.SIGTERM, before[signal.SIGTERM])
  with multihost.StopRequest():
    pass
  assert all(signal.getsignal(each) is handler for each, handler in before.items())


# A lock taken twice waits where no step of Python is made, as a compilation does; ctypes lets other threads run, too.
WAITING = """
import ctypes, sys
from dlkd_jax import multihost
library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
library.pthread_mutex_lock(lock)
wait = {'library': lambda: library.pthread_mutex_lock(lock), 'python': lambda: [None for _ in iter(int, 1)]}
with multihost.StopRequest():
  print('here', flush=True)
  wait[sys.argv[1]]()
"""


@pytest.mark.parametrize('where', ['library', 'python'])
def test_a_second_interrupt_ends_the_process_at_once(where):
  process = subprocess.Popen(
    [sys.executable, '-c', WAITING, where],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=repository(),
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )
  assert process.stdout.readline() == 'here\n'
  for number in (signal.SIGTERM, signal.SIGINT):
    process.send_signal(number)
    time.sleep(0.5)
  assert process.poll() is None
  started = time.monotonic()
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=25)
  assert process.returncode == 130 and 'second Ctrl-C' in error
  assert time.monotonic() - started < 15


def test_one_process_polls_before_each_item():
  handled, polls = [], iter([False, False, True])
  with pytest.raises(multihost.Stopped, match='in the evaluation, after 2 things'):
    processes = multihost.Processes(sharding.make_mesh())
    processes.run('abc', handled.append, lambda: next(polls), lambda: f'{len(handled)} things')
  assert handled == ['a', 'b']


def test_one_process_gathers_from_itself():
  processes = multihost.Processes(sharding.make_mesh())
  assert processes.gather({'ids': ['é']}) == [{'ids': ['é']}]
  array = np.arange(6).reshape(3, 2)
  np.testing.assert_array_equal(processes.gather_rows(array), array)
  assert multihost.all_reduce_max(0.5, True) == [0.5, 1]


@pytest.mark.parametrize(('index', 'expected'), [(0, 'hello\n'), (1, '')])
def test_only_the_first_process_logs(monkeypatch, capsys, index, expected):
  monkeypatch.setattr(jax, 'process_index', lambda: index)
  multihost.log('hello')
  assert capsys.readouterr().out == expected


@pytest.mark.parametrize(('items', 'questions'), [(0, 2), (3, 2), (8, 3), (20, 4)])
def test_several_processes_agree_every_few_items(monkeypatch, items, questions):
  asked, handled = [], []
  processes = multihost.Processes(sharding.make_mesh())
  processes.several = True
  monkeypatch.setattr(multihost.multihost_utils, 'process_allgather', lambda x: asked.append(x) or np.asarray([x]))
  processes.run(range(items), handled.append, lambda: False, str)
  assert handled == [*range(items)] and len(asked) == questions


def test_what_failed_among_several_is_raised_once_they_agreed(monkeypatch):
  handled = []
  processes = multihost.Processes(sharding.make_mesh())
  processes.several = True
  monkeypatch.setattr(multihost.multihost_utils, 'process_allgather', lambda x: np.asarray([x]))
  monkeypatch.setattr(processes, 'gather', lambda value: [value])

  def handle(item):
    handled.append(item)
    if item == 2:
      raise ValueError('the third')

  with pytest.raises(ValueError, match='the third'):
    processes.run(range(20), handle, lambda: False, str)
  assert handled == [0, 1, 2]
