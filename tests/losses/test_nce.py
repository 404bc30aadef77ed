"""The contrastive losses and the hard/soft split against loops written from the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkd_jax.losses import nce
from dlkd_jax.losses.masks import make_pairs
from tests.losses import problems
from tests.losses.problems import B, Q, make_problem

SIZES = [(1, 1), (3, 2), (7, 5), (Q, B)]
hard_nce = jax.jit(jax.value_and_grad(nce.hard_nce, has_aux=True))
split_by_position = jax.jit(nce.split_by_position)
split_at_random = jax.jit(nce.split_at_random)


@jax.jit
def soft_nce(dot, reference, pairs, split, alpha, beta):
  function = jax.value_and_grad(nce.soft_nce, argnums=(0, 1), has_aux=True)
  return function(dot, reference, pairs, split, alpha, beta)


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
  split = split_by_position(problem.pairs, float32(alpha))
  arguments = float32(problem.dot), float32(problem.teacher_dot), problem.pairs, split, float32(alpha), float32(beta)
  (value, _), (gradient, reference_gradient) = soft_nce(*arguments)
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
  split = nce.HardSplit(np.isin(np.arange(Q), list(hard_captions)), np.isin(np.arange(B), list(hard_videos)))
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
    return soft_nce(*arguments, nce.HardSplit(captions, videos), float32(alpha), float32(0.8))[0][0]

  assert value(none[0], every[1], 1.0) == 0.0  # no hard caption
  assert value(every[0], none[1], 1.0) == 0.0  # no hard video
  assert value(every[0], none[1], 0.0) == 0.0  # no soft caption
  assert value(none[0], every[1], 0.0) == 0.0  # no soft video
  assert value(*none, 0.0) > 0.0 and value(*every, 1.0) > 0.0


def test_empty_batch_is_zero_and_finite():
  problem = make_problem(0, 0)
  (value, _), gradient = hard_nce(jnp.asarray(problem.dot), problem.pairs)
  assert value == 0.0 and not np.asarray(gradient).any()
  split = split_by_position(problem.pairs, float32(0.5))
  dot = float32(problem.dot)
  (value, _), gradients = soft_nce(dot, dot, problem.pairs, split, float32(0.5), float32(0.8))
  assert value == 0.0 and not any(np.asarray(g).any() for g in gradients)


@pytest.mark.parametrize(('captions', 'videos'), [(0, 0), (1, 1), (7, 3), (Q, B)])
def test_split_counts_real_rows_only(captions, videos):
  pairs = make_problem(captions, videos).pairs
  for alpha in np.linspace(0.0, 1.0, 29, dtype=np.float32):
    hard = math.floor(alpha * np.float32(captions)), math.floor(alpha * np.float32(videos))
    by_position = split_by_position(pairs, alpha)
    np.testing.assert_array_equal(by_position.captions, np.arange(Q) < hard[0])
    np.testing.assert_array_equal(by_position.videos, np.arange(B) < hard[1])
    drawn = split_at_random(pairs, alpha, jax.random.key(int(alpha * 100)))
    assert (np.sum(drawn.captions), np.sum(drawn.videos)) == hard
    assert not np.any(drawn.captions & ~pairs.captions) and not np.any(drawn.videos & ~pairs.videos)


def test_random_split_is_uniform_over_the_real_rows_and_its_sides_are_independent():
  pairs, keys = make_problem(10, 6).pairs, 1500
  draw = jax.jit(jax.vmap(lambda key: nce.split_at_random(pairs, float32(0.5), key)))
  drawn = draw(jax.random.split(jax.random.key(7), keys))
  for mask, count in ((drawn.captions, 10), (drawn.videos, 6)):
    share = np.mean(np.asarray(mask)[:, :count], axis=0)
    assert np.abs(share - 0.5).max() < 5 * np.sqrt(0.25 / keys)
  both = np.mean(np.asarray(drawn.captions)[:, 0] & np.asarray(drawn.videos)[:, 0])
  assert abs(both - 0.25) < 5 * np.sqrt(0.1875 / keys)


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
  dot, split = float32(problem.dot), nce.HardSplit(problem.caption_mask, problem.video_mask)
  soft = soft_nce(dot, dot, problem.pairs, split, float32(1.0), float32(0.8))[0][0]
  np.testing.assert_allclose(soft, hard_nce(dot, problem.pairs)[0][0], rtol=1e-5)
