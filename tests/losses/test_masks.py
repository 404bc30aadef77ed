"""Masked reductions against numpy on the real entries alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.losses import masks


@pytest.fixture(scope='module')
def matrix():
  rng = np.random.default_rng(0)
  mask = rng.random((6, 5)) < 0.6
  mask[2] = False
  mask[3] = True
  return rng.standard_normal((6, 5)).astype(np.float32), mask


def test_make_pairs_names_every_pair():
  pairs = masks.make_pairs(
    np.array([0, 2, 0, 0]), np.array([True, True, True, False]), np.array([True, True, True, False])
  )
  expected_own, expected_wrong = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
  for q, label in enumerate([0, 2, 0]):
    for v in range(3):
      (expected_own if v == label else expected_wrong)[q, v] = True
  np.testing.assert_array_equal(pairs.own, expected_own)
  np.testing.assert_array_equal(pairs.wrong, expected_wrong)


def test_make_pairs_refuses_shapes_that_disagree():
  with pytest.raises(AssertionError):
    masks.make_pairs(np.zeros(3, np.int32), np.ones(4, bool), np.ones(2, bool))


def test_masked_mean(matrix):
  values, mask = matrix
  np.testing.assert_allclose(masks.masked_mean(values, mask), values[mask].mean(), rtol=1e-6)
  assert masks.masked_mean(values, np.zeros_like(mask)) == 0.0


def test_masked_mean_ignores_what_is_not_finite_behind_the_mask(matrix):
  values, mask = matrix
  odd = np.where(mask, values, np.nan)
  value, gradient = jax.value_and_grad(lambda x: masks.masked_mean(x, mask))(jnp.asarray(odd))
  np.testing.assert_allclose(value, values[mask].mean(), rtol=1e-6)
  np.testing.assert_allclose(gradient, mask / mask.sum(), rtol=1e-6)


@pytest.mark.parametrize('axis', [0, 1])
def test_masked_logsumexp_and_softmax(matrix, axis):
  values, mask = matrix
  sums = np.moveaxis(np.asarray(masks.masked_softmax(values, mask, axis)), axis, 1)
  logs = masks.masked_logsumexp(values, mask, axis)
  rows, real = np.moveaxis(values, axis, 1).astype(np.float64), np.moveaxis(mask, axis, 1)
  for i, (row, keep) in enumerate(zip(rows, real, strict=True)):
    if not keep.any():
      assert logs[i] < -9e9 and not sums[i].any()
      continue
    total = np.exp(row[keep]).sum()
    np.testing.assert_allclose(logs[i], np.log(total), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums[i], np.where(keep, np.exp(row) / total, 0.0), rtol=1e-5)


def test_gradients_stay_finite_where_a_row_is_all_padding(matrix):
  values, mask = matrix
  function = lambda x: jnp.sum(jnp.where(mask.any(1), masks.masked_logsumexp(x, mask, 1), 0.0))  # noqa: E731
  gradient = jax.grad(function)(values)
  np.testing.assert_allclose(gradient, masks.masked_softmax(values, mask, 1), rtol=1e-5)
