"""The contrastive losses against loops written from the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from dlkd_jax.losses import nce
from dlkd_jax.losses.nce import hard_terms, text_terms, video_terms
from dlkd_jax.losses.pairs import HardSplit, split
from tests.losses import problems
from tests.losses.problems import B, Q, make_pairs, make_problem

SIZES = [(1, 1), (3, 2), (7, 5), (Q, B)]


@jax.jit
def hard_nce(dot, pairs):
  return jax.value_and_grad(lambda dot: nce.hard_nce(dot, dot, pairs, pairs), has_aux=True)(dot)


@jax.jit
def soft_nce(dot, reference, pairs, split, alpha, beta):
  def loss(dot, reference):
    return nce.soft_nce(dot, dot, reference, reference, pairs, pairs, split, alpha, beta)

  return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(dot, reference)


plain_soft_nce = jax.jit(jax.value_and_grad(problems.plain_soft_nce, argnums=(0, 1)))


@jax.jit
def first_rows(pairs, alpha):
  return split(pairs, pairs, alpha)


def float32(x):
  return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize(('captions', 'videos'), SIZES)
def test_hard_labels_against_loops(captions, videos):
  problem = make_problem(captions, videos, seed=captions)
  (value, parts), gradient = hard_nce(jnp.asarray(problem.dot), problem.pairs)
  dot = problem.real(problem.dot)
  text, video = problems.hard_nce(dot, problem.own)
  np.testing.assert_allclose(parts['text_to_video'], text, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(parts['video_to_text'], video, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(value, text + video, rtol=1e-5, atol=1e-6)
  expected = problems.numerical_gradient(lambda d: sum(problems.hard_nce(d, problem.own)), dot)
  np.testing.assert_allclose(problem.real(gradient), expected, atol=2e-6)
  assert not np.asarray(gradient)[~(problem.caption_mask[:, None] & problem.video_mask)].any()


@pytest.mark.parametrize(('captions', 'videos'), SIZES)
@pytest.mark.parametrize(('alpha', 'beta'), [(0.8, 0.8), (0.5, 0.5), (0.3, 0.0), (0.0, 0.7), (1.0, 0.8), (0.6, 1.0)])
def test_soft_labels_against_loops(captions, videos, alpha, beta):
  problem = make_problem(captions, videos, seed=captions)
  split = first_rows(problem.pairs, float32(alpha))
  arguments = float32(problem.dot), float32(problem.teacher_dot), problem.pairs, split, float32(alpha), float32(beta)
  (value, _), (gradient, reference_gradient) = soft_nce(*arguments)
  plain = plain_soft_nce(*arguments)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), plain, (value, (gradient, reference_gradient)))
  hard = range(math.floor(alpha * captions + 1e-9)), range(math.floor(alpha * videos + 1e-9))
  dot, reference = problem.real(problem.dot), problem.real(problem.teacher_dot)

  def oracle(dot, reference):
    return problems.soft_nce(dot, reference, problem.own, set(hard[0]), set(hard[1]), alpha, beta)

  np.testing.assert_allclose(value, oracle(dot, reference), rtol=1e-5, atol=1e-6)
  expected = problems.numerical_gradient(lambda d: oracle(d, reference), dot)
  np.testing.assert_allclose(problem.real(gradient), expected, atol=1e-5)
  expected = problems.numerical_gradient(lambda r: oracle(dot, r), reference)
  np.testing.assert_allclose(problem.real(reference_gradient), expected, atol=1e-5)
  padded = ~(problem.caption_mask[:, None] & problem.video_mask)
  assert not np.asarray(gradient)[padded].any() and not np.asarray(reference_gradient)[padded].any()


@settings(max_examples=60, deadline=None)
@given(captions=st.integers(1, Q), videos=st.integers(1, B), seed=st.integers(0, 99), data=st.data())
def test_soft_labels_with_any_split(captions, videos, seed, data):
  problem = make_problem(captions, videos, seed)
  hard_captions = data.draw(st.sets(st.integers(0, captions - 1)))
  hard_videos = data.draw(st.sets(st.integers(0, videos - 1)))
  split = HardSplit(np.isin(np.arange(Q), list(hard_captions)), np.isin(np.arange(B), list(hard_videos)))
  arguments = float32(problem.dot), float32(problem.dot), problem.pairs, split, float32(0.6), float32(0.7)
  (value, _), gradients = soft_nce(*arguments)
  dot = problem.real(problem.dot)
  expected = problems.soft_nce(dot, dot, problem.own, hard_captions, hard_videos, 0.6, 0.7)
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
  assert all(np.isfinite(g).all() for g in gradients)


def test_halves_are_zero_where_a_side_lacks_rows():
  problem = make_problem(Q, B)
  none, every = (np.zeros(Q, bool), np.zeros(B, bool)), (problem.caption_mask, problem.video_mask)
  arguments = float32(problem.dot), float32(problem.teacher_dot), problem.pairs

  def value(captions, videos, alpha):
    return soft_nce(*arguments, HardSplit(captions, videos), float32(alpha), float32(0.8))[0][0]

  assert value(none[0], every[1], 1.0) == 0.0  # no hard caption
  assert value(every[0], none[1], 1.0) == 0.0  # no hard video
  assert value(every[0], none[1], 0.0) == 0.0  # no soft caption
  assert value(none[0], every[1], 0.0) == 0.0  # no soft video
  assert value(*none, 0.0) > 0.0 and value(*every, 1.0) > 0.0


def test_empty_batch_is_zero_and_finite():
  problem = make_problem(0, 0)
  (value, _), gradient = hard_nce(jnp.asarray(problem.dot), problem.pairs)
  assert value == 0.0 and not np.asarray(gradient).any()
  split = first_rows(problem.pairs, float32(0.5))
  dot = float32(problem.dot)
  (value, _), gradients = soft_nce(dot, dot, problem.pairs, split, float32(0.5), float32(0.8))
  assert value == 0.0 and not any(np.asarray(g).any() for g in gradients)


def test_order_of_videos_does_not_matter_for_hard_labels():
  problem = make_problem(Q, B, seed=4)
  order = np.random.default_rng(1).permutation(B)
  pairs = make_pairs(np.argsort(order)[problem.labels].astype(np.int32), problem.caption_mask, problem.video_mask)
  moved = hard_nce(jnp.asarray(problem.dot[:, order]), pairs)[0][0]
  np.testing.assert_allclose(moved, hard_nce(jnp.asarray(problem.dot), problem.pairs)[0][0], rtol=1e-6)


def test_soft_loss_with_every_row_hard_is_the_hard_loss():
  problem = make_problem(Q, B, seed=6)
  # Every video has a caption: one without counts in the soft form alone.
  problem.labels[:] = np.sort(np.arange(Q) % B)
  dot, split = float32(problem.dot), HardSplit(problem.caption_mask, problem.video_mask)
  soft = soft_nce(dot, dot, problem.pairs, split, float32(1.0), float32(0.8))[0][0]
  np.testing.assert_allclose(soft, hard_nce(dot, problem.pairs)[0][0], rtol=1e-5)


@pytest.mark.parametrize('own_reference', [False, True], ids=['teacher', 'self'])
def test_gradients_of_all_inputs_by_finite_differences(own_reference):
  """Each direction alone, weighted unevenly; the reference may be the scores themselves."""
  problem = make_problem(9, 5, seed=8)
  hard_captions, hard_videos = np.arange(Q) % 3 == 0, np.arange(B) % 2 == 0
  weights = np.random.default_rng(0).uniform(0.5, 1.5, Q) * problem.caption_mask

  def loss(dot, reference, beta):
    reference = dot if own_reference else reference
    text = text_terms(dot, reference, problem.pairs, jnp.where(hard_captions, 0.0, 1.0 - beta))
    video = video_terms(dot, reference, problem.pairs, jnp.where(hard_videos, 0.0, 1.0 - beta))
    return jnp.sum(weights * text) + jnp.sum(weights[:B] * jnp.where(problem.video_mask, video, 0.0))

  real = problem.caption_mask[:, None] & problem.video_mask
  dot, reference = (np.where(real, x, 0.0) for x in (problem.dot, problem.teacher_dot))
  arguments = float32(dot), float32(reference), float32(0.6)
  check_grads(jax.jit(loss), arguments, order=1, modes=['rev'], eps=1e-2, rtol=2e-2)


@pytest.mark.parametrize('axis', [0, 1])
def test_gradient_of_hard_terms_by_finite_differences(axis):
  problem = make_problem(9, 5, seed=8)
  has_own = np.any(problem.pairs.own, axis=axis)
  loss = lambda dot: jnp.sum(jnp.where(has_own, hard_terms(dot, problem.pairs, axis), 0.0))  # noqa: E731
  dot = np.where(problem.caption_mask[:, None] & problem.video_mask, problem.dot, 0.0)
  check_grads(jax.jit(loss), (float32(dot),), 1, ['rev'], eps=1e-2, rtol=2e-2)


@pytest.mark.parametrize('scale', [1.0, 40.0, 1000.0])
def test_terms_stay_exact_and_finite_where_scores_are_large(scale):
  """Own captions may carry less probability than float32 can hold; the epsilon of the targets bounds the term then."""
  problem = make_problem(Q, B, seed=9)
  dot, teacher = (np.asarray(scale * x, np.float32) for x in (problem.dot, problem.teacher_dot))
  split = first_rows(problem.pairs, float32(0.6))
  (value, _), gradients = soft_nce(dot, teacher, problem.pairs, split, float32(0.6), float32(0.7))
  hard = set(range(int(0.6 * Q))), set(range(int(0.6 * B)))
  oracle = lambda d, t: problems.soft_nce(d, t, problem.own, *hard, 0.6, 0.7)  # noqa: E731
  dot, teacher = problem.real(dot), problem.real(teacher)
  np.testing.assert_allclose(value, oracle(dot, teacher), rtol=1e-5)
  np.testing.assert_allclose(gradients[0], problems.numerical_gradient(lambda d: oracle(d, teacher), dot), atol=1e-5)
  np.testing.assert_allclose(gradients[1], problems.numerical_gradient(lambda t: oracle(dot, t), teacher), atol=2e-5)


def test_schedules_do_not_compile_again():
  problem = make_problem(Q, B)
  dot, split = float32(problem.dot), HardSplit(problem.caption_mask, problem.video_mask)
  soft_nce(dot, dot, problem.pairs, split, float32(0.5), float32(0.5))
  before = soft_nce._cache_size()
  for alpha in (0.1, 0.9):
    soft_nce(dot, dot, problem.pairs, split, float32(alpha), float32(1.0 - alpha))
  assert soft_nce._cache_size() == before
