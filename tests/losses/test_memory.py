"""What the losses keep of the size of their score matrices, by the compiler's own account."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.losses.nce import hard_nce, soft_nce
from dlkd_jax.losses.pairs import by_blocks, split
from tests.losses.problems import make_pairs, plain_soft_nce, triplet_loss

Q, B = 2000, 400
ALPHA = BETA = jnp.float32(0.8)
MARGIN = {'margin': 0.1, 'hard_pool': 20}


def pairs():
  return make_pairs(np.repeat(np.arange(B), Q // B), np.arange(Q) < Q - 10, np.arange(B) < B - 2)


LOSSES = {
  'teacher': lambda x, y, p, s: soft_nce(x, x, y, y, p, p, s, ALPHA, BETA)[0],
  'self': lambda x, y, p, s: soft_nce(x, x, x, x, p, p, s, ALPHA, BETA)[0],
  'hard': lambda x, y, p, s: hard_nce(x, x, p, p)[0],
  'triplet': lambda x, y, p, s: triplet_loss(x, x, p, p, jax.random.key(0), **MARGIN)[0],
  'naive': lambda x, y, p, s: plain_soft_nce(x, y, p, s, ALPHA, BETA),
  'naive self': lambda x, y, p, s: plain_soft_nce(x, x, p, s, ALPHA, BETA),
}


@functools.cache
def compiled(name):
  matrix = jax.ShapeDtypeStruct((Q, B), jnp.float32)

  def loss(dot, reference, pairs):
    return LOSSES[name](dot, reference, pairs, split(pairs, pairs, ALPHA))

  return jax.jit(jax.value_and_grad(loss)).lower(matrix, matrix, pairs()).compile()


def kept_matrices(name):
  """Temporary memory of value and gradient, beyond arguments and results, in matrices of Q × B float32."""
  return compiled(name).memory_analysis().temp_size_in_bytes / (4 * Q * B)


@pytest.mark.parametrize('name', ['teacher', 'self', 'hard', 'triplet'])
def test_less_than_one_matrix_is_kept(name):
  assert kept_matrices(name) < 1.0


@pytest.mark.parametrize('name', ['naive', 'naive self'])
def test_the_formulas_as_they_stand_keep_several(name):
  assert kept_matrices(name) > 3.0


@pytest.mark.parametrize(('name', 'naive'), [('teacher', 'naive'), ('self', 'naive self')])
def test_the_lean_loss_in_blocks_is_the_naive_one(name, naive):
  rng = np.random.default_rng(0)
  dot, reference = (rng.standard_normal((2, Q, B)) * 3.0).astype(np.float32)
  (value, gradient), (expected, expected_gradient) = (compiled(n)(dot, reference, pairs()) for n in (name, naive))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('shape', [(2000, 400), (400, 2000), (1025, 1023), (30, 5), (100, 6000)])
def test_blocks_give_what_the_whole_gives(shape, axis):
  """Every number of a whole view is met once, by the caption or the video that it belongs to."""
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 9, shape).astype(np.float32)
  view = make_pairs(rng.integers(0, shape[1], shape[0]), rng.random(shape[0]) < 0.9, rng.random(shape[1]) < 0.9)
  vector = np.arange(shape[1 - axis])

  def function(scores, pairs, vector):
    own = jnp.sum(jnp.where(pairs.own, scores, 0.0), axis=axis)
    wrong = jnp.sum(jnp.where(pairs.wrong, scores, 0.0), axis=axis)
    return own, wrong, vector, pairs.caption_ordinals if axis else pairs.video_ordinals

  blocks = by_blocks(function, scores, view, vector, axis=axis)
  for actual, expected in zip(blocks, function(scores, view, vector), strict=True):
    np.testing.assert_array_equal(actual, expected)
