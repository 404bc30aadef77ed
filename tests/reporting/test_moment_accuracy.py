"""Moments found against moments annotated: cases by hand, and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlkd_jax import annotations
from dlkd_jax.reporting import moment_accuracy


@pytest.mark.parametrize(
  ('first', 'second', 'expected'),
  [
    ((0, 10), (0, 10), 1.0),
    ((0, 10), (5, 15), 5 / 15),
    ((0, 4), (1, 2), 1 / 4),
    ((0, 4), (4, 8), 0.0),
    ((0, 4), (6, 8), 0.0),
    ((3, 3), (3, 3), 0.0),
  ],
)
def test_iou_by_hand(first, second, expected):
  assert moment_accuracy.interval_iou(np.array(first), np.array(second)) == pytest.approx(expected)


@given(st.lists(st.floats(0, 100), min_size=4, max_size=4))
def test_iou_is_that_of_counting_small_pieces(numbers):
  first, second = np.sort(numbers[:2]), np.sort(numbers[2:])
  iou = moment_accuracy.interval_iou(first, second)
  assert 0 <= iou <= 1 and iou == moment_accuracy.interval_iou(second, first)
  grid = np.arange(0, 100, 0.01) + 0.005
  in_first, in_second = ((grid > x[0]) & (grid < x[1]) for x in (first, second))
  if (in_first | in_second).sum() > 500:
    assert abs(iou - (in_first & in_second).sum() / (in_first | in_second).sum()) < 0.02


def bump(frames, first, last):
  curve = np.zeros(frames)
  curve[first : last + 1] = 1.0
  curve[(first + last) // 2] = 1.1
  return curve


def test_judged_by_hand():
  times = annotations.even_times(20, 20.0)  # 0.5, 1.5, …: a frame stands for a second.
  curves = [bump(20, 4, 7), bump(20, 4, 7), bump(20, 4, 7)]
  moments = np.array([[4.0, 8.0], [4.0, 6.0], [12.0, 16.0]])
  found = moment_accuracy.judge(curves, [times] * 3, np.array([20.0, np.nan, 20.0]), moments)
  np.testing.assert_array_equal(found.inside, [True, True, False])
  np.testing.assert_allclose(found.iou, [1.0, 0.5, 0.0])
  np.testing.assert_array_equal(found.percent(), [[100, 100, 100, 100], [100, 100, 100, 0], [0, 0, 0, 0]])


def test_without_looking():
  times = annotations.even_times(10, 10.0)
  found = moment_accuracy.without_looking([times, times], np.array([10.0, 10.0]), np.array([[0.0, 4.0], [0.0, 6.0]]))
  np.testing.assert_allclose(found, [[40, 100, 0, 0], [60, 100, 100, 0]])


def test_a_random_curve_is_no_better_than_not_looking():
  random = np.random.default_rng(0)
  times = [annotations.even_times(30, 30.0)] * 2000
  starts = random.uniform(0, 20, 2000)
  moments = np.stack([starts, starts + random.uniform(2, 10, 2000)], axis=1)
  found = moment_accuracy.judge(random.random((2000, 30)), times, np.full(2000, 30.0), moments)
  expected = moment_accuracy.without_looking(times, np.full(2000, 30.0), moments)[:, 0].mean()
  assert abs(100 * found.inside.mean() - expected) < 3
