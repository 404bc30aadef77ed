"""Processes that evaluate together: what they tell one another, and how they stop or fail as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dlkd_jax.errors import UserError

_T = TypeVar('_T')
_RUNNING, _DONE, _STOPPED, _FAILED = range(4)
_END = object()


class EvaluationInterrupted(Exception):
  """`should_stop` asked to leave; nothing was computed that could be used. The message says how far it had come."""


class Processes:
  """The processes whose devices form a mesh. All of them make the same calls in the same order.

  Attributes:
    several: whether there is more than one; with one, nothing is sent.
  """

  def __init__(self, mesh: Mesh):
    """Takes the mesh.

    Raises:
      ValueError: it holds devices of several processes, but not of all: the others would be waited for in vain.
    """
    members = {device.process_index for device in mesh.devices.flat}
    self.several = len(members) > 1
    if self.several and len(members) != jax.process_count():
      raise ValueError(f'the mesh holds devices of {len(members)} of {jax.process_count()} processes; expected all')

  def exchange(self, value: Any) -> list[Any]:
    """Returns the values of all processes, in their order. A value is what JSON can hold."""
    if not self.several:
      return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    return [json.loads(rows.tobytes()) for rows in self._gather(data)]

  def join(self, array: np.ndarray) -> np.ndarray:
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
  ) -> None:
    """Handles the items of each process, all processes in step, until none has one left.

    Before each item the processes agree to go on: if one was asked to stop or failed, all leave before the next item,
    so that none waits for another for ever. Where there are several, `should_stop` is called equally often in all.

    Args:
      items: of this process; their number may differ from the others'.
      handle: called with each item.
      should_stop: polled before each item.
      progress: says how far this process has come, for the message.

    Raises:
      EvaluationInterrupted: some process's `should_stop` returned true.
      UserError: another process failed; the message says how. A failure of this one is raised as it is.
    """
    if not self.several:
      for item in items:
        if should_stop():
          raise EvaluationInterrupted(f'evaluation was asked to stop after {progress()}')
        handle(item)
      return
    iterator, failure, state = iter(items), None, _RUNNING
    while state != _DONE:
      item = _END
      try:
        item = next(iterator, _END) if failure is None else _END
      except Exception as error:  # Raised below, once the others know.
        failure = error
      state = self._agree(item is not _END, bool(should_stop()), failure)
      if state == _STOPPED:
        raise EvaluationInterrupted(f'evaluation was asked to stop after {progress()}')
      if item is not _END:
        try:
          handle(item)
        except Exception as error:  # Raised in the next round, once the others know.
          failure = error

  def _agree(self, more: bool, stop: bool, failure: Exception | None) -> int:
    """Returns what all processes do next, or raises where one of them failed."""
    mine = _FAILED if failure is not None else _STOPPED if stop else _RUNNING if more else _DONE
    states = list(multihost_utils.process_allgather(np.int32(mine)))
    if _FAILED in states:
      messages = self.exchange(None if failure is None else f'{type(failure).__name__}: {failure}')
      if failure is not None:
        raise failure
      index = states.index(_FAILED)
      raise UserError(f'process {index} failed: {messages[index]}')
    if _STOPPED in states:
      return _STOPPED
    return _RUNNING if _RUNNING in states else _DONE
