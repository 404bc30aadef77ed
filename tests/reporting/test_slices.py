"""Slices: borders by hand, and that every caption is in exactly one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlkd_jax.reporting import slices


def labels(parts):
  return {part.label: np.flatnonzero(part.rows).tolist() for part in parts}


def test_borders_of_ratios():
  found = slices.by_edges(np.array([0.01, 0.2, 0.2001, 0.4, 0.41, 1.0, np.nan]), slices.RATIO_EDGES)
  assert labels(found) == {'(0, 0.2]': [0, 1], '(0.2, 0.4]': [2, 3], '(0.4, 1]': [4, 5], 'unknown': [6]}


def test_ratios():
  nan = np.nan
  moments = np.array([[2.0, 4.0], [0.0, 50.0], [nan, nan], [3.0, 3.0], [-5.0, 5.0], [1.0, 2.0]])
  durations = np.array([10.0, 10.0, 10.0, 10.0, 10.0, nan])
  np.testing.assert_allclose(slices.moment_ratios(moments, durations), [0.2, 1.0, nan, nan, 0.5, nan])


def test_quantiles_keep_equal_values_together():
  found = slices.by_quantiles(np.array([5.0, 5, 5, 5, 5, 6, 7, 8]), 'words')
  assert labels(found) == {'5 words': [0, 1, 2, 3, 4], '6 words': [5], '7 to 8 words': [6, 7]}


def test_quantiles_of_distinct_values_are_of_equal_size():
  found = slices.by_quantiles(np.random.default_rng(0).random(1000))
  assert [part.rows.sum() for part in found] == [250] * 4


def test_nothing_known():
  assert labels(slices.by_quantiles(np.full(3, np.nan))) == {'unknown': [0, 1, 2]}
  assert labels(slices.by_edges(np.full(2, np.nan), slices.RATIO_EDGES)) == {'unknown': [0, 1]}


def test_words():
  np.testing.assert_array_equal(slices.words(['a dog  jumps', 'hm', ' two words ']), [3, 1, 2])


@pytest.mark.parametrize('kind', ['edges', 'quantiles'])
@given(values=arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1) | st.just(np.nan)))
def test_every_caption_is_in_exactly_one(kind, values):
  parts = slices.by_quantiles(values) if kind == 'quantiles' else slices.by_edges(values, slices.RATIO_EDGES)
  np.testing.assert_array_equal(np.sum([part.rows for part in parts], axis=0), 1)
  assert all(part.rows.any() for part in parts)
