"""Moments: an oracle of plain loops, and what holds for every curve."""

import itertools

import numpy as np
import pytest

from dlkd_jax.gallery.moments import find_moments, frame_edges
from dlkd_jax.gallery.results import Moment


def by_hand(times, curve, duration, count, level):
  """The same by plain loops over frames: a list of (start, end, peak)."""
  n, taken, found = len(curve), set(), []
  smooth = [(curve[max(0, i - 1)] + 2 * curve[i] + curve[min(n - 1, i + 1)]) / 4 for i in range(n)]
  floor, middle = ((sorted(c)[(n - 1) // 2] + sorted(c)[n // 2]) / 2 for c in (curve, smooth))
  step = lambda i: (times[i] + times[i + 1]) / 2  # noqa: E731
  while len(found) < count:
    best = None
    for i in range(n):
      left = curve[i - 1] if i else -1e9
      right = curve[i + 1] if i + 1 < n else -1e9
      if i in taken or curve[i] < left or curve[i] < right or (found and curve[i] <= floor):
        continue
      if best is None or curve[i] > curve[best]:
        best = i
    if best is None:
      break
    wanted, first, last = middle + level * (smooth[best] - middle), best, best
    while first > 0 and first - 1 not in taken and smooth[first - 1] >= wanted:
      first -= 1
    while last < n - 1 and last + 1 not in taken and smooth[last + 1] >= wanted:
      last += 1
    taken |= set(range(first, last + 1))
    start = step(first - 1) if first else max(0.0, times[0] - (times[1] - times[0]) / 2)
    end = step(last) if last < n - 1 else min(max(duration, times[-1]), times[-1] + (times[-1] - times[-2]) / 2)
    found.append((start, end, times[best]))
  return found


@pytest.mark.parametrize('seed', range(30))
def test_agrees_with_plain_loops(seed):
  draw = np.random.default_rng(seed)
  n = int(draw.integers(2, 40))
  times = np.cumsum(draw.uniform(0.2, 2, n))
  curve = draw.normal(size=n).round(int(draw.integers(0, 3)))  # Rounded ones have ties.
  duration, count, level = float(times[-1] + draw.uniform(0, 2)), int(draw.integers(1, 5)), float(draw.uniform())
  found = find_moments(times, curve, duration, count, level)
  expected = by_hand(times, curve, duration, count, level)
  assert len(found) == len(expected)
  np.testing.assert_allclose([(m.start, m.end, m.peak) for m in found], expected, rtol=1e-12)


@pytest.mark.parametrize('seed', range(20))
def test_what_holds_for_every_curve(seed):
  draw = np.random.default_rng(100 + seed)
  n = int(draw.integers(1, 60))
  times, curve = np.sort(draw.uniform(0, 50, n)), draw.normal(size=n)
  found = find_moments(times, curve, 50.0, 4)
  assert 1 <= len(found) <= 4
  assert found[0].peak == times[np.argmax(curve)] and found[0].score == curve.max()
  assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
  for moment in found:
    assert 0 <= moment.start <= moment.peak <= moment.end <= 50
  spans = sorted((m.start, m.end) for m in found)
  assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
  assert found[:2] == find_moments(times, curve, 50.0, 2), 'more moments do not change the first ones'
  stretched = find_moments(times, 3 * curve + 7, 50.0, 4)
  assert [(m.start, m.end) for m in stretched] == [(m.start, m.end) for m in found]


def test_a_box_is_found_as_it_stands():
  times = np.arange(20.0)
  curve = np.where((times >= 5) & (times < 9), 0.8, 0.1) + 0.01 * np.sin(times)
  (moment,) = find_moments(times, curve, 20.0)
  assert (moment.start, moment.end) == (4.5, 8.5)


@pytest.mark.parametrize('length', [2, 3, 8])
def test_one_bad_frame_does_not_end_a_moment(length):
  times = np.arange(40.0)
  curve = np.where((times >= 20 - length) & (times < 21 + length), 1.0, 0.0)
  curve[20] = 0.4
  (moment,) = find_moments(times, curve, 40.0)
  assert (moment.start, moment.end) == (19.5 - length, 20.5 + length)


def test_two_boxes_are_two_moments():
  times = np.arange(30.0)
  curve = 0.9 * ((times >= 4) & (times < 7)) + 0.7 * ((times >= 20) & (times < 24))
  found = find_moments(times, curve, 30.0, 3)
  assert [(m.start, m.end) for m in found] == [(3.5, 6.5), (19.5, 23.5)]


def test_edges():
  assert frame_edges([0.0, 1.0, 2.0], 2.2).tolist() == [0.0, 0.5, 1.5, 2.2]
  assert frame_edges([0.0, 1.0, 2.0], None).tolist() == [0.0, 0.5, 1.5, 2.5]
  assert frame_edges([3.0], 8.0).tolist() == [0.0, 8.0]
  assert find_moments([3.0], [0.5]) == (Moment(3.0, 3.0, 3.0, 0.5),)
  assert find_moments([0.0, 1.0, 2.0], [0.5] * 3, 3.0, 2) == (Moment(0.0, 2.5, 0.0, 0.5),), 'a flat curve'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (([0.0, 1.0], [1.0]), 'one value a frame'),
    (([], []), 'one value a frame'),
    (([1.0, 0.0], [1.0, 2.0]), 'times fall'),
    (([0.0, 1.0], [1.0, np.nan]), 'not finite'),
    (([0.0], [1.0], None, 0), 'count 0'),
    (([0.0], [1.0], None, 1, 1.5), 'level 1.5'),
  ],
)
def test_bad_input(arguments, message):
  with pytest.raises(ValueError, match=message):
    find_moments(*arguments)
