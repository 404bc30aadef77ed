"""Commands that start with the libraries imported: each is a fork of one process that has imported them.

Most of the time of a short command is imports. A fork spares them and is otherwise what a user starts: a process and a
session of its own, with its arguments, environment, output, signals and exit code.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile

from dlkd_jax import doors
from tests.paths import repository

# No command's own module: a module that runs as a program was not imported before.
IMPORTED = ('dlkd_jax.training.train', 'dlkd_jax.gallery.building', 'dlkd_jax.gallery.gallery', 'tensorflow_datasets')


class Forks:
  """The process with the imports; `start` makes a fork of it that runs a command."""

  def __init__(self, environment: dict[str, str]):
    """Starts it; JAX reads its own variables (JAX_…) here, all others are those of each command."""
    self._folder = tempfile.TemporaryDirectory()
    self._address = os.path.join(self._folder.name, 'address')
    command = [sys.executable, '-m', 'tests.forked', self._address]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    self._server = subprocess.Popen(command, cwd=repository(), env=environment, **pipes)
    assert self._server.stdout.readline() == b'ready\n'

  def start(self, module: str, arguments: tuple, env: dict[str, str], cwd: pathlib.Path, given: str = '') -> 'Fork':
    """Starts a module with arguments, as `python -m` does; `given` is its standard input."""
    folder = tempfile.mkdtemp(dir=self._folder.name)
    pathlib.Path(folder, 'in').write_text(given)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(self._address)
    asked = {'args': [module, *map(str, arguments)], 'env': env, 'cwd': str(cwd), 'folder': folder}
    connection.sendall(json.dumps(asked).encode() + b'\n')
    return Fork(connection, pathlib.Path(folder))

  def close(self):
    """Ends the process; commands that run go on."""
    self._server.communicate()
    self._folder.cleanup()


class Fork:
  """A command that was started; as `subprocess.Popen` with text in pipes, as far as it goes."""

  def __init__(self, connection: socket.socket, folder: pathlib.Path):
    self._answers, self._folder, self.returncode = connection.makefile(), folder, None
    self.pid = int(self._answers.readline())

  def poll(self) -> int | None:
    """Returns the exit code, negative for a signal, or None while the command runs."""
    if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
      self.returncode = int(self._answers.readline())
      self._answers.close()
    return self.returncode

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    """Waits for the end; returns standard output and standard error."""
    if self.poll() is None:
      if not select.select([self._answers], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired(str(self.pid), timeout)
      self.poll()
    return tuple((self._folder / name).read_text() for name in ('out', 'err'))

  def send_signal(self, number: int):
    """Sends a signal, unless the command has ended."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self):
    """Kills the command."""
    self.send_signal(signal.SIGKILL)


@functools.cache
def _forks(variables: frozenset) -> Forks:
  """One for each value of the variables that are read when a library is imported."""
  others = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
  made = Forks(others | dict(variables))
  atexit.register(made.close)
  return made


def start(module: str, arguments: tuple, env: dict[str, str], cwd: pathlib.Path, given: str = '') -> Fork:
  """Starts a module with arguments, as `python -m` does; `given` is its standard input."""
  variables = frozenset((name, value) for name, value in env.items() if name.startswith('JAX_'))
  return _forks(variables).start(module, arguments, env, cwd, given)


def run(module: str, arguments: tuple, env: dict[str, str], cwd: pathlib.Path, given: str = ''):
  """Runs a module to its end; returns what `subprocess.run` does."""
  fork = start(module, arguments, env, cwd, given)
  out, error = fork.communicate()
  return subprocess.CompletedProcess([module, *arguments], fork.returncode, out, error)


def _become(connection: socket.socket, asked: dict):
  """Makes of a fork what `python -m` would make of a new process, and says that it is there."""
  signal.set_wakeup_fd(-1)
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  os.setsid()
  for number, name in enumerate(('in', 'out', 'err')):
    os.dup2(os.open(os.path.join(asked['folder'], name), os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
  os.environ.clear()
  os.environ.update(asked['env'])
  os.chdir(asked['cwd'])
  sys.argv = asked['args']
  connection.sendall(f'{os.getpid()}\n'.encode())
  runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)


def _serve(address: str):
  """Answers each connection with the id of a fork, and with its exit code once it has ended."""
  for name in IMPORTED:
    importlib.import_module(name)
  gc.collect()
  gc.freeze()
  doors.collect_seldom()
  listening = socket.socket(socket.AF_UNIX)
  listening.bind(address)
  listening.listen(64)
  woken, waking = socket.socketpair()
  waking.setblocking(False)
  woken.setblocking(False)
  signal.set_wakeup_fd(waking.fileno())
  signal.signal(signal.SIGCHLD, lambda *_: None)
  print('ready', flush=True)
  running = {}
  while True:
    ready = select.select([listening, woken, sys.stdin], [], [])[0]
    if sys.stdin in ready:
      return None  # Who started it has ended, in whatever way.
    if woken in ready:
      woken.recv(4096)
      for pid in list(running):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
          with contextlib.suppress(OSError):  # Nobody waits for it any more.
            running.pop(pid).sendall(f'{os.waitstatus_to_exitcode(status)}\n'.encode())
    if listening in ready:
      connection = listening.accept()[0]
      with connection.makefile() as lines:
        asked = json.loads(lines.readline())
      pid = os.fork()
      if pid == 0:
        return _become(connection, asked)  # Whose end is that of a program, exit handlers and all.
      running[pid] = connection


if __name__ == '__main__':
  _serve(sys.argv[1])
