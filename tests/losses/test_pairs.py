"""Masked reductions against numpy on the real entries alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.losses import pairs as pairs_lib


@pytest.fixture(scope='module')
def matrix():
  rng = np.random.default_rng(0)
  mask = rng.random((6, 5)) < 0.6
  mask[2] = False
  mask[3] = True
  return rng.standard_normal((6, 5)).astype(np.float32), mask


def test_make_pairs_names_every_pair():
  pairs = pairs_lib.make_pairs(
    np.array([0, 2, 0, 0]), np.array([True, True, True, False]), np.array([True, True, True, False])
  )
  expected_own, expected_wrong = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
  for q, label in enumerate([0, 2, 0]):
    for v in range(3):
      (expected_own if v == label else expected_wrong)[q, v] = True
  np.testing.assert_array_equal(pairs.own, expected_own)
  np.testing.assert_array_equal(pairs.wrong, expected_wrong)


def test_make_pairs_refuses_shapes_that_disagree():
  labels, captions, videos = np.zeros(3, np.int32), np.ones(3, bool), np.ones(2, bool)
  with pytest.raises(AssertionError):
    pairs_lib.make_pairs(labels, np.ones(4, bool), videos)
  for name, size in (('video_ids', 3), ('video_ordinals', 3), ('caption_ordinals', 2)):
    with pytest.raises(AssertionError):
      pairs_lib.make_pairs(labels, captions, videos, **{name: np.zeros(size, np.int32)})


def test_a_view_names_the_pairs_of_its_rows_and_columns():
  rng = np.random.default_rng(1)
  labels, captions, videos = rng.integers(0, 8, 12), rng.random(12) < 0.7, rng.random(8) < 0.7
  whole = pairs_lib.make_pairs(labels, captions, videos)
  rows, columns = slice(3, 9), np.array([6, 1, 4])
  text = pairs_lib.make_pairs(labels[rows], captions[rows], videos)
  video = pairs_lib.make_pairs(labels, captions, videos[columns], video_ids=columns)
  for name in ('real', 'own', 'wrong'):
    np.testing.assert_array_equal(getattr(text, name), getattr(whole, name)[rows])
    np.testing.assert_array_equal(getattr(video, name), getattr(whole, name)[:, columns])


def test_real_entries_are_numbered_in_their_order_by_default():
  pairs = pairs_lib.make_pairs(np.zeros(4, int), np.array([True, False, True, True]), np.array([False, True, True]))
  np.testing.assert_array_equal(pairs.caption_ordinals, [0, -1, 1, 2])
  np.testing.assert_array_equal(pairs.video_ordinals, [-1, 0, 1])
  ordinals = np.array([5, -1, 0, 3])
  given = pairs_lib.make_pairs(np.zeros(4, int), np.ones(4, bool), np.ones(3, bool), caption_ordinals=ordinals)
  np.testing.assert_array_equal(given.caption_ordinals, ordinals)


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


@pytest.mark.parametrize('axis', [0, 1])
def test_masked_logsumexp_and_softmax(matrix, axis):
  values, mask = matrix
  logs = pairs_lib.masked_logsumexp(values, mask, axis)
  sums = np.moveaxis(np.asarray(pairs_lib.masked_softmax(values, mask, logs, axis)), axis, 1)
  rows, real = np.moveaxis(values, axis, 1).astype(np.float64), np.moveaxis(mask, axis, 1)
  for i, (row, keep) in enumerate(zip(rows, real, strict=True)):
    if not keep.any():
      assert logs[i] < -9e9 and not sums[i].any()
      continue
    total = np.exp(row[keep]).sum()
    np.testing.assert_allclose(logs[i], np.log(total), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums[i], np.where(keep, np.exp(row) / total, 0.0), rtol=1e-5)
