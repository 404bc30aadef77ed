"""Masked reductions against numpy on the real entries alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.losses import pairs as pairs_lib
from tests.losses.problems import make_pairs


@pytest.fixture(scope='module')
def matrix():
  rng = np.random.default_rng(0)
  mask = rng.random((6, 5)) < 0.6
  mask[2] = False
  mask[3] = True
  return rng.standard_normal((6, 5)).astype(np.float32), mask


def test_make_pairs_names_every_pair():
  pairs = make_pairs(np.array([0, 2, 0, 0]), np.array([True, True, True, False]), np.array([True, True, True, False]))
  expected_own, expected_wrong = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
  for q, label in enumerate([0, 2, 0]):
    for v in range(3):
      (expected_own if v == label else expected_wrong)[q, v] = True
  np.testing.assert_array_equal(pairs.own, expected_own)
  np.testing.assert_array_equal(pairs.wrong, expected_wrong)


def test_a_view_names_the_pairs_of_its_rows_and_columns():
  rng = np.random.default_rng(1)
  labels, captions, videos = rng.integers(0, 8, 12), rng.random(12) < 0.7, rng.random(8) < 0.7
  whole = make_pairs(labels, captions, videos)
  rows, columns = slice(3, 9), np.array([6, 1, 4])
  text = make_pairs(labels[rows], captions[rows], videos)
  video = make_pairs(labels, captions, videos[columns], video_ids=columns)
  for name in ('real', 'own', 'wrong'):
    np.testing.assert_array_equal(getattr(text, name), getattr(whole, name)[rows])
    np.testing.assert_array_equal(getattr(video, name), getattr(whole, name)[:, columns])


def test_masked_mean(matrix):
  values, mask = matrix
  np.testing.assert_allclose(pairs_lib.masked_mean(values, mask), values[mask].mean(), rtol=1e-6)
  assert pairs_lib.masked_mean(values, np.zeros_like(mask)) == 0.0
  assert pairs_lib.mean_and_count(values, mask)[1] == mask.sum()


def test_masked_mean_ignores_what_is_not_finite_behind_the_mask(matrix):
  values, mask = matrix
  odd = np.where(mask, values, np.nan)
  value, gradient = jax.value_and_grad(lambda x: pairs_lib.masked_mean(x, mask))(jnp.asarray(odd))
  np.testing.assert_allclose(value, values[mask].mean(), rtol=1e-6)
  np.testing.assert_allclose(gradient, mask / mask.sum(), rtol=1e-6)
