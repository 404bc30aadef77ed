"""Requests to stop: noted, not obeyed at once, and nothing worse when repeated. Several processes: `test_cluster`."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dlkd_jax.training import shutdown
from tests.paths import repository


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, shutdown.STOPPED), (signal.SIGINT, shutdown.INTERRUPTED)]
)
def test_a_signal_is_noted(number, code):
  before = signal.getsignal(number)
  with shutdown.StopRequest() as stop:
    assert not stop() and not stop.answer(stop.ask())
    for again in (number, signal.SIGTERM, signal.SIGTERM):
      os.kill(os.getpid(), again)
    assert stop() and stop.answer(stop.ask())
    assert stop.signal == number and stop.code == code
    error = stop.stopped('at step 3')
    assert error.code == code and str(error) == f'stopped on request ({signal.Signals(number).name}) at step 3'
  assert signal.getsignal(number) is before


def test_a_signal_between_question_and_answer_counts():
  with shutdown.StopRequest() as stop:
    question = stop.ask()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.answer(question)


def test_a_second_interrupt_is_obeyed_where_the_program_is():
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt, match='second Ctrl-C'), shutdown.StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop()
    os.kill(os.getpid(), signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is before and signal.set_wakeup_fd(-1) == -1


# A lock taken twice waits where no step of Python is made, as a compilation does; ctypes lets other threads run, too.
WAITING = """
import ctypes, sys
from dlkd_jax.training import shutdown
library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
library.pthread_mutex_lock(lock)
wait = {'library': lambda: library.pthread_mutex_lock(lock), 'python': lambda: [None for _ in iter(int, 1)]}
with shutdown.StopRequest():
  print('here', flush=True)
  try:
    wait[sys.argv[1]]()
  except KeyboardInterrupt as error:
    print(error, file=sys.stderr)
    sys.exit(130)
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


def test_codes_are_distinct():
  assert len({0, 1, 2, shutdown.STOPPED, shutdown.INTERRUPTED}) == 5
