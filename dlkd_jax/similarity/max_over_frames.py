"""Similarity of a query and a video: the maximum over the video's frames, as cosine and as dot product.

Sizes: B videos, Q captions, L frames, H hidden.
"""

from __future__ import annotations

import chex
import flax.struct
import jax
import jax.numpy as jnp

NORM_EPSILON = 1e-12
# Similarity of a padded frame, and so of a video without any real frame: below every real one, yet finite.
PADDED = -1e10


@flax.struct.dataclass
class FrameSimilarity:
  """Similarities of Q captions and B videos under one branch.

  Attributes:
    cosine: `[Q, B]`, maximum over real frames of the cosine.
    dot: `[Q, B]`, maximum over real frames of the dot product; may sit on another frame.
    own_curve: `[Q, L]`, cosine with every frame of the caption's own video (meaningless at padded frames), or None
      where no labels were given.
  """

  cosine: jax.Array
  dot: jax.Array
  own_curve: jax.Array | None = None


def inverse_norm(vectors: jax.Array) -> jax.Array:
  """Returns 1 / max(‖x‖, 1e-12) over the last axis, with a zero gradient at zero vectors."""
  squares = jnp.sum(jnp.square(vectors), axis=-1)
  return jax.lax.rsqrt(jnp.maximum(squares, NORM_EPSILON**2))


def max_frame_similarity(
  queries: jax.Array,
  frames: jax.Array,
  frame_mask: jax.Array,
  labels: jax.Array | None = None,
) -> FrameSimilarity:
  """Computes cosine and dot maxima over frames from one matrix product.

  cosine[q, v] = max_l ⟨x_q, f_vl⟩ / (‖x_q‖ ‖f_vl‖) and dot[q, v] = max_l ⟨x_q, f_vl⟩, l over the real frames of v.
  The norm of the query is divided out after the maximum, so both maxima come from the same products.

  Args:
    queries: `[Q, H]`.
    frames: `[B, L, H]`.
    frame_mask: `[B, L]` bool, true at real frames.
    labels: `[Q]` int32, own video of each caption; gives the own-video curves.

  Returns:
    The similarities; -1e10 for videos without a real frame.
  """
  chex.assert_equal(queries.shape[-1], frames.shape[-1])
  chex.assert_shape(frame_mask, frames.shape[:2])
  products = jnp.einsum('qh,blh->qbl', queries, frames)
  query_scale = inverse_norm(queries)[:, None]
  frame_scale = inverse_norm(frames)

  dot = jnp.max(jnp.where(frame_mask[None], products, PADDED), axis=-1)
  scaled = products * frame_scale[None]
  cosine = jnp.max(jnp.where(frame_mask[None], scaled, PADDED), axis=-1)
  any_frame = jnp.any(frame_mask, axis=-1)[None]
  cosine = jnp.where(any_frame, cosine * query_scale, PADDED)

  own_curve = None
  if labels is not None:
    own = jnp.take_along_axis(scaled, labels[:, None, None], axis=1)[:, 0]
    own_curve = own * query_scale
  return FrameSimilarity(cosine, dot, own_curve)


def max_frame_cosine(queries: jax.Array, frames: jax.Array, frame_mask: jax.Array) -> jax.Array:
  """Computes only the cosine maximum, `[Q, B]`, as retrieval needs it.

  Args and padded values are those of `max_frame_similarity`.
  """
  queries = queries * inverse_norm(queries)[:, None]
  frames = frames * inverse_norm(frames)[..., None]
  products = jnp.einsum('qh,blh->qbl', queries, frames)
  return jnp.max(jnp.where(frame_mask[None], products, PADDED), axis=-1)
