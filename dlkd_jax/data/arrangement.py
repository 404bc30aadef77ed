"""Who is where in a batch: the order of its videos, the device and the row of each, from lengths alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from dlkd_jax.data.lengths import Lengths
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.data.packing import Places, one_a_row, pack
from dlkd_jax.data.sharing import share


@dataclasses.dataclass(frozen=True)
class Slots:
  """The most sequences of a row, of frames and of tokens."""

  frames: int
  tokens: int


@dataclasses.dataclass(frozen=True)
class ShardArrangement:
  """The share of one device: b videos with q captions, ordered by ordinal.

  Attributes:
    rows: `[b]` the videos' places in the source.
    videos: `[b]` their ordinals in the batch.
    captions: `[b]` captions of each.
    caption_ordinals: `[q]` ordinals of the captions in the batch.
    frames: `[b]` frames of each video.
    words: `[q]` tokens of each caption.
    frame_places: where the videos lie in the rows of frames.
    token_places: where the captions lie in the rows of tokens.
  """

  rows: np.ndarray
  videos: np.ndarray
  captions: np.ndarray
  caption_ordinals: np.ndarray
  frames: np.ndarray
  words: np.ndarray
  frame_places: Places
  token_places: Places


def arrange(
  rows: np.ndarray, lengths: Lengths, options: PipelineOptions, slots: Slots | None = None
) -> list[ShardArrangement]:
  """Arranges a batch over its shards.

  The order of the batch is that of `rows`, or by captions a video, most first, where `options.sort_by_captions`. It
  numbers videos and captions (their ordinals) whatever the shards are.

  Args:
    rows: `[n]` places of the batch's videos in the source, in the order drawn.
    lengths: of all records of the source.
    options: limits, order, packing and number of shards.
    slots: the most sequences of a packed row, `options.slots` by default.

  Returns:
    What each shard holds; equal on all processes, whichever of the shards are theirs.
  """
  slots = slots or Slots(options.slots, options.slots)
  captions = lengths.captions[rows]
  if options.sort_by_captions:
    order = np.argsort(-captions, kind='stable')
    rows, captions = rows[order], captions[order]
  frames, words = lengths.frames(rows, options), lengths.words(rows, options)
  owner = np.repeat(np.arange(len(rows)), captions)  # of each caption
  totals = np.bincount(owner, words, len(rows)).astype(np.int64)
  loads = [frames, totals, captions]
  if options.packing:
    # How well the videos of a shard pack depends on how many long ones it has: two of more than half a row never share.
    loads += [frames > options.max_frames // parts for parts in (2, 3)]
  shard_of = share(np.stack(loads, axis=1), options.shards)
  made = []
  for shard in range(options.shards):
    own = np.flatnonzero(shard_of == shard)
    own_captions = np.flatnonzero(shard_of[owner] == shard) if options.shards > 1 else np.arange(len(owner))
    made.append(
      ShardArrangement(
        rows=rows[own],
        videos=own,
        captions=captions[own],
        caption_ordinals=own_captions,
        frames=frames[own],
        words=words[own_captions],
        frame_places=_places(frames[own], options.max_frames, slots.frames, options.packing),
        token_places=_places(words[own_captions], options.row_words, slots.tokens, options.packing),
      )
    )
  return made


def _places(lengths: np.ndarray, positions: int, slots: int, packing: bool) -> Places:
  return pack(lengths, positions, slots) if packing else one_a_row(len(lengths))
