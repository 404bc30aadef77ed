"""Moments: an oracle of plain loops, and what holds for every curve."""

import itertools
import time

import numpy as np
import pytest

from dlkd_jax.gallery.moments import find_moments, frame_edges
from dlkd_jax.gallery.results import Moment


def by_hand(times, curve, duration, count, level):
  """The same by sets of frames: a list of (start, end, peak)."""
  n, sets = len(curve), []  # Of (frames, peak), best first.
  smooth = [(curve[max(0, i - 1)] + 2 * curve[i] + curve[min(n - 1, i + 1)]) / 4 for i in range(n)]
  floor, middle = ((sorted(c)[(n - 1) // 2] + sorted(c)[n // 2]) / 2 for c in (curve, smooth))
  step = lambda i: (times[i] + times[i + 1]) / 2  # noqa: E731
  best = int(np.argmax(curve))
  for peak in sorted(range(n), key=lambda i: (-curve[i], i)):
    is_top = curve[peak] >= max(curve[max(0, peak - 1)], curve[min(n - 1, peak + 1)])
    is_high = curve[peak] > floor and curve[peak] - floor >= (curve[best] - floor) / 2
    taken = set().union(*(frames for frames, _ in sets))
    if peak in taken or not is_top or not (is_high or peak == best):
      continue
    own = {peak}
    for side in (-1, 1):
      i = peak + side
      while 0 <= i < n and i not in taken and smooth[i] >= middle + level * (smooth[peak] - middle):
        own.add(i)
        i += side
    near = [each for each in sets if any(i + 1 in each[0] or i - 1 in each[0] for i in own)]
    sets = [each for each in sets if each not in near]
    sets.append((own.union(*(frames for frames, _ in near)), near[0][1] if near else peak))
    sets.sort(key=lambda each: (-curve[each[1]], each[1]))
  found = []
  for frames, peak in sets:
    if len(frames) > 1 or peak == best:
      first, last = min(frames), max(frames)
      start = step(first - 1) if first else max(0.0, times[0] - (times[1] - times[0]) / 2)
      end = step(last) if last < n - 1 else max(duration, times[-1])
      found.append((start, end, times[peak]))
  return found[:count]


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
  if seed % 2:  # Slow, as frames that follow each other are.
    curve = np.convolve(curve, np.ones(4), 'same')
  found = find_moments(times, curve, 50.0, 4)
  assert 1 <= len(found) <= 4
  assert found[0].peak == times[np.argmax(curve)] and found[0].score == curve.max()
  assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
  edges = frame_edges(times, 50.0)
  for moment in found:
    assert 0 <= moment.start <= moment.peak <= moment.end <= 50
  for moment in found[1:]:
    assert moment.score - np.median(curve) >= (curve.max() - np.median(curve)) / 2
    assert np.searchsorted(edges, moment.end) - np.searchsorted(edges, moment.start) > 1, 'more than one frame'
  spans = sorted((m.start, m.end) for m in found)
  assert all(before[1] < after[0] for before, after in itertools.pairwise(spans)), 'none touch'
  for fewer in (1, 2):
    assert found[:fewer] == find_moments(times, curve, 50.0, fewer), 'more moments do not change the first ones'
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


def test_peaks_that_touch_are_one_moment_and_low_ones_none():
  times, height = np.arange(40.0), {5: 0.9, 6: 1, 7: 0.9, 8: 0.3, 9: 0.6, 10: 0.6, 20: 0.45, 21: 0.45, 30: 0.5, 31: 0.5}
  curve = np.array([height.get(i, 0.0) for i in range(40)])
  found = find_moments(times, curve, 40.0, 9)
  assert [(m.start, m.end, m.peak) for m in found] == [(4.5, 10.5, 6.0), (29.5, 31.5, 30.0)]


def test_many_frames_take_no_time():
  curve = np.random.default_rng(0).normal(size=200_000)
  start = time.process_time()
  assert find_moments(np.arange(200_000.0), curve, None, 3)[0].score == curve.max()
  assert time.process_time() - start < 5


def test_the_last_moment_ends_with_the_film():
  times = np.arange(0.0, 599.0, 10.0)
  assert find_moments(times, times, 599.0)[0].end == 599.0
  assert find_moments(times, times, None)[0].end == 595.0
  assert find_moments(times, times, 580.0)[0].end == 590.0, 'never before the last frame'


def test_edges():
  assert frame_edges([0.0, 1.0, 2.0], 2.2).tolist() == [0.0, 0.5, 1.5, 2.2]
  assert frame_edges([0.0, 1.0, 2.0], None).tolist() == [0.0, 0.5, 1.5, 2.5]
  assert frame_edges([3.0], 8.0).tolist() == [0.0, 8.0]
  assert find_moments([3.0], [0.5]) == (Moment(3.0, 3.0, 3.0, 0.5),)
  assert find_moments([0.0, 1.0, 2.0], [0.5] * 3, 3.0, 2) == (Moment(0.0, 3.0, 0.0, 0.5),), 'a flat curve'


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
