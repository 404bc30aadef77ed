"""Leaving on request: SIGTERM and the first SIGINT are noted when they come, and obeyed where nothing is half done.

A second Ctrl-C ends the process at once, as a kill would. Python lets a handler run between two of its own steps only,
of which there is none while a program is compiled or another process is waited for: there a thread does it.

In several processes the request may reach one of them only, or each at another step; they agree on where to stop by a
small reduction over all devices, which is dispatched with a step and read after the next one was, so that it never
makes a device wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlkd_jax import sharding

STOPPED = 75  # Exit code of a run that was asked to stop: "temporary failure, try again" (EX_TEMPFAIL).
INTERRUPTED = 130  # Exit code after Ctrl-C, as shells have it.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ENDED = 'ended at once by a second Ctrl-C; the same command goes on from the newest checkpoint'
_PATIENCE = 1.0  # Seconds in which a second Ctrl-C should have been obeyed.


class StoppedError(Exception):
  """The run was asked to stop, and did; all that the same command needs to go on is saved.

  Attributes:
    code: exit code that tells it.
  """

  def __init__(self, message: str, code: int = STOPPED):
    """Takes the account for the user and the exit code."""
    super().__init__(message)
    self.code = code


class StopRequest:
  """Whether the run was asked to stop; a context manager that listens for signals, in the main thread.

  Further signals change nothing, what is being saved is saved; only a second Ctrl-C raises KeyboardInterrupt wherever
  the program is, and where that does not end it within a second, the process exits.
  """

  def __init__(self):
    """Nothing was asked for yet."""
    self.signal: signal.Signals | None = None
    self._former: dict[int, Any] = {}
    self._reduce = None
    self._interrupts = 0
    self._left = threading.Event()

  def __enter__(self) -> StopRequest:
    self._former = {number: signal.signal(number, self._note) for number in _SIGNALS}
    self._left.clear()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    self._former_fd, self._writing = signal.set_wakeup_fd(writing, warn_on_full_buffer=False), writing
    threading.Thread(target=self._watch, args=(reading,), name='second-interrupt', daemon=True).start()
    return self

  def __exit__(self, *exception) -> None:
    self._left.set()
    signal.set_wakeup_fd(self._former_fd)
    os.close(self._writing)  # Which ends the thread.
    for number, handler in self._former.items():
      signal.signal(number, handler)

  def _note(self, number: int, _frame) -> None:
    self.signal = self.signal or signal.Signals(number)
    self._interrupts += number == signal.SIGINT
    if self._interrupts > 1:
      raise KeyboardInterrupt(_ENDED)

  def _watch(self, reading: int) -> None:
    """Reads the numbers of signals as they come, and exits where the main thread does not."""
    interrupts = 0
    with contextlib.closing(os.fdopen(reading, 'rb', buffering=0)) as numbers:
      while number := numbers.read(1):
        interrupts += number[0] == signal.SIGINT
        if interrupts > 1 and not self._left.wait(_PATIENCE):
          print(_ENDED, file=sys.stderr, flush=True)
          os._exit(INTERRUPTED)

  @property
  def code(self) -> int:
    """The exit code to leave with."""
    return INTERRUPTED if self.signal is signal.SIGINT else STOPPED

  def stopped(self, account: str) -> StoppedError:
    """Makes the error to leave with, from an account of where it stopped and what the same command will do."""
    cause = self.signal.name if self.signal else 'a signal to another process'
    return StoppedError(f'stopped on request ({cause}) {account}', self.code)

  def noted(self) -> bool:
    """Whether this process was asked to stop; the others may not have been."""
    return self.signal is not None

  def ask(self) -> jax.Array | None:
    """Dispatches the question whether any process was asked to stop; all processes must ask alike.

    Returns:
      What `answer` takes; None in a lone process, which needs no reduction.
    """
    if jax.process_count() == 1:
      return None
    if self._reduce is None:
      self._reduce = _Reduction()
    return self._reduce(self.noted())

  def answer(self, question: jax.Array | None) -> bool:
    """Returns the answer to a question, the same in all processes; waits for it where it is not there yet."""
    if question is None:
      return self.noted()
    return bool(jax.device_get(question))

  def __call__(self) -> bool:
    """Asks and waits for the answer; for moments at which nothing else is dispatched."""
    return self.answer(self.ask())


class _Reduction:
  """Whether a flag is set in any process."""

  def __init__(self):
    mesh = Mesh(np.asarray(jax.devices()), ('all',), axis_types=(AxisType.Auto,))
    self._split, self._local = NamedSharding(mesh, PartitionSpec('all')), jax.local_device_count()
    self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

  def __call__(self, flag: bool) -> jax.Array:
    flags = np.full(self._local, flag, np.int32)
    return self._any(sharding.from_this_process(flags, self._split))
