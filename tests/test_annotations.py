"""The rule for annotated moments, against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkd_jax import annotations
from dlkd_jax.errors import UserError

seconds = st.one_of(
  st.floats(-5, 20, width=32), st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.just(1e39)
)


@given(st.lists(st.tuples(seconds, seconds), max_size=5), st.one_of(st.just(math.nan), st.floats(0.5, 10, width=32)))
@settings(deadline=None)
def test_moments_lie_in_their_video_or_are_unknown(moments, duration):
  taken = annotations.possible(np.array(moments).reshape(-1, 2), duration)
  assert taken.dtype == np.float32 and taken.shape == (len(moments), 2)
  for (start, end), found in zip(moments, taken, strict=True):
    cut = end if math.isnan(duration) else min(end, duration)
    fits = 0 <= start < cut < float(np.finfo(np.float32).max)
    np.testing.assert_array_equal(found, [start, cut] if fits else [math.nan, math.nan])


@pytest.mark.parametrize('start, end', [(None, None), (math.nan, math.nan), (None, math.nan)])
def test_a_moment_may_be_unknown(start, end):
  assert all(map(math.isnan, annotations.read_moment(start, end, 'line 1')))


@pytest.mark.parametrize('start, end', [('3', 4), (3, '4'), (True, 4), ([3], 4), ({}, 4), (3, None), (math.nan, 4)])
def test_what_is_no_moment_is_an_error_of_the_file(start, end):
  with pytest.raises(UserError, match=r'^line 1: .*(expected seconds|give both)'):
    annotations.read_moment(start, end, 'line 1')


def test_numbers_of_any_size_are_numbers():
  assert annotations.read_moment(-(10**400), 10**400, '') == (-math.inf, math.inf)
  assert math.isnan(annotations.read_duration(10**400, '')) and math.isnan(annotations.read_duration(0, ''))


def test_a_slightly_long_moment_is_no_fault():
  tally = annotations.Tally()
  np.testing.assert_allclose(tally.take(np.array([[1, 5.001]]), 5.0, ['a#0']), [[1, 5]])
  assert not str(tally)
  tally.take(np.array([[1, 9.0], [7, 8]]), 5.0, ['a#1', 'a#2'])
  assert '2 annotated' in str(tally) and "'a#1' from 1 to 9 s in a video of 5 s" in str(tally)


def test_even_times():
  np.testing.assert_allclose(annotations.even_times(4, 10.0), [1.25, 3.75, 6.25, 8.75])
