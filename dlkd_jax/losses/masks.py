"""Reductions weighted by masks, which every loss shares.

Sizes: B videos, Q captions.
"""

from __future__ import annotations

import chex
import flax.struct
import jax
import jax.numpy as jnp

# Stands for minus infinity: finite, so that gradients stay finite where a whole row is padding.
MASKED = -1e10


@flax.struct.dataclass
class Pairs:
  """Which captions and videos of a padded batch are real, and which belong together.

  Attributes:
    labels: `[Q]` int32, own video of each caption.
    captions: `[Q]` bool, real captions.
    videos: `[B]` bool, real videos.
    own: `[Q, B]` bool, real pairs of a caption and its own video.
    wrong: `[Q, B]` bool, real pairs of a caption and a video that is not its own.
  """

  labels: jax.Array
  captions: jax.Array
  videos: jax.Array
  own: jax.Array
  wrong: jax.Array


def make_pairs(labels: jax.Array, captions: jax.Array, videos: jax.Array) -> Pairs:
  """Builds the pair masks from labels `[Q]` and the masks of captions `[Q]` and videos `[B]`."""
  chex.assert_equal_shape([labels, captions])
  real = captions[:, None] & videos[None, :]
  same = labels[:, None] == jnp.arange(videos.shape[0])[None, :]
  return Pairs(labels, captions, videos, real & same, real & ~same)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of the values where the mask is true; 0 where it is true nowhere."""
  weights = mask.astype(values.dtype)
  return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(weights), 1.0)


def masked_logsumexp(logits: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
  """log Σ exp over the masked entries of one axis; about -1e10 where there is none."""
  return jax.nn.logsumexp(jnp.where(mask, logits, MASKED), axis=axis)


def masked_softmax(logits: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
  """Softmax over the masked entries of one axis, 0 elsewhere."""
  weights = jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=axis)
  return jnp.where(mask, weights, 0.0)
