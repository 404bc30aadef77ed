"""Which captions and videos belong together; masked means, draws, and the rows with hard labels.

Sizes here and in all losses: B videos, Q captions, N entries of either kind, L positions of a row of frames; Q_loc and
B_loc are those of one device, and equal Q and B on one device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
  def own(self) -> jax.Array:
    """`[Q, B]` bool, real pairs of a caption and its own video."""
    return self.real & (self.labels[:, None] == self.video_ids[None, :])

  @property
  def wrong(self) -> jax.Array:
    """`[Q, B]` bool, real pairs of a caption and a video that is not its own."""
    return self.real & ~self.own


def global_sum(x: jax.Array, axes: tuple[str, ...] = ()) -> jax.Array:
  """Sums over the devices along the mesh axes, inside `shard_map`; without axes it is x itself."""
  return jax.lax.psum(x, axes) if axes else x


def mean_and_count(values: jax.Array, mask: jax.Array, axes: tuple[str, ...] = ()) -> tuple[jax.Array, jax.Array]:
  """Mean of the values where the mask is true, over all devices along the axes, and in how many places it is (float32).

  The mean is 0 where the mask is true nowhere.
  """
  count = jnp.sum(mask.astype(jnp.float32))
  # One all-reduce for both. Counts are exact in float32 up to 2²⁴.
  total, count = global_sum(jnp.stack([jnp.sum(jnp.where(mask, values, 0.0)), count]), axes)
  return total / jnp.maximum(count, 1.0), count


def masked_mean(values: jax.Array, mask: jax.Array, axes: tuple[str, ...] = ()) -> jax.Array:
  """The first of `mean_and_count`."""
  return mean_and_count(values, mask, axes)[0]


_PARTS = 8
# Numbers in a matrix below which it is taken whole.
_SMALL = 2**19
# Entries of a part are a multiple of the lanes of a TPU's vector unit.
_LANES = 128


def by_blocks(function: Callable[..., Any], scores: Any, pairs: Pairs, vectors: Any = None, *, axis: int) -> Any:
  """Computes vectors over the entries of a view from its matrices, in about eight parts one after another.

  What the function makes of a whole matrix on its way (masked scores, exponentials, targets) then exists for a part of
  the entries only, whether or not the compiler folds it into the reductions.

  Args:
    function: (scores, pairs, vectors) of a part → `[n]` arrays over its n entries. It may not mix entries.
    scores: pytree of `[Q, B]`.
    pairs: pairs of the view.
    vectors: pytree of `[N]` arrays over the entries.
    axis: along which the function reduces: 1 over videos, so that the entries are captions, 0 the other way round.

  Returns:
    What the function returns for the whole, `[N]` arrays.
  """
  matrix = jax.tree.leaves(scores)[0]
  entries = matrix.shape[1 - axis]
  size = -(-entries // (_PARTS * _LANES)) * _LANES
  if matrix.size < _SMALL or size >= entries:
    return function(scores, pairs, vectors)
  names = ('labels', 'captions', 'caption_ordinals') if axis else ('videos', 'video_ids', 'video_ordinals')

  def part(start):
    def take(x, axis=0):
      return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    some = pairs.replace(**{name: take(getattr(pairs, name)) for name in names})
    return function(jax.tree.map(lambda x: take(x, 1 - axis), scores), some, jax.tree.map(take, vectors))

  count = -(-entries // size)
  # The last part starts early enough to be whole; what it computes again is dropped.
  results = jax.lax.map(part, jnp.minimum(jnp.arange(count) * size, entries - size))
  last = entries - (count - 1) * size
  return jax.tree.map(lambda x: jnp.concatenate([x[:-1].reshape(-1), x[-1, size - last :]]), results)


def random_bits(key: jax.Array, ordinals: jax.Array) -> jax.Array:
  """Draws 32 bits for each entry, `[N]` uint32; that of an entry depends on its ordinal alone."""
  keys = jax.vmap(lambda ordinal: jax.random.fold_in(key, ordinal))(jnp.maximum(ordinals, 0))
  return jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(keys)


def below(bits: jax.Array, counts: jax.Array) -> jax.Array:
  """Turns random bits `[N]` into uniform int32 in [0, count), a count each; 0 counts as 1."""
  # The remainder favours small numbers by at most count / 2³² of their share.
  return (bits % jnp.maximum(counts, 1).astype(jnp.uint32)).astype(jnp.int32)


def random_ranks(key: jax.Array, size: int, count: jax.Array) -> jax.Array:
  """Ranks the ordinals 0 … count − 1 in a random order, `[size]` int32; those from the count on come last.

  The static size, at least the count, does not influence the ranks.
  """
  ordinals = jnp.arange(size, dtype=jnp.int32)
  # Even draws, so that the odd largest number is left for what is not real.
  draws = random_bits(key, ordinals) & ~jnp.uint32(1)
  order = jnp.argsort(jnp.where(ordinals < count, draws, jnp.uint32(2**32 - 1)))
  return jnp.zeros(size, jnp.int32).at[order].set(ordinals)


@flax.struct.dataclass
class HardSplit:
  """The rows that keep one-hot targets; the other real ones get soft targets.

  Attributes:
    captions: bool over the captions of the text view.
    videos: bool over the videos of the video view.
  """

  captions: jax.Array
  videos: jax.Array


def split(
  text: Pairs, video: Pairs, alpha: jax.Array, key: jax.Array | None = None, axes: tuple[str, ...] = ()
) -> HardSplit:
  """Makes ⌊alpha·Q⌋ captions and ⌊alpha·B⌋ videos of the whole batch hard: the first, as the release does, or any.

  The release's batches are sorted by captions per video, so that "soft" means "of a video with few captions".

  Args:
    text: pairs of the text view.
    video: pairs of the video view.
    alpha: in [0, 1].
    key: of a uniform draw, the same on all devices; None: the first ones by their ordinals.
    axes: mesh axes that the batch is spread over.
  """
  captions, videos = global_sum(jnp.stack([jnp.sum(text.captions), jnp.sum(video.videos)]), axes)
  ranks = text.caption_ordinals, video.video_ordinals
  if key is not None:
    # Every device ranks all entries: the video view has all captions, the text view all videos.
    sizes = (video.captions.shape[0], captions), (text.videos.shape[0], videos)
    drawn = [random_ranks(k, *size) for k, size in zip(jax.random.split(key), sizes, strict=True)]
    ranks = [order[jnp.maximum(own, 0)] for order, own in zip(drawn, ranks, strict=True)]
  return HardSplit(
    text.captions & (ranks[0] < hard_count(alpha, captions)), video.videos & (ranks[1] < hard_count(alpha, videos))
  )


# Scheduled shares are float32, so alpha·N of an alpha that is exact on paper, as 0.65·20, may come out below the whole
# number that it is. Rounding leaves up to about 1.2e-7 in alpha, whether constant or of a linear schedule (its steps
# are rounded near 1, which makes the error absolute), and up to 1e-7·N in the product and the sum: together 2.2e-7·N.
_SHARE_ERROR = 2.0**-22


def hard_count(alpha: jax.Array, count: jax.Array) -> jax.Array:
  """Returns ⌊alpha·count⌋ as int32, exact wherever the product is a whole number on paper.

  A product that is truly below a whole number by less than 2.4e-7·count is raised to it: float32 cannot tell them
  apart.
  """
  share = jnp.asarray(alpha, jnp.float32) * count + _SHARE_ERROR * count
  return jnp.floor(share).astype(jnp.int32)
