"""Which captions and videos belong together, and the masked reductions that every loss shares.

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
  """Which captions and videos of one view of the batch are real, and which belong together.

  A view is a matrix of scores, captions × videos. Where a batch is spread over devices there are two on each: the
  *text view* has the device's own captions and all videos, the *video view* all captions and the device's own videos.
  On one device both are the whole batch. Only vectors are kept; the matrices of pairs are computed where they are used.

  Attributes:
    labels: `[Q]` int32, own video of each caption: its index among all videos of the batch, over all devices.
    captions: `[Q]` bool, real captions. Their own videos are real.
    videos: `[B]` bool, real videos.
    video_ids: `[B]` int32, index of each column's video among all videos of the batch.
    caption_ordinals: `[Q]` int32, number of a real caption among those of the whole batch, from 0; -1 for a padded one.
      The captions of a video have consecutive ones.
    video_ordinals: `[B]` int32, the same of videos.
  """

  labels: jax.Array
  captions: jax.Array
  videos: jax.Array
  video_ids: jax.Array
  caption_ordinals: jax.Array
  video_ordinals: jax.Array

  @property
  def real(self) -> jax.Array:
    """`[Q, B]` bool, pairs of a real caption and a real video."""
    return self.captions[:, None] & self.videos[None, :]

  @property
  def same(self) -> jax.Array:
    """`[Q, B]` bool, pairs whose video carries the caption's label, padded captions included."""
    return self.labels[:, None] == self.video_ids[None, :]

  @property
  def own(self) -> jax.Array:
    """`[Q, B]` bool, real pairs of a caption and its own video."""
    return self.real & self.same

  @property
  def wrong(self) -> jax.Array:
    """`[Q, B]` bool, real pairs of a caption and a video that is not its own."""
    return self.real & ~self.same


def make_pairs(
  labels: jax.Array,
  captions: jax.Array,
  videos: jax.Array,
  *,
  video_ids: jax.Array | None = None,
  caption_ordinals: jax.Array | None = None,
  video_ordinals: jax.Array | None = None,
) -> Pairs:
  """Builds the pairs of one view.

  Args:
    labels: `[Q]` integers, own video of each caption, as an index among all videos of the batch.
    captions: `[Q]` bool, real captions.
    videos: `[B]` bool, real videos.
    video_ids: `[B]` integers, index of each column's video among all videos; by default its column.
    caption_ordinals: `[Q]` integers, see `Pairs`; by default real captions are numbered in their order here.
    video_ordinals: `[B]` integers, see `Pairs`; by default real videos are numbered in their order here.

  Returns:
    The pairs.

  Raises:
    AssertionError: two arrays disagree on the number of captions or of videos.
  """
  if video_ids is None:
    video_ids = jnp.arange(videos.shape[0], dtype=jnp.int32)
  if caption_ordinals is None:
    caption_ordinals = _number(captions)
  if video_ordinals is None:
    video_ordinals = _number(videos)
  chex.assert_equal_shape([labels, captions, caption_ordinals])
  chex.assert_equal_shape([videos, video_ids, video_ordinals])
  labels, video_ids, caption_ordinals, video_ordinals = (
    jnp.asarray(x, jnp.int32) for x in (labels, video_ids, caption_ordinals, video_ordinals)
  )
  return Pairs(labels, jnp.asarray(captions), jnp.asarray(videos), video_ids, caption_ordinals, video_ordinals)


def _number(mask: jax.Array) -> jax.Array:
  """Numbers the true entries from 0; -1 elsewhere."""
  mask = jnp.asarray(mask)
  return jnp.where(mask, jnp.cumsum(mask.astype(jnp.int32)) - 1, -1)


def global_sum(x: jax.Array, axes: tuple[str, ...] = ()) -> jax.Array:
  """Sums over the devices along the mesh axes, inside `shard_map`; without axes it is x itself."""
  return jax.lax.psum(x, axes) if axes else x


def mean_and_count(values: jax.Array, mask: jax.Array, axes: tuple[str, ...] = ()) -> tuple[jax.Array, jax.Array]:
  """Mean of the values where the mask is true, 0 where it is true nowhere, and in how many places it is (float32).

  Args:
    values: any shape.
    mask: bool, the same shape.
    axes: mesh axes whose devices hold parts of the values; both results are over all of them.
  """
  count = jnp.sum(mask.astype(jnp.float32))
  # One all-reduce for both. Counts are exact in float32 up to 2²⁴.
  total, count = global_sum(jnp.stack([jnp.sum(jnp.where(mask, values, 0.0)), count]), axes)
  return total / jnp.maximum(count, 1.0), count


def masked_mean(values: jax.Array, mask: jax.Array, axes: tuple[str, ...] = ()) -> jax.Array:
  """Mean of the values where the mask is true, over all devices along the axes; 0 where it is true nowhere."""
  return mean_and_count(values, mask, axes)[0]


def masked_logsumexp(logits: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
  """log Σ exp over the masked entries of one axis; about -1e10 where there is none."""
  return jax.nn.logsumexp(jnp.where(mask, logits, MASKED), axis=axis)


def masked_softmax(logits: jax.Array, mask: jax.Array, sums: jax.Array, axis: int) -> jax.Array:
  """Softmax over the masked entries of one axis, 0 elsewhere, from the sums that `masked_logsumexp` gave."""
  return jnp.where(mask, jnp.exp(logits - jnp.expand_dims(sums, axis)), 0.0)
