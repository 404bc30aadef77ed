"""The few static shapes that batches take, known before the first one is read.

Every shape costs one compilation of the train step, every padded position costs computation in each step. A plan looks
at the lengths of the first batches of a run and chooses; batch by batch it then names the cheapest shape that holds it.
All processes compute the same plan, and the same shape for each batch, from seed and lengths, without talking.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from dlkd_jax.data import ladder
from dlkd_jax.data.arrangement import ShardArrangement, Slots, arrange
from dlkd_jax.data.batch import Batch
from dlkd_jax.data.lengths import Lengths
from dlkd_jax.data.options import PipelineOptions, fitting_size, growing_size
from dlkd_jax.layout import Layout

# Steps by which a size grows where a batch fits no shape, as shares of the largest.
_GROWTH = 16


@dataclasses.dataclass(frozen=True)
class ShardShape:
  """The static sizes of one device's share of a batch.

  Attributes:
    videos: B / D, places for videos.
    captions: Q / D, places for captions.
    frame_rows: R / D, rows of frames.
    frame_positions: L, positions of each.
    frame_slots: S of the rows of frames.
    token_rows: Rw / D, rows of tokens.
    token_positions: W, positions of each.
    token_slots: S of the rows of tokens.
  """

  videos: int
  captions: int
  frame_rows: int
  frame_positions: int
  frame_slots: int
  token_rows: int
  token_positions: int
  token_slots: int

  def __str__(self) -> str:
    return (
      f'{self.frame_rows} rows of {self.frame_positions} frames, {self.token_rows} rows of {self.token_positions} '
      f'tokens, {self.captions} captions'
    )


@dataclasses.dataclass(frozen=True)
class Padding:
  """Mean share of positions that are padding, 0 to 1, over the batches that a plan looked at."""

  frames: float
  tokens: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shapes of the batches of a run; equal on all processes. Printing it tells them and what they are used for.

  Attributes:
    options: of the pipeline.
    slots: the most sequences of a row.
    levels: shapes of one shard's share, cheapest first. Packed batches take the first that holds them; padded ones
      take sizes of the options' lists, and `levels` are those that were seen.
    shares: share of the batches looked at that take each level.
    padding: of the batches looked at.
    batches: how many were looked at.
  """

  options: PipelineOptions
  slots: Slots
  levels: tuple[ShardShape, ...]
  shares: tuple[float, ...]
  padding: Padding
  batches: int

  def __repr__(self) -> str:
    form = 'packed' if self.options.packing else 'padded'
    lines = [
      f'{len(self.levels)} shape(s) of {form} batches, each of {self.options.shards} share(s) of '
      f'{self.options.shard_videos} videos; padding {self.padding.frames:.1%} of frames and {self.padding.tokens:.1%} '
      f'of tokens in the {self.batches} batches looked at:'
    ]
    lines += [f'  {share:4.0%} take {level}' for level, share in zip(self.levels, self.shares, strict=True)]
    return '\n'.join(lines)

  def shape_for(self, shards: Sequence[ShardArrangement]) -> ShardShape:
    """Returns the shape for a batch; one compiled already unless it is larger than any that was looked at."""
    needs = shard_needs(shards, self.options)
    if not self.options.packing:
      return _padded_shape(needs, self.options)
    for level in self.levels:
      if np.all(needs <= _sizes(level)):
        return level
    largest = np.max([_sizes(level) for level in self.levels], axis=0)
    step = np.maximum(1, largest // _GROWTH)
    grown = _packed_shape(largest + np.maximum(0, -(-(needs - largest) // step)) * step, self.options, self.slots)
    _warn_of_growth(grown)
    return grown

  def shapes(self, level: int | ShardShape, sizes: tuple[int, int, int | None], teacher: bool = True) -> Batch:
    """Returns a whole batch of `jax.ShapeDtypeStruct`, over all shards: to compile for, without any data.

    Args:
      level: a shape, or its place in `levels`.
      sizes: feature sizes Dv, Dq, Dt; Dt may be None without a teacher.
      teacher: whether the batch has the teacher's features.
    """
    shape = self.levels[level] if isinstance(level, int) else level
    return batch_shapes(shape, self.options.shards, sizes, teacher)


def batch_shapes(shape: ShardShape, shards: int, sizes: tuple[int, int, int | None], teacher: bool = True) -> Batch:
  """Returns a whole batch of `jax.ShapeDtypeStruct` over so many shards; see `Plan.shapes`."""

  def array(dtype: type, *dims: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((dims[0] * shards, *dims[1:]), dtype)

  def layout(rows: int, positions: int, slots: int, sequences: int) -> Layout:
    grid = array(np.int32, rows, positions)
    return Layout(slot=grid, position=grid, ordinals=array(np.int32, rows, slots), where=array(np.int32, sequences))

  frames, tokens = (shape.frame_rows, shape.frame_positions), (shape.token_rows, shape.token_positions)
  numbers, captions = array(np.int32, shape.videos), array(np.int32, shape.captions)
  return Batch(
    student_frames=array(np.float32, *frames, sizes[0]),
    student_tokens=array(np.float32, *tokens, sizes[1]),
    frames=layout(*frames, shape.frame_slots, shape.videos),
    tokens=layout(*tokens, shape.token_slots, shape.captions),
    labels=captions,
    video_mask=array(np.bool_, shape.videos),
    caption_mask=array(np.bool_, shape.captions),
    video_ordinals=numbers,
    caption_ordinals=captions,
    teacher_frames=array(np.float32, *frames, sizes[2]) if teacher else None,
    teacher_text=array(np.float32, shape.captions, sizes[2]) if teacher else None,
  )


def full_padding(options: PipelineOptions, captions: int) -> ShardShape:
  """Returns the shape of one share where everything is padded to its limit: what packing is measured against.

  Args:
    options: limits and shards.
    captions: captions of the share.
  """
  return ShardShape(
    options.shard_videos, captions, options.shard_videos, options.max_frames, 1, captions, options.max_words, 1
  )


def make_plan(batches: Iterable[np.ndarray], lengths: Lengths, options: PipelineOptions) -> Plan:
  """Makes the plan of a run.

  Args:
    batches: the rows in the source of the videos of each batch to look at, at least one.
    lengths: of all records of the source.
    options: limits, packing, shards, and how many shapes there may be.
  """
  slots = _choose_slots(lengths, options) if options.packing else Slots(1, 1)
  needs, real = [], []
  for rows in batches:
    shards = arrange(rows, lengths, options, slots)
    needs.append(shard_needs(shards, options))
    real.append((sum(shard.frames.sum() for shard in shards), sum(shard.words.sum() for shard in shards)))
  needs = np.array(needs)
  if options.packing:
    # A frame is 2: its features are several times as wide as a token's, and every caption is compared with it.
    weights = np.array([2 * options.max_frames, options.row_words, 3])
    chosen, taken = ladder.choose(needs, weights, options.most_shapes)
    levels = [_packed_shape(sizes, options, slots) for sizes in chosen]
  else:
    shapes = [_padded_shape(need, options) for need in needs]
    levels = sorted(set(shapes), key=dataclasses.astuple)
    taken = np.array([levels.index(shape) for shape in shapes])
  room = (
    np.array([(s.frame_rows * s.frame_positions, s.token_rows * s.token_positions) for s in levels])[taken]
    * options.shards
  )
  padding = 1 - np.sum(real, axis=0) / room.sum(axis=0)
  shares = np.bincount(taken, minlength=len(levels)) / len(taken)
  return Plan(
    options=options,
    slots=slots,
    levels=tuple(levels),
    shares=tuple(shares.tolist()),
    padding=Padding(*padding.tolist()),
    batches=len(taken),
  )


def shard_needs(shards: Sequence[ShardArrangement], options: PipelineOptions) -> np.ndarray:
  """Returns `[3]` what the fullest share needs: rows of frames, rows of tokens, captions; or padded, L, W, captions."""
  captions = max(len(shard.words) for shard in shards)
  if options.packing:
    frames, tokens = (max(getattr(shard, f'{side}_places').count for shard in shards) for side in ('frame', 'token'))
  else:
    frames, tokens = (max(getattr(shard, side).max(initial=1) for shard in shards) for side in ('frames', 'words'))
  return np.array([frames, tokens, captions], np.int64)


def _sizes(shape: ShardShape) -> np.ndarray:
  return np.array([shape.frame_rows, shape.token_rows, shape.captions])


def _packed_shape(sizes: np.ndarray, options: PipelineOptions, slots: Slots) -> ShardShape:
  frame_rows, token_rows, captions = (int(size) for size in sizes)
  return ShardShape(
    videos=options.shard_videos,
    captions=captions,
    frame_rows=options.whole_rows(frame_rows),
    frame_positions=options.max_frames,
    frame_slots=slots.frames,
    token_rows=options.whole_rows(token_rows),
    token_positions=options.row_words,
    token_slots=slots.tokens,
  )


def _padded_shape(needs: np.ndarray, options: PipelineOptions) -> ShardShape:
  frames, words, captions = (int(need) for need in needs)
  captions = growing_size(captions, options.shard_caption_sizes)
  return ShardShape(
    videos=options.shard_videos,
    captions=captions,
    frame_rows=options.whole_rows(options.shard_videos),
    frame_positions=fitting_size(frames, options.frame_sizes),
    frame_slots=1,
    token_rows=options.whole_rows(captions),
    token_positions=fitting_size(words, options.word_sizes),
    token_slots=1,
  )


def _choose_slots(lengths: Lengths, options: PipelineOptions) -> Slots:
  """Returns how many sequences a row may hold: what average ones fill, and two more, since slots cost memory too."""
  rows = np.arange(len(lengths))

  def slots(positions: int, sequences: np.ndarray) -> int:
    filled = -(-positions * len(sequences) // max(1, int(sequences.sum())))
    return min(options.slots, filled + 2)

  return Slots(
    slots(options.max_frames, lengths.frames(rows, options)), slots(options.row_words, lengths.words(rows, options))
  )


@functools.cache
def _warn_of_growth(shape: ShardShape) -> None:
  logging.warning(
    'A batch is larger than any that the plan looked at; it takes %s a share, and the step compiles once more.', shape
  )
