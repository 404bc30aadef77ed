"""The triplet loss: values against loops, the distribution of the draws, gradients, edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses import problems
from tests.losses.problems import B, Q, make_pairs, make_problem, triplet_loss

MARGIN = 0.2


@functools.cache
def compiled(pool):
  def loss(cosine, pairs, key, hard):
    return triplet_loss(cosine, cosine, pairs, pairs, key, margin=MARGIN, hard_pool=pool, hard_negatives=hard)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def run(problem, pool=1, hard=True, seed=0):
  return compiled(pool)(jnp.asarray(problem.cosine), problem.pairs, jax.random.key(seed), jnp.asarray(hard))


@pytest.mark.parametrize('captions', [1, 5, Q])
@pytest.mark.parametrize('videos', [2, 4, B])
def test_hardest_negative_against_loops(captions, videos):
  problem = make_problem(captions, videos, seed=captions * 10 + videos)
  (value, parts), gradient = run(problem)
  oracle = lambda cosine: sum(problems.triplet_hardest(cosine, problem.own, MARGIN))  # noqa: E731
  cosine = problem.real(problem.cosine)
  text, video = problems.triplet_hardest(cosine, problem.own, MARGIN)
  np.testing.assert_allclose(parts['text_to_video'], text, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(parts['video_to_text'], video, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(value, text + video, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(problem.real(gradient), problems.numerical_gradient(oracle, cosine), atol=1e-5)
  padded = ~(problem.caption_mask[:, None] & problem.video_mask)
  assert not np.asarray(gradient)[padded].any()


@pytest.mark.parametrize(('captions', 'videos'), [(5, 1), (0, B), (0, 0), (1, 1)])
def test_zero_and_finite_without_a_wrong_pair(captions, videos):
  for hard in (True, False):
    (value, _), gradient = run(make_problem(captions, videos), hard=hard)
    assert value == 0.0 and not np.asarray(gradient).any()


def drawn_counts(pool, hard, keys=1500):
  """How often each video is the text→video negative of each caption, and each caption the negative of each video."""
  problem = make_problem(9, 6, seed=3)

  # A margin this large keeps every hinge open, so the gradient of a row is -1/n at its own and +1/n at the drawn.
  def gradient(key):
    def parts(text, video):
      drawn = {'margin': 10.0, 'hard_pool': pool, 'hard_negatives': hard}
      return triplet_loss(text, video, problem.pairs, problem.pairs, key, **drawn)[0]

    text, video = jax.grad(parts, argnums=(0, 1))(jnp.asarray(problem.cosine), jnp.asarray(problem.cosine))
    return text > 0, video > 0

  text, video = jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(1), keys))
  return problem, np.asarray(text).sum(axis=0), np.asarray(video).sum(axis=0)


def assert_uniform(counts, keys):
  """Chi-square of the counts within five standard deviations of what a uniform draw gives."""
  expected, freedom = keys / len(counts), len(counts) - 1
  assert np.sum((counts - expected) ** 2 / expected) < freedom + 5 * np.sqrt(2 * freedom), counts


# A pool of 20 holds more than there are wrong videos: the draw is among those there are.
@pytest.mark.parametrize('pool', [3, 20])
def test_negatives_are_drawn_uniformly_from_the_pool_of_best_wrong_videos(pool):
  problem, text, video = drawn_counts(pool, hard=True)
  for q in range(problem.captions):
    wrong = [v for v in range(problem.videos) if v != problem.labels[q]]
    best = sorted(wrong, key=lambda v: -problem.cosine[q, v])[:pool]
    assert set(np.flatnonzero(text[q])) == set(best)
    assert_uniform(text[q][best], 1500)
    assert text[q].sum() == 1500
  assert not text[problem.captions :].any() and not text[:, problem.videos :].any()
  for v in set(problem.own):
    wrong = [q for q in range(problem.captions) if problem.labels[q] != v]
    hardest = max(wrong, key=lambda q: problem.cosine[q, v])
    assert set(np.flatnonzero(video[:, v])) == {hardest}


def test_easy_negatives_are_drawn_uniformly_among_all_wrong_ones():
  problem, text, video = drawn_counts(pool=3, hard=False)
  for q in range(problem.captions):
    wrong = [v for v in range(problem.videos) if v != problem.labels[q]]
    assert set(np.flatnonzero(text[q])) == set(wrong)
    assert_uniform(text[q][wrong], 1500)
  for v in set(problem.own):
    wrong = [q for q in range(problem.captions) if problem.labels[q] != v]
    assert set(np.flatnonzero(video[:, v])) == set(wrong)
    assert_uniform(video[wrong, v], 1500)


@pytest.mark.parametrize(('pool', 'hard'), [(1, True), (4, True), (4, False)])
def test_order_does_not_matter_to_value_gradient_or_draws(pool, hard):
  """Captions and videos in any order, with padding anywhere between, each with its ordinal."""
  problem = make_problem(9, 5, seed=2)
  pairs = problem.pairs
  rng = np.random.default_rng(0)
  rows, columns = rng.permutation(Q), rng.permutation(B)
  moved = make_pairs(
    np.argsort(columns)[problem.labels[rows]],
    problem.caption_mask[rows],
    problem.video_mask[columns],
    caption_ordinals=pairs.caption_ordinals[rows],
    video_ordinals=pairs.video_ordinals[columns],
  )
  for seed in range(5):
    key = jax.random.key(seed), jnp.asarray(hard)
    (value, _), gradient = compiled(pool)(jnp.asarray(problem.cosine), pairs, *key)
    (other, _), other_gradient = compiled(pool)(jnp.asarray(problem.cosine[rows][:, columns]), moved, *key)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(other_gradient, gradient[rows][:, columns], atol=1e-7)


def test_draws_do_not_depend_on_the_amount_of_padding():
  problem, key = make_problem(9, 5, seed=2), jax.random.key(3)
  q, v = problem.captions, problem.videos
  bare = make_pairs(problem.labels[:q], problem.caption_mask[:q], problem.video_mask[:v])
  for hard in (True, False):
    padded = compiled(3)(jnp.asarray(problem.cosine), problem.pairs, key, jnp.asarray(hard))[0][0]
    unpadded = compiled(3)(jnp.asarray(problem.cosine[:q, :v]), bare, key, jnp.asarray(hard))[0][0]
    np.testing.assert_allclose(padded, unpadded, rtol=1e-6)
