"""The two static shapes that the batches of a run take, known before the first one is read.

Every shape costs one compilation of the train step, every padded position costs computation in each step. A plan looks
at the lengths of the first batches of a run and chooses a shape that holds all of them, with some room, and a smaller
one for most, where that saves enough. All processes compute the same plan, and the same shape for each batch, from seed
and lengths, without talking.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dlkd_jax.data.batch import Batch, PipelineOptions
from dlkd_jax.data.packing import Shard, Slots, arrange
from dlkd_jax.data.sources import Lengths
from dlkd_jax.layout import Layout

# Room of the largest shape above the largest batch seen, for those not seen: one part in so many.
_ROOM = 32
# A second shape is worth its compilation where it saves one part in so many of the cost.
_WORTH = 50
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

  @property
  def cost(self) -> int:
    """Of a step. A frame is 2: its features are several times as wide as a token's, and captions are compared to it."""
    frames, tokens = self.frame_rows * self.frame_positions, self.token_rows * self.token_positions
    return 2 * frames + tokens + 3 * self.captions


class Padding(NamedTuple):
  """Mean share of positions that are padding, 0 to 1, over the batches that a plan looked at."""

  frames: float
  tokens: float


class Feature(NamedTuple):
  """Width and type of an array of features."""

  width: int
  dtype: Any


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shapes of the batches of a run; equal on all processes. Printing it tells them and what they are used for.

  Attributes:
    options: of the pipeline.
    slots: the most sequences of a row.
    levels: one or two shapes of a shard, the smaller first; a batch takes the first that holds it.
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

  def shape_for(self, shards: Sequence[Shard]) -> ShardShape:
    """Returns the shape for a batch; one of `levels` unless it is larger than any that was looked at."""
    needs = _needs(shards, self.options)
    for level in self.levels:
      if np.all(needs <= _sizes(level, self.options)):
        return level
    largest = _sizes(self.levels[-1], self.options)
    step = np.maximum(1, largest // _GROWTH)
    grown = _shape(largest + np.maximum(0, -(-(needs - largest) // step)) * step, self.options, self.slots)
    _warn_of_growth(grown)
    return grown


def make_plan(batches: Iterable[np.ndarray], lengths: Lengths, options: PipelineOptions) -> Plan:
  """Makes the plan of a run.

  Args:
    batches: the records of each batch to look at, at least one.
    lengths: of all records of the source.
    options: limits, packing and shards.
  """
  slots = _choose_slots(lengths, options) if options.packing else Slots(1, 1)
  needs, real = [], []
  for records in batches:
    shards = arrange(records, lengths, options, slots)
    needs.append(_needs(shards, options))
    real.append((sum(shard.frames.sum() for shard in shards), sum(shard.words.sum() for shard in shards)))
  needs = np.array(needs)
  captions = int(np.sort(lengths.captions)[-options.shard_videos :].sum())
  frames, tokens = (options.shard_videos, captions) if options.packing else (options.max_frames, options.max_words)
  levels = _choose_levels(needs, np.array([frames, tokens, captions]), options, slots)
  fits = np.stack([(needs <= _sizes(level, options)).all(axis=1) for level in levels])
  taken = fits.argmax(axis=0)
  room = np.array([(s.frame_rows * s.frame_positions, s.token_rows * s.token_positions) for s in levels])
  padding = 1 - np.sum(real, axis=0) / (room[taken].sum(axis=0) * options.shards)
  shares = np.bincount(taken, minlength=len(levels)) / len(taken)
  return Plan(options, slots, tuple(levels), tuple(shares.tolist()), Padding(*padding.tolist()), len(taken))


def _choose_levels(needs: np.ndarray, limits: np.ndarray, options: PipelineOptions, slots: Slots) -> list[ShardShape]:
  """Returns the shape that holds every batch of `[n, 3]` needs with room, and a smaller one before it if that pays.

  No batch ever needs more than `[3]` limits.
  """
  ordered = np.sort(needs, axis=0)
  most = ordered[-1]
  top = _shape(np.minimum(most - (-most // _ROOM), limits), options, slots)
  cost, smaller = len(needs) * top.cost, None
  # Each size may be that of another share of the batches.
  candidates = np.unique(ordered[len(needs) * np.arange(5, 100, 5) // 100], axis=0)
  for sizes in itertools.product(*(np.unique(column) for column in candidates.T)):
    level = _shape(sizes, options, slots)
    fit = np.count_nonzero((needs <= _sizes(level, options)).all(axis=1))
    if fit == len(needs):
      continue  # It would save the largest shape's room alone, which then nothing takes.
    found = fit * level.cost + (len(needs) - fit) * top.cost
    if found < cost:
      cost, smaller = found, level
  saved = len(needs) * top.cost - cost
  return [top] if smaller is None or saved * _WORTH < len(needs) * top.cost else [smaller, top]


def _needs(shards: Sequence[Shard], options: PipelineOptions) -> np.ndarray:
  """Returns `[3]` what the fullest shard needs: rows of frames, rows of tokens, captions; or padded, L, W, captions."""
  captions = max(len(shard.words) for shard in shards)
  if options.packing:
    frames, tokens = (max(getattr(shard, f'{side}_places').count for shard in shards) for side in ('frame', 'token'))
  else:
    frames, tokens = (max(getattr(shard, side).max(initial=1) for shard in shards) for side in ('frames', 'words'))
  return np.array([frames, tokens, captions], np.int64)


def _sizes(shape: ShardShape, options: PipelineOptions) -> np.ndarray:
  """Returns `[3]` the sizes of a shape that `_needs` speaks of."""
  sides = (shape.frame_rows, shape.token_rows) if options.packing else (shape.frame_positions, shape.token_positions)
  return np.array([*sides, shape.captions])


def _shape(sizes: np.ndarray, options: PipelineOptions, slots: Slots) -> ShardShape:
  """Returns the smallest shape of such sizes."""
  frames, tokens, captions = (int(size) for size in sizes)
  if options.packing:
    # One caption a row is cut to max_words; a longer row would be padding that no position embedding reaches.
    rows = (frames, tokens)
    positions = (options.max_frames, options.row_words if slots.tokens > 1 else options.max_words)
  else:
    rows = (options.shard_videos, captions)
    positions = (min(frames, options.max_frames), min(tokens, options.max_words))
  return ShardShape(
    videos=options.shard_videos,
    captions=captions,
    frame_rows=options.whole_rows(rows[0]),
    frame_positions=positions[0],
    frame_slots=slots.frames,
    token_rows=options.whole_rows(rows[1]),
    token_positions=positions[1],
    token_slots=slots.tokens,
  )


def _choose_slots(lengths: Lengths, options: PipelineOptions) -> Slots:
  """Returns how many sequences a row may hold: what average ones fill, and two more, since slots cost memory too."""
  records = np.arange(len(lengths))

  def slots(positions: int, sequences: np.ndarray) -> int:
    filled = -(-positions * len(sequences) // max(1, int(sequences.sum())))
    return min(options.slots, filled + 2)

  return Slots(
    slots(options.max_frames, lengths.frames(records, options)),
    slots(options.row_words, lengths.words(records, options)),
  )


def batch_shapes(shape: ShardShape, shards: int, features: Mapping[str, Feature]) -> Batch:
  """Returns a batch of `jax.ShapeDtypeStruct`: to compile for, or to plan memory with, without any data.

  Args:
    shape: of each shard.
    shards: how many.
    features: what there is of student_frames, student_tokens, query_anchors, teacher_frames, teacher_text and
      teacher_pixels.
  """

  def array(dtype: Any, *dims: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((dims[0] * shards, *dims[1:]), dtype)

  def layout(rows: int, positions: int, slots: int, sequences: int) -> Layout:
    grid = array(np.int32, rows, positions)
    return Layout(slot=grid, position=grid, ordinals=array(np.int32, rows, slots), where=array(np.int32, sequences))

  frames, tokens = (shape.frame_rows, shape.frame_positions), (shape.token_rows, shape.token_positions)
  slots = shape.token_rows, shape.token_slots
  dims = {'student_tokens': tokens, 'query_anchors': slots, 'teacher_text': (shape.captions,)}
  numbers, captions = array(np.int32, shape.videos), array(np.int32, shape.captions)
  return Batch(
    frame_layout=layout(*frames, shape.frame_slots, shape.videos),
    token_layout=layout(*tokens, shape.token_slots, shape.captions),
    labels=captions,
    video_mask=array(np.bool_, shape.videos),
    caption_mask=array(np.bool_, shape.captions),
    video_ordinals=numbers,
    caption_ordinals=captions,
    **{name: array(dtype, *dims.get(name, frames), width) for name, (width, dtype) in features.items()},
  )


@functools.cache
def _warn_of_growth(shape: ShardShape) -> None:
  logging.warning(
    'A batch is larger than any that the plan looked at; it takes %s a share, and the step compiles once more.', shape
  )
