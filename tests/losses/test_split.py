"""The hard/soft split: exact counts, draws by ordinal, independence of the layout."""

import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.losses import pairs as split
from dlkd_jax.training import optimizer
from tests.losses.problems import B, Q, make_pairs, make_problem

COUNTS = np.arange(4001)
hard_counts = jax.jit(jax.vmap(split.hard_count, in_axes=(0, None)))


@jax.jit
def by_position(pairs, alpha):
  return split.split(pairs, pairs, alpha)


@jax.jit
def at_random(pairs, alpha, key):
  return split.split(pairs, pairs, alpha, key)


def test_counts_of_constant_shares_are_exact():
  """0.65·20 is 13, though 0.65 in float32 lies below 65/100."""
  assert split.hard_count(jnp.float32(0.65), 20) == 13
  percent = np.arange(101)
  counts = hard_counts((percent / 100).astype(np.float32), COUNTS)
  np.testing.assert_array_equal(counts, percent[:, None] * COUNTS // 100)


def test_counts_of_the_linear_schedule_are_exact():
  """0.8·(1 − e/120) is the fraction (120 − e)/150."""
  epochs = np.arange(121)
  alphas = jax.jit(jax.vmap(optimizer.decay('linear', 1, 0.8, 0.0, 120)))(epochs)
  np.testing.assert_array_equal(hard_counts(alphas, COUNTS), (120 - epochs)[:, None] * COUNTS // 150)


@pytest.mark.parametrize('kind', ['exp', 'sigmoid', 'cosine'])
def test_counts_of_curved_schedules_follow_float64(kind):
  """Except where float32 cannot tell the product from the whole number above it."""
  epochs = np.arange(120)
  with_float64 = {
    'exp': lambda e: 0.8 * 0.95**e,
    'sigmoid': lambda e: 0.8 * 800 / (800 + math.exp(e / 8)),
    'cosine': lambda e: 0.4 * (1 + math.cos(math.pi * e / 120)),
  }[kind]
  alphas = np.array([with_float64(int(e)) for e in epochs])
  counts = np.asarray(hard_counts(jax.jit(jax.vmap(optimizer.decay(kind, 1, 0.8, 0.0, 120)))(epochs), COUNTS))
  product = alphas[:, None] * COUNTS
  differs = counts != np.floor(product)
  assert differs.mean() < 1e-3
  # A millionth of the count on either side of a whole number: the schedule itself is rounded, too.
  assert (np.abs(product - np.round(product)) < 1e-6 * COUNTS)[differs].all()
  np.testing.assert_array_equal(counts[differs], np.round(product)[differs])


@pytest.mark.parametrize(('captions', 'videos'), [(0, 0), (1, 1), (7, 3), (Q, B)])
def test_split_counts_real_rows_only(captions, videos):
  pairs = make_problem(captions, videos).pairs
  for k in range(29):
    share = fractions.Fraction(k, 28)
    alpha, hard = jnp.float32(k / 28), (math.floor(share * captions), math.floor(share * videos))
    first = by_position(pairs, alpha)
    np.testing.assert_array_equal(first.captions, np.arange(Q) < hard[0])
    np.testing.assert_array_equal(first.videos, np.arange(B) < hard[1])
    drawn = at_random(pairs, alpha, jax.random.key(k))
    assert (np.sum(drawn.captions), np.sum(drawn.videos)) == hard
    assert not np.any(drawn.captions & ~pairs.captions) and not np.any(drawn.videos & ~pairs.videos)


def test_random_split_is_uniform_over_the_real_rows_and_its_sides_are_independent():
  pairs, keys = make_problem(10, 6).pairs, 1500
  drawn = jax.vmap(lambda key: at_random(pairs, jnp.float32(0.5), key))(jax.random.split(jax.random.key(7), keys))
  for mask, count in ((drawn.captions, 10), (drawn.videos, 6)):
    share = np.mean(np.asarray(mask)[:, :count], axis=0)
    assert np.abs(share - 0.5).max() < 5 * np.sqrt(0.25 / keys)
  both = np.mean(np.asarray(drawn.captions)[:, 0] & np.asarray(drawn.videos)[:, 0])
  assert abs(both - 0.25) < 5 * np.sqrt(0.1875 / keys)


def test_splits_follow_the_ordinals_whatever_the_order_and_the_padding():
  pairs, rng, alpha = make_problem(9, 5).pairs, np.random.default_rng(0), jnp.float32(0.6)
  # Six more captions and two more videos than before, all of them padding, and everything in another order.
  captions = rng.permutation(np.concatenate([np.arange(9), np.full(9, -1)]))
  videos = rng.permutation(np.concatenate([np.arange(5), np.full(4, -1)]))
  moved = make_pairs(np.zeros(18, int), captions >= 0, videos >= 0, caption_ordinals=captions, video_ordinals=videos)
  for seed in range(5):
    key = jax.random.key(seed)
    splits = ((by_position(p, alpha), at_random(p, alpha, key)) for p in (pairs, moved))
    for expected, other in zip(*splits, strict=True):
      for rows, mask, ordinals in (
        (expected.captions, other.captions, captions),
        (expected.videos, other.videos, videos),
      ):
        assert set(ordinals[np.asarray(mask)]) == set(np.flatnonzero(rows))
