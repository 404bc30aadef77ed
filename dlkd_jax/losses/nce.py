"""Contrastive losses on the dot-product similarities: with one-hot labels, and with evolving soft labels.

Sizes: B videos, Q captions.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from dlkd_jax.losses.masks import Pairs, masked_logsumexp, masked_mean, masked_softmax

# Inside the logarithm of the video→text targets, as in the release.
TARGET_EPSILON = 1e-12


@flax.struct.dataclass
class HardSplit:
  """Which captions `[Q]` and videos `[B]` keep one-hot targets; the other real ones get soft targets."""

  captions: jax.Array
  videos: jax.Array


def hard_nce(dot: jax.Array, pairs: Pairs) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the contrastive loss with hard labels.

  text→video: mean_q [logsumexp_v dot[q, ·] − dot[q, y(q)]];
  video→text: mean_v [logsumexp_q dot[·, v] − logsumexp over v's own captions].

  Args:
    dot: `[Q, B]`.
    pairs: which captions and videos are real and belong together.

  Returns:
    The loss, and its parts `text_to_video` and `video_to_text`.
  """
  real = pairs.own | pairs.wrong
  own = jnp.sum(jnp.where(pairs.own, dot, 0.0), axis=1)
  text_to_video = masked_mean(masked_logsumexp(dot, real, axis=1) - own, pairs.captions)
  has_caption = jnp.any(pairs.own, axis=0)
  terms = masked_logsumexp(dot, real, axis=0) - masked_logsumexp(dot, pairs.own, axis=0)
  video_to_text = masked_mean(terms, has_caption)
  parts = {'text_to_video': text_to_video, 'video_to_text': video_to_text}
  return text_to_video + video_to_text, parts


def split_by_position(pairs: Pairs, alpha: jax.Array) -> HardSplit:
  """Makes the first ⌊alpha·Q⌋ captions and ⌊alpha·B⌋ videos of the batch hard, as the release does.

  The release's batches are sorted by captions per video, so that "soft" means "of a video with few captions".
  """
  return _first(pairs, alpha, jnp.arange(pairs.captions.size), jnp.arange(pairs.videos.size))


def split_at_random(pairs: Pairs, alpha: jax.Array, key: jax.Array) -> HardSplit:
  """Makes ⌊alpha·Q⌋ captions and ⌊alpha·B⌋ videos hard, drawn uniformly among the real ones."""
  caption_key, video_key = jax.random.split(key)
  return _first(pairs, alpha, _random_ranks(pairs.captions, caption_key), _random_ranks(pairs.videos, video_key))


def _random_ranks(mask: jax.Array, key: jax.Array) -> jax.Array:
  """Ranks the real entries in a random order from 0; padded entries come last."""
  draws = jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0)
  return jnp.argsort(jnp.argsort(draws))


def _first(pairs: Pairs, alpha, caption_ranks: jax.Array, video_ranks: jax.Array) -> HardSplit:
  captions = jnp.floor(alpha * jnp.sum(pairs.captions))
  videos = jnp.floor(alpha * jnp.sum(pairs.videos))
  return HardSplit(pairs.captions & (caption_ranks < captions), pairs.videos & (video_ranks < videos))


def soft_nce(
  dot: jax.Array,
  reference: jax.Array,
  pairs: Pairs,
  split: HardSplit,
  alpha: jax.Array,
  beta: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the contrastive loss with soft alignment (DL-DKD++, evolving soft labels).

  Targets of a hard row are one-hot. Those of a soft row are beta·one-hot + (1 − beta)·softmax of the reference, over
  videos for a caption (T) and over captions for a video (U). Then
  text→video of q: Σ_v T[q, v]·(logsumexp_v' dot[q, v'] − dot[q, v]);
  video→text of v: logsumexp_q dot[q, v] − logsumexp_q (dot[q, v] + log(U[v, q] + 1e-12));
  loss = alpha·(means over hard rows) + (1 − alpha)·(means over soft rows), where either half is 0 if it lacks rows on
  one of the two sides.

  Args:
    dot: `[Q, B]` of the branch.
    reference: `[Q, B]` similarities that the soft targets follow: the teacher's, or the branch's own.
    pairs: which captions and videos are real and belong together.
    split: the hard rows.
    alpha: share of hard rows and weight of their half, in [0, 1]. May be traced.
    beta: weight of the one-hot part of soft targets, in [0, 1]. May be traced.

  Returns:
    The loss, and its parts `hard_text`, `hard_video`, `soft_text`, `soft_video`: means, unweighted.
  """
  real = pairs.own | pairs.wrong
  one_hot = pairs.own.astype(dot.dtype)
  targets = jnp.where(
    split.captions[:, None],
    one_hot,
    beta * one_hot + (1.0 - beta) * masked_softmax(reference, real, axis=1),
  )
  log_videos = masked_logsumexp(dot, real, axis=1)[:, None]
  text_terms = jnp.sum(targets * jnp.where(real, log_videos - dot, 0.0), axis=1)

  targets = jnp.where(
    split.videos[None, :],
    one_hot,
    beta * one_hot + (1.0 - beta) * masked_softmax(reference, real, axis=0),
  )
  weighted = dot + jnp.log(targets + TARGET_EPSILON)
  video_terms = masked_logsumexp(dot, real, axis=0) - masked_logsumexp(weighted, real, axis=0)

  soft_captions = pairs.captions & ~split.captions
  soft_videos = pairs.videos & ~split.videos
  parts = {
    'hard_text': masked_mean(text_terms, split.captions),
    'hard_video': masked_mean(video_terms, split.videos),
    'soft_text': masked_mean(text_terms, soft_captions),
    'soft_video': masked_mean(video_terms, soft_videos),
  }
  any_hard = jnp.any(split.captions) & jnp.any(split.videos)
  any_soft = jnp.any(soft_captions) & jnp.any(soft_videos)
  hard = jnp.where(any_hard, parts['hard_text'] + parts['hard_video'], 0.0)
  soft = jnp.where(any_soft, parts['soft_text'] + parts['soft_video'], 0.0)
  return alpha * hard + (1.0 - alpha) * soft, parts
