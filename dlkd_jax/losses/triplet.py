"""Triplet ranking loss on the cosine similarities, in both directions.

Sizes: B videos, Q captions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlkd_jax.losses.masks import MASKED, Pairs, masked_mean


def triplet_loss(
  cosine: jax.Array,
  pairs: Pairs,
  key: jax.Array,
  *,
  margin: float,
  hard_pool: int,
  hard_negatives: jax.Array | bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the triplet loss of one branch (DL-DKD++, the ranking loss).

  text→video: mean over q of max(0, margin + cos[q, n] − cos[q, y(q)]), n drawn uniformly from the `hard_pool`
  best-scoring wrong videos. video→text: mean over v of max(0, margin + best wrong caption − mean of v's own captions).

  Args:
    cosine: `[Q, B]`.
    pairs: which captions and videos are real and belong together.
    key: typed PRNG key of the draws.
    margin: of the hinge, in cosine.
    hard_pool: number of best-scoring wrong videos to draw from; 1 takes the best.
    hard_negatives: False draws both kinds of negatives uniformly among all wrong ones instead. May be traced.

  Returns:
    The loss, and its parts `text_to_video` and `video_to_text`. A direction without any wrong pair is 0.
  """
  wrong = jnp.where(pairs.wrong, cosine, MASKED)
  video_key, text_key, pool_key = jax.random.split(key, 3)
  uniform = jnp.where(pairs.wrong, jax.random.uniform(video_key, cosine.shape), -1.0)

  positive = jnp.sum(jnp.where(pairs.own, cosine, 0.0), axis=1)
  hard = _draw_from_best(wrong, pairs, pool_key, hard_pool)
  negative = jnp.where(hard_negatives, hard, _take(cosine, jnp.argmax(uniform, axis=1), axis=1))
  has_negative = jnp.any(pairs.wrong, axis=1)
  text_to_video = masked_mean(jax.nn.relu(margin + negative - positive), has_negative)

  own_count = jnp.sum(pairs.own, axis=0)
  positive = jnp.sum(jnp.where(pairs.own, cosine, 0.0), axis=0) / jnp.maximum(own_count, 1)
  uniform = jnp.where(pairs.wrong, jax.random.uniform(text_key, cosine.shape), -1.0)
  easy = _take(cosine, jnp.argmax(uniform, axis=0), axis=0)
  negative = jnp.where(hard_negatives, jnp.max(wrong, axis=0), easy)
  has_both = (own_count > 0) & jnp.any(pairs.wrong, axis=0)
  video_to_text = masked_mean(jax.nn.relu(margin + negative - positive), has_both)

  parts = {'text_to_video': text_to_video, 'video_to_text': video_to_text}
  return text_to_video + video_to_text, parts


def _take(scores: jax.Array, index: jax.Array, axis: int) -> jax.Array:
  """Takes one entry of every row (axis 1) or column (axis 0)."""
  return jnp.squeeze(jnp.take_along_axis(scores, jnp.expand_dims(index, axis), axis), axis)


def _draw_from_best(wrong: jax.Array, pairs: Pairs, key: jax.Array, pool: int) -> jax.Array:
  """Draws, for each caption, one of its `pool` best-scoring wrong videos; returns their scores `[Q]`."""
  pool = min(pool, wrong.shape[1])
  best, _ = jax.lax.top_k(wrong, pool)
  available = jnp.minimum(jnp.sum(pairs.wrong, axis=1), pool)
  drawn = jax.random.randint(key, available.shape, 0, jnp.maximum(available, 1))
  return _take(best, drawn, axis=1)
