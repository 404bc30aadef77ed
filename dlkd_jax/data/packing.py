"""Where every video and caption of a batch lies, and the two static shapes that batches take. From lengths alone.

Every shape costs one compilation of the train step, every padded position costs computation in each step. A plan looks
at the lengths of the first batches of a run and chooses a shape that holds all of them, with some room, and a smaller
one for most, where that saves enough.

Everything here is whole numbers and deterministic, so that all processes arrange a batch alike, without talking, and
each reads only the records of its own devices.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dlkd_jax.data.batch import Grid, PipelineOptions, ShardShape, Sides
from dlkd_jax.data.sources import Lengths
from dlkd_jax.data.transforms import places_within
from dlkd_jax.layout import Layout

# Room of the largest shape above the largest batch seen, for those not seen: one part in so many.
_ROOM = 32
# A second shape is worth its compilation where it saves one part in so many of the cost.
_WORTH = 50
# Steps by which a size grows where a batch fits no shape, as shares of the largest.
_GROWTH = 16


class Sequences(NamedTuple):
  """N videos in rows of frames, or captions in rows of tokens, of one device.

  Attributes:
    lengths: `[N]` positions of each.
    rows: `[N]` its row, from 0; no row below the last one is empty.
    slots: `[N]` its number among the sequences of the row, from 0.
    starts: `[N]` its first position in the row.
    ordinals: `[N]` its number in the whole batch.
  """

  lengths: np.ndarray
  rows: np.ndarray
  slots: np.ndarray
  starts: np.ndarray
  ordinals: np.ndarray

  @property
  def row_count(self) -> int:
    """Rows that hold any."""
    return int(self.rows.max(initial=-1)) + 1


class Shard(NamedTuple):
  """The share of one device: b videos, ordered by ordinal, with their captions.

  Attributes:
    records: `[b]` the videos' records in the source.
    captions: `[b]` captions of each.
    frames: the videos.
    tokens: the captions.
  """

  records: np.ndarray
  captions: np.ndarray
  frames: Sequences
  tokens: Sequences


def arrange(records: np.ndarray, lengths: Lengths, options: PipelineOptions, slots: Sides | None = None) -> list[Shard]:
  """Arranges a batch over its shards.

  The order of the batch is that of `records`, or by captions a video, most first, where `options.sort_by_captions`. It
  numbers videos and captions (their ordinals) whatever the shards are.

  Args:
    records: `[n]` the batch's videos, in the order drawn.
    lengths: of all records of the source.
    options: limits, order, packing and number of shards.
    slots: the most sequences of a packed row, `options.slots` by default.

  Returns:
    What each shard holds, which may be nothing.
  """
  slots = slots or Sides(options.slots, options.slots)
  if options.sort_by_captions:
    records = records[np.argsort(-lengths.captions[records], kind='stable')]
  captions = lengths.captions[records]
  frames, words = lengths.frames(records, options), lengths.words(records, options)
  owner = np.repeat(np.arange(len(records)), captions)  # of each caption
  loads = [frames, np.bincount(owner, words, len(records)).astype(np.int64), captions]
  if options.packing:
    # How well the videos of a shard pack depends on how many long ones it has: two of more than half a row never share.
    loads += [frames > options.max_frames // parts for parts in (2, 3)]
  shard_of = share(np.stack(loads, axis=1), options.shards)

  def place(all_lengths: np.ndarray, own: np.ndarray, positions: int, most: int) -> Sequences:
    placed = pack(all_lengths[own], positions, most) if options.packing else _one_a_row(all_lengths[own])
    return placed._replace(ordinals=own)

  shards = []
  for shard in range(options.shards):
    videos, texts = np.flatnonzero(shard_of == shard), np.flatnonzero(shard_of[owner] == shard)
    placed = place(frames, videos, options.max_frames, slots.frames)
    shards.append(
      Shard(records[videos], captions[videos], placed, place(words, texts, options.row_words, slots.tokens))
    )
  return shards


def share(loads: np.ndarray, shards: int) -> np.ndarray:
  """Shares the videos of a batch among shards, evenly in number and in work.

  All devices step together, in arrays of one shape, so what counts is the fullest: of frames, of tokens and of captions
  alike. The heaviest video goes first, each to the shard that has place and for which the sum over resources of (load
  so far × load of the video), in shares of the whole, is least: a shard gets little of what it already has much of.

  Args:
    loads: `[n, k]` whole numbers, how much of each of k resources a video takes.
    shards: D.

  Returns:
    `[n]` shard of each video, from 0. A shard has at most ceil(n / D) of them.
  """
  count = len(loads)
  if shards == 1 or not count:
    return np.zeros(count, np.int64)
  # In whole millionths, so that no rounding tells one process from another.
  relative = loads * 1_000_000 // np.maximum(loads.sum(axis=0), 1)
  limit = -(-count // shards)
  taken, held = np.zeros(shards, np.int64), np.zeros((shards, loads.shape[1]), np.int64)
  found = np.zeros(count, np.int64)
  for video in np.argsort(-relative.sum(axis=1), kind='stable'):
    cost = held @ relative[video]
    cost[taken >= limit] = np.iinfo(np.int64).max
    found[video] = shard = int(cost.argmin())
    held[shard] += relative[video]
    taken[shard] += 1
  return found


def pack(lengths: np.ndarray, positions: int, slots: int) -> Sequences:
  """Packs sequences into rows by best fit: the longest first, each where it leaves the least room.

  Args:
    lengths: `[N]` positions of each sequence, 1 to `positions`.
    positions: T, positions of a row.
    slots: S, the most sequences of a row.
  """
  rows, slot, starts = ([0] * len(lengths) for _ in range(3))
  held: list[int] = []  # Sequences of each row.
  # Open rows by the positions they have left, and as bits which of these lists hold any: the tightest row that fits is
  # one operation on a whole number away.
  open_rows: list[list[int]] = [[] for _ in range(positions + 1)]
  there, sizes = 0, lengths.tolist()
  for item in np.argsort(-lengths, kind='stable').tolist():
    length = sizes[item]
    if fitting := there >> length:
      room = length + (fitting & -fitting).bit_length() - 1
      row = open_rows[room].pop()
      if not open_rows[room]:
        there &= ~(1 << room)
    else:
      room, row = positions, len(held)
      held.append(0)
    rows[item], slot[item], starts[item] = row, held[row], positions - room
    held[row] += 1
    room -= length
    if room and held[row] < slots:
      open_rows[room].append(row)
      there |= 1 << room
  return Sequences(lengths, *np.array([rows, slot, starts], np.int64), ordinals=np.arange(len(lengths)))


def _one_a_row(lengths: np.ndarray) -> Sequences:
  """Gives each sequence a row of its own: ordinary padding."""
  rows = np.arange(len(lengths))
  return Sequences(lengths, rows, np.zeros_like(rows), np.zeros_like(rows), rows)


def make_layout(shards: Sequence[Sequences], grid: Grid) -> tuple[Layout, np.ndarray]:
  """Makes the layout of one side of some shards of a batch, one after another, as numpy arrays.

  Returns:
    The layout, and `[shards · sequences]` int32 ordinals of the sequences, -1 where there is none.
  """
  count, (rows, positions, slots, sequences) = len(shards), grid
  slot, table = np.full((count, rows, positions), -1, np.int32), np.full((count, rows, slots), -1, np.int32)
  position, where = np.zeros_like(slot), np.zeros((count, sequences), np.int32)
  by_sequence = np.full_like(where, -1)
  for shard, own in enumerate(shards):
    within = places_within(own.lengths)
    at = np.repeat(own.rows * positions + own.starts, own.lengths) + within
    slot[shard].reshape(-1)[at] = np.repeat(own.slots, own.lengths)
    position[shard].reshape(-1)[at] = within
    table[shard, own.rows, own.slots] = own.ordinals
    where[shard, : len(own.rows)] = own.rows * slots + own.slots
    by_sequence[shard, : len(own.rows)] = own.ordinals
  slot, position = slot.reshape(-1, positions), position.reshape(-1, positions)
  return Layout(slot, position, table.reshape(-1, slots), where.reshape(-1)), by_sequence.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shapes of the batches of a run. Printing it tells them and what they are used for.

  Attributes:
    options: of the pipeline.
    slots: the most sequences of a row.
    levels: one or two shapes of a shard, the smaller first; a batch takes the first that holds it.
    shares: share of the batches looked at that take each level.
    padding: mean share of positions that are padding, 0 to 1, over the batches looked at.
    batches: how many were looked at.
  """

  options: PipelineOptions
  slots: Sides
  levels: tuple[ShardShape, ...]
  shares: tuple[float, ...]
  padding: Sides
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
  """Makes the plan of a run out of the records of each batch to look at, at least one."""
  slots = _choose_slots(lengths, options) if options.packing else Sides(1, 1)
  needs, real = [], np.zeros(2, np.int64)
  for records in batches:
    shards = arrange(records, lengths, options, slots)
    needs.append(_needs(shards, options))
    real += sum(np.array([shard.frames.lengths.sum(), shard.tokens.lengths.sum()]) for shard in shards)
  needs = np.array(needs)
  # No batch ever needs more.
  captions = int(np.sort(lengths.captions)[-options.shard_videos :].sum())
  sides = (options.shard_videos, captions) if options.packing else (options.max_frames, options.max_words)
  levels = _choose_levels(needs, np.array([*sides, captions]), options, slots)
  taken = np.stack([(needs <= _sizes(level, options)).all(axis=1) for level in levels]).argmax(axis=0)
  room = np.stack([level.positions for level in levels])[taken].sum(axis=0) * options.shards
  shares = np.bincount(taken, minlength=len(levels)) / len(taken)
  return Plan(options, slots, tuple(levels), tuple(shares.tolist()), Sides(*(1 - real / room).tolist()), len(taken))


def _choose_levels(needs: np.ndarray, limits: np.ndarray, options: PipelineOptions, slots: Sides) -> list[ShardShape]:
  """Returns the shape that holds every batch of `[n, 3]` needs with room, and a smaller one before it if that pays."""
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

  def most(side: Sequences) -> int:
    return side.row_count if options.packing else side.lengths.max(initial=1)

  needs = [(most(shard.frames), most(shard.tokens), len(shard.tokens.lengths)) for shard in shards]
  return np.max(np.array(needs, np.int64), axis=0)


def _sizes(shape: ShardShape, options: PipelineOptions) -> np.ndarray:
  """Returns `[3]` the sizes of a shape that `_needs` speaks of."""
  sides = [grid.rows if options.packing else grid.positions for grid in shape]
  return np.array([*sides, shape.tokens.sequences])


def _shape(sizes: np.ndarray, options: PipelineOptions, slots: Sides) -> ShardShape:
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
    Grid(options.whole_rows(rows[0]), positions[0], slots.frames, options.shard_videos),
    Grid(options.whole_rows(rows[1]), positions[1], slots.tokens, captions),
  )


def _choose_slots(lengths: Lengths, options: PipelineOptions) -> Sides:
  """Returns how many sequences a row may hold: what average ones fill, and two more, since slots cost memory too."""
  records = np.arange(len(lengths))

  def slots(positions: int, sequences: np.ndarray) -> int:
    filled = -(-positions * len(sequences) // max(1, int(sequences.sum())))
    return min(options.slots, filled + 2)

  frames, words = lengths.frames(records, options), lengths.words(records, options)
  return Sides(slots(options.max_frames, frames), slots(options.row_words, words))


@functools.cache
def _warn_of_growth(shape: ShardShape) -> None:
  logging.warning(
    'A batch is larger than any that the plan looked at; it takes %s a share, and the step compiles once more.', shape
  )
