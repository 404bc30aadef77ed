"""Several processes as one: joining them, agreeing, what only the first one does, signals, and exiting together.

A lone process needs none of this: every function is then free of cost and of effect.

SIGTERM and the first SIGINT are noted when they come, and obeyed where nothing is half done. A second Ctrl-C ends the
process at once, as a kill would.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dlkd_jax.errors import UserError

STOPPED = 75  # Exit code of a run that was asked to stop: "temporary failure, try again" (EX_TEMPFAIL).
INTERRUPTED = 130  # Exit code after Ctrl-C, as shells have it.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ENDED = 'ended at once by a second Ctrl-C; the same command goes on from the newest checkpoint'
_HEARTBEAT_SECONDS = 60  # A process that was silent for so long is taken for dead, and the others end.
# Several processes ask one another whether to stop so often, but every so many steps at least, if steps grow slower.
_POLL_SECONDS, _POLL_STEPS = 1.0, 50
_RUNNING, _DONE, _STOPPED, _FAILED = range(4)
_T = TypeVar('_T')


class OtherProcessError(UserError):
  """Another process of the run failed; its own message says why."""


class Stopped(Exception):
  """What was asked to stop did so; the message says where, and what the same command will do."""


def evident(environment: Mapping[str, str]) -> bool:
  """Whether the environment names a cluster of several processes that JAX finds its way in.

  That is a step of SLURM or a call of mpirun with several tasks, a TPU slice of several workers, several slices, or
  JAX's own `JAX_COORDINATOR_ADDRESS`. Some TPU pods do not tell; there --distributed asks for it.
  """

  counts = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES')
  numbers = [environment.get(name, '') for name in counts]
  several = any(text.isdigit() and int(text) > 1 for text in numbers)
  hosts = ('TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES')
  return several or any(',' in environment.get(name, '') for name in hosts) or 'JAX_COORDINATOR_ADDRESS' in environment


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  distributed: bool = False,
) -> None:
  """Joins the processes of a run, where several are asked for or evident; must come before any other use of JAX.

  What is not given is found out, with `distributed` even where no cluster is evident. An address is that of process 0,
  as `10.0.0.1:1234`.

  Raises:
    UserError: they could not be joined; or they were not to be, and are several all the same.
  """
  given = [x for x in (coordinator_address, num_processes, process_id) if x is not None]
  if not (given or distributed or evident(os.environ)):
    if jax.process_count() > 1:
      raise UserError(
        f'this is one of {jax.process_count()} processes that nothing has joined; start each of them with --distributed'
      )
    return
  # JAX's own watch for SIGTERM would take the place of ours, and knows neither SIGINT nor evaluation.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except Exception as error:
    raise UserError(
      f'the processes of the run could not be joined: {error}\nGive all of --coordinator_address=HOST:PORT, '
      '--num_processes=N and --process_id=0…N-1, or --distributed alone on a TPU pod, in SLURM or under mpirun.'
    ) from error


def alone() -> bool:
  """Whether this is the only process."""
  return jax.process_count() == 1


def is_main() -> bool:
  """Whether this is the process that prints and writes."""
  return jax.process_index() == 0


def log(text: str) -> None:
  """Prints, in the first of several processes alone."""
  if is_main():
    print(text, flush=True)


def on_main(function: Callable[[], int | None]) -> int:
  """Calls a function in process 0 alone; returns its result, a whole number, in all, which wait for it (0 for None).

  Where it raises in process 0, the others raise OtherProcessError.
  """
  if alone():
    return function() or 0
  result, failure = 0, None
  if is_main():
    try:
      result = function() or 0
    except Exception as error:  # Told to the others before it is raised, or they would wait forever.
      failure = error
  result, failed = multihost_utils.broadcast_one_to_all(np.int32([result, failure is not None])).tolist()
  if failed:
    raise failure or OtherProcessError('process 0 failed; its message says why.')
  return result


def all_reduce_max(*values: float) -> list[float]:
  """Returns the largest of each value among the processes."""
  if alone():
    return list(values)
  return np.max(multihost_utils.process_allgather(np.asarray(values, np.float32)), axis=0).tolist()


def exit_alone(message: str, code: int) -> NoReturn:
  """Ends this process with a message and an exit code, wherever the other processes are.

  It goes without waiting for its threads, which may be compiling, or for the farewell of JAX: the others may be waiting
  for this one in the middle of a step, and are ended when it was silent for a minute.
  """
  print(message if alone() else f'[process {jax.process_index()}] {message}', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(code)


def exit_together(message: str, code: int) -> NoReturn:
  """Ends this process with an exit code where all do so; the first one says why."""
  if is_main():
    print(message, file=sys.stderr, flush=True)
  sys.exit(code)


class StopRequest:
  """Whether the run was asked to stop; a context manager that listens for signals, in the main thread.

  Further signals change nothing, what is being saved is saved; only a second Ctrl-C ends the process. Who was asked is
  about to leave, so SIGTERM changes nothing behind the context, either: the process ends with the code that it should.

  Attributes:
    signal: the first that came, or None.
  """

  def __init__(self):
    self.signal: signal.Signals | None = None
    self._asked, self._next = (0, -float('inf')), 0  # Step and time of the last question, step of the next.

  def __enter__(self) -> StopRequest:
    self._former = {number: signal.signal(number, self._note) for number in _SIGNALS}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    self._former_fd, self._writing = signal.set_wakeup_fd(writing, warn_on_full_buffer=False), writing
    threading.Thread(target=_end_at_the_second_interrupt, args=(reading,), daemon=True).start()
    return self

  def __exit__(self, *exception) -> None:
    signal.set_wakeup_fd(self._former_fd)
    os.close(self._writing)  # Which ends the thread.
    for number, handler in self._former.items():
      if number == signal.SIGINT or not self.noted():
        signal.signal(number, handler)

  def _note(self, number: int, _frame) -> None:
    self.signal = self.signal or signal.Signals(number)

  @property
  def code(self) -> int:
    """The exit code to leave with."""
    return INTERRUPTED if self.signal is signal.SIGINT else STOPPED

  def describe(self, stopped: Stopped) -> str:
    """Returns what to say in the end: which signal it was, where it was obeyed, and what the same command will do."""
    return f'stopped on request ({self.signal.name if self.signal else "a signal to another process"}) {stopped}'

  def noted(self) -> bool:
    """Whether this process was asked to stop; the others may not have been."""
    return self.signal is not None

  def agreed(self, step: int) -> bool:
    """Whether any process was asked to stop, the same in all of them at the same step.

    A lone process knows at every step. Several ask one another about once a second, by the slowest one's pace, so that
    the steps between wait for nothing.
    """
    if alone():
      return self.noted()
    if step < self._next:
      return False
    asked, start = self._asked
    stop, seconds = all_reduce_max(self.noted(), (time.monotonic() - start) / max(1, step - asked))
    self._asked = step, time.monotonic()
    self._next = step + int(np.clip(_POLL_SECONDS / seconds, 1, _POLL_STEPS))
    return bool(stop)


def _end_at_the_second_interrupt(reading: int) -> None:
  """Reads the numbers of signals as they come.

  A handler would not do: Python lets it run between two of its own steps only, of which there is none while a program
  is compiled or another process is waited for.
  """
  interrupts = 0
  with os.fdopen(reading, 'rb', buffering=0) as numbers:
    while number := numbers.read(1):
      interrupts += number[0] == signal.SIGINT
      if interrupts > 1:
        print(_ENDED, file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)


class Processes:
  """The processes whose devices form a mesh. All of them make the same calls in the same order.

  Attributes:
    several: whether there is more than one; with one, nothing is sent.
  """

  def __init__(self, mesh: Mesh):
    """Raises ValueError where a mesh has devices of some processes: the others would be waited for in vain."""
    members = {device.process_index for device in mesh.devices.flat}
    self.several = len(members) > 1
    if self.several and len(members) != jax.process_count():
      raise ValueError(f'the mesh holds devices of {len(members)} of {jax.process_count()} processes; expected all')

  def gather(self, value: Any) -> list[Any]:
    """Returns the values of all processes, in their order. A value is what JSON can hold."""
    if not self.several:
      return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    return [json.loads(rows.tobytes()) for rows in self._gather(data)]

  def gather_rows(self, array: np.ndarray) -> np.ndarray:
    """Returns the rows `[n, …]` of all processes, one process after another; n may differ."""
    return np.concatenate(self._gather(array)) if self.several else array

  def whole(self, array: jax.Array) -> np.ndarray:
    """Returns a distributed array as a whole."""
    return multihost_utils.process_allgather(array, tiled=True) if self.several else np.asarray(array)

  def _gather(self, array: np.ndarray) -> list[np.ndarray]:
    counts = multihost_utils.process_allgather(np.int32(len(array)))
    padded = np.zeros((max(counts), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return [rows[:count] for rows, count in zip(multihost_utils.process_allgather(padded), counts, strict=True)]

  def run(
    self,
    items: Iterable[_T],
    handle: Callable[[_T], None],
    should_stop: Callable[[], bool],
    progress: Callable[[], str],
    every: int = 8,
  ) -> None:
    """Handles the items of each process, until none has one left.

    Every so many items, 1 where `handle` waits for the other processes, all agree to go on, or leave together where one
    was asked to stop or failed, so that none waits for ever. `should_stop` is polled there; a lone process polls it
    before each item. `progress` says how far this process has come, for the message.

    Raises:
      Stopped: some process's `should_stop` returned true.
      UserError: another process failed; the message says how. A failure of this one is raised as it is.
    """
    stopped = lambda: Stopped(f'in the evaluation, after {progress()}; the same command makes it again')  # noqa: E731
    if not self.several:
      for item in items:
        if should_stop():
          raise stopped()
        handle(item)
      return
    iterator, failure, more = iter(items), None, True
    while (state := self._agree(more, bool(should_stop()), failure)) != _DONE:
      if state == _STOPPED:
        raise stopped()
      done = 0
      try:
        for done, item in enumerate(itertools.islice(iterator, every), 1):  # noqa: B007
          handle(item)
      except Exception as error:  # Raised in the next round, once the others know.
        failure = error
      more = done == every

  def _agree(self, more: bool, stop: bool, failure: Exception | None) -> int:
    """Returns what all processes do next, or raises where one of them failed."""
    mine = _FAILED if failure is not None else _STOPPED if stop else _RUNNING if more else _DONE
    states = list(multihost_utils.process_allgather(np.int32(mine)))
    if _FAILED in states:
      messages = self.gather(None if failure is None else f'{type(failure).__name__}: {failure}')
      if failure is not None:
        raise failure
      index = states.index(_FAILED)
      raise UserError(f'process {index} failed: {messages[index]}')
    if _STOPPED in states:
      return _STOPPED
    return _RUNNING if _RUNNING in states else _DONE
