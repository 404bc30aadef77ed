"""Reading ahead: order, bounds, errors, and threads that end."""

from __future__ import annotations

import contextlib
import functools
import threading
import time

import pytest

from dlkd_jax.video import prefetch


def test_everything_comes_in_order():
  makes = [functools.partial(range, start, start + 20) for start in range(0, 200, 20)]
  assert [list(items) for items in prefetch.read(makes, readers=3, room=4)] == [list(make()) for make in makes]


def test_no_more_is_read_than_there_is_room_for():
  made = []

  def items(name):
    for n in range(50):
      made.append((name, n))
      yield n

  readings = prefetch.read([functools.partial(items, name) for name in range(5)], readers=2, room=3)
  next(readings)
  time.sleep(0.3)
  assert {name for name, _ in made} == {0, 1}
  assert len(made) == 2 * (3 + 1)  # One more of each is in hand.
  readings.close()


def test_an_error_comes_after_the_items_before_it_and_ends_nothing_else():
  def broken():
    yield 1
    raise KeyError('broken')

  second = []
  readings = prefetch.read([broken, lambda: [2, 3]], readers=2, room=1)
  first = next(readings)
  assert next(first) == 1
  with pytest.raises(KeyError, match='broken'):
    next(first)
  second.extend(next(readings))
  assert second == [2, 3]
  with pytest.raises(StopIteration):
    next(readings)


def test_threads_end_when_nobody_reads():
  before = threading.active_count()
  endless = lambda: iter(int, 1)  # noqa: E731
  with contextlib.closing(prefetch.read([endless] * 4, readers=2, room=2)) as readings:
    assert next(next(readings)) == 0
    next(readings)  # Leaves the first one in the middle.
  deadline = time.monotonic() + 5
  while threading.active_count() > before:
    assert time.monotonic() < deadline
    time.sleep(0.02)
