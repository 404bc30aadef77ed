"""Which captions and videos of a batch keep hard labels: the first, or randomly drawn ones.

Sizes: B videos, Q captions.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from dlkd_jax.losses.draws import random_ranks
from dlkd_jax.losses.masks import Pairs, global_sum

# Scheduled shares are float32, so alpha·N of an alpha that is exact on paper, as 0.65·20, may come out below the whole
# number that it is. Rounding leaves up to about 1.2e-7 in alpha, whether constant or of a linear schedule (its steps
# are rounded near 1, which makes the error absolute), and up to 1e-7·N in the product and the sum: together 2.2e-7·N.
_SHARE_ERROR = 2.0**-22


@flax.struct.dataclass
class HardSplit:
  """The rows that keep one-hot targets; the other real ones get soft targets.

  Attributes:
    captions: bool over the captions of the text view.
    videos: bool over the videos of the video view.
  """

  captions: jax.Array
  videos: jax.Array


def split_by_position(text: Pairs, video: Pairs, alpha: jax.Array, axes: tuple[str, ...] = ()) -> HardSplit:
  """Makes the first ⌊alpha·Q⌋ captions and ⌊alpha·B⌋ videos of the batch hard, by their ordinals, as the release does.

  The release's batches are sorted by captions per video, so that "soft" means "of a video with few captions".

  Args:
    text: the text view.
    video: the video view.
    alpha: share of hard rows, in [0, 1]. May be traced.
    axes: mesh axes that the batch is spread over.
  """
  captions, videos = _counts(text, video, axes)
  return HardSplit(
    text.captions & (text.caption_ordinals < hard_count(alpha, captions)),
    video.videos & (video.video_ordinals < hard_count(alpha, videos)),
  )


def split_at_random(
  text: Pairs,
  video: Pairs,
  alpha: jax.Array,
  key: jax.Array,
  axes: tuple[str, ...] = (),
) -> HardSplit:
  """Makes ⌊alpha·Q⌋ captions and ⌊alpha·B⌋ videos hard, drawn uniformly among the real ones of the whole batch.

  Args are those of `split_by_position`; key is a typed PRNG key, the same on all devices.
  """
  captions, videos = _counts(text, video, axes)
  caption_key, video_key = jax.random.split(key)
  # Every device ranks all entries: the video view has all captions, the text view all videos.
  caption_ranks = random_ranks(caption_key, video.captions.shape[0], captions)
  video_ranks = random_ranks(video_key, text.videos.shape[0], videos)
  return HardSplit(
    text.captions & (caption_ranks[jnp.maximum(text.caption_ordinals, 0)] < hard_count(alpha, captions)),
    video.videos & (video_ranks[jnp.maximum(video.video_ordinals, 0)] < hard_count(alpha, videos)),
  )


def _counts(text: Pairs, video: Pairs, axes: tuple[str, ...]) -> jax.Array:
  """Counts the real captions and videos of the whole batch, `[2]` int32."""
  return global_sum(jnp.stack([jnp.sum(text.captions), jnp.sum(video.videos)]), axes)


def hard_count(alpha: jax.Array, count: jax.Array) -> jax.Array:
  """Returns ⌊alpha·count⌋ as int32, exact wherever the product is a whole number on paper.

  A product that is truly below a whole number by less than 2.4e-7·count is raised to it: float32 cannot tell them
  apart.
  """
  share = jnp.asarray(alpha, jnp.float32) * count + _SHARE_ERROR * count
  return jnp.floor(share).astype(jnp.int32)
