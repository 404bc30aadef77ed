"""Reading several videos ahead, each in a thread of its own, while the first of them is worked on."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar('T')
_POLL_SECONDS = 0.1


class _Reader(threading.Thread):
  """Runs an iterable and keeps at most `room` of its items."""

  def __init__(self, make: Callable[[], Iterable[Any]], room: int):
    super().__init__(daemon=True)
    self._make, self._items, self._stopped = make, queue.Queue(room), threading.Event()

  def run(self) -> None:
    try:
      for item in self._make():
        self._put(('item', item))
        if self._stopped.is_set():
          return
      self._put(('end', None))
    except Exception as error:  # Raised where the items are taken.
      self._put(('error', error))

  def _put(self, entry: tuple[str, Any]) -> None:
    while not self._stopped.is_set():
      try:
        self._items.put(entry, timeout=_POLL_SECONDS)
        return
      except queue.Full:
        continue

  def stop(self) -> None:
    """Ends the reading soon; what was read is dropped."""
    self._stopped.set()

  def __iter__(self) -> Iterator[Any]:
    while True:
      kind, content = self._items.get()
      if kind == 'item':
        yield content
      elif kind == 'error':
        raise content
      else:
        return


def read(makes: Sequence[Callable[[], Iterable[T]]], readers: int, room: int) -> Iterator[Iterator[T]]:
  """Runs iterables in their order, the first `readers` of those that are left at the same time.

  Args:
    makes: make the iterables; called in threads.
    readers: threads, 1 or more.
    room: items of one iterable that are kept; it waits when there are as many, so that memory has a bound.

  Yields:
    For each of `makes`, an iterator of its items, which raises what the iterable raised. It is to be used up, or left,
    before the next one is asked for.
  """
  waiting, running = collections.deque(makes), collections.deque()
  try:
    while waiting or running:
      while waiting and len(running) < readers:
        reader = _Reader(waiting.popleft(), room)
        reader.start()
        running.append(reader)
      yield iter(running[0])
      running.popleft().stop()
  finally:
    for reader in running:
      reader.stop()
