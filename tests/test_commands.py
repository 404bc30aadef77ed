"""The program `dlkd`: its commands, its help, and how it is called."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

import dlkd_jax
from dlkd_jax import command_help, commands, doors
from tests.environment import environment
from tests.paths import repository


def call(*arguments, code=0, start=('-m', 'dlkd_jax'), **more):
  """Runs the program in a process of its own; returns what it printed."""
  done = subprocess.run(
    [sys.executable, *start, *arguments], env=environment(), cwd=repository(), capture_output=True, text=True, **more
  )
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout if code == 0 else done.stderr


def test_the_help_names_every_command_at_once():
  code = 'import sys; from dlkd_jax.__main__ import main\nif 1:\n try: main()\n finally: print("absl" in sys.modules)'
  said = call('--help', start=('-c', code))
  assert all(f'  {name} ' in said for name in commands.COMMANDS)
  assert said.endswith('\nFalse\n') and said.count('\n') <= command_help.SCREEN
  assert call() == call('-h')


def test_every_command_is_a_module():
  for module, what in commands.COMMANDS.values():
    assert importlib.util.find_spec(module.split()[0]) is not None and what[0].islower()


def test_version():
  assert call('--version') == f'dlkd {dlkd_jax.__version__}\n'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['serach'], "there is no command 'serach'; did you mean search?"),
    (['xyz'], "there is no command 'xyz'; python -m dlkd_jax --help lists them"),
    (['--index=x', 'search'], "there is no command '--index=x'; python -m dlkd_jax --help lists them"),
    (['demo', 'films'], 'unexpected arguments: films; --help shows what there is'),
    (['info', '--prune'], '--prune means nothing to info; it is of add'),
    (['search', '--momets=3'], "Unknown command line flag 'momets'. Did you mean: moments ?"),
  ],
)
def test_what_was_mistyped_is_one_line(arguments, message):
  assert call(*arguments, code=1) == f'error: {message}\n'


@pytest.mark.parametrize(
  ('start', 'written'),
  [
    (('-m', 'dlkd_jax', 'remove'), 'python -m dlkd_jax remove lake.mp4'),
    (('-m', 'dlkd_jax.index', 'remove'), 'python -m dlkd_jax.index remove lake.mp4'),
    (('/usr/local/bin/dlkd', 'remove'), 'dlkd remove lake.mp4'),
  ],
)
def test_examples_are_written_as_the_program_was_called(start, written):
  if start[0].endswith('dlkd'):  # The console script; a test needs no installation.
    code = f'import sys; sys.argv[:1] = {list(start)}; from dlkd_jax.__main__ import main; main()'
    start = ('-c', code)
  said = call('--help', start=start)
  assert f'\n  {written} ' in said and '--compact' in said and '--prune' not in said
  assert said.startswith('Takes films out of an index.\n')


_PIPE = '--captions=captions'


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, doors.TERMINATED), (signal.SIGINT, doors.INTERRUPTED)])
def test_stopped(number, code, tmp_path):
  """An extraction waits for a pipe that nobody writes to."""
  os.mkfifo(tmp_path / 'captions')
  with (
    subprocess.Popen(
      [sys.executable, '-m', 'dlkd_jax', 'extract', '--videos=.', '--data_dir=data', '--teacher=none', _PIPE],
      cwd=tmp_path,
      env=environment(),
      stderr=subprocess.PIPE,
      text=True,
    ) as process,
    open(tmp_path / 'captions', 'w'),
  ):  # Opened as soon as it is read.
    process.send_signal(number)
    if number == signal.SIGTERM:
      time.sleep(0.02)
      process.send_signal(number)  # While it leaves: it changes nothing.
    assert process.stderr.read() == 'stopped: what is extracted is kept; the same command goes on\n'
  assert process.returncode == code
