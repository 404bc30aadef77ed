"""Where every video and caption of a batch lies: its order, its device, its place in the rows. From lengths alone.

Everything here is whole numbers and deterministic, so that all processes arrange a batch alike, without talking, and
each reads only the records of its own devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlkd_jax.data.batch import PipelineOptions
from dlkd_jax.data.sources import Lengths
from dlkd_jax.layout import Layout


class Slots(NamedTuple):
  """The most sequences of a row, of frames and of tokens."""

  frames: int
  tokens: int


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where N sequences lie in the rows of one device.

  Attributes:
    rows: `[N]` row of each sequence, from 0.
    slots: `[N]` its number among the sequences of its row, from 0.
    starts: `[N]` its first position in the row.
    count: rows that hold any sequence; every row below it does.
  """

  rows: np.ndarray
  slots: np.ndarray
  starts: np.ndarray
  count: int


@dataclasses.dataclass(frozen=True)
class Shard:
  """The share of one device: b videos with q captions, ordered by ordinal.

  Attributes:
    records: `[b]` the videos' records in the source.
    videos: `[b]` their ordinals in the batch.
    captions: `[b]` captions of each.
    caption_ordinals: `[q]` ordinals of the captions in the batch.
    frames: `[b]` frames of each video.
    words: `[q]` tokens of each caption.
    frame_places: where the videos lie in the rows of frames.
    token_places: where the captions lie in the rows of tokens.
  """

  records: np.ndarray
  videos: np.ndarray
  captions: np.ndarray
  caption_ordinals: np.ndarray
  frames: np.ndarray
  words: np.ndarray
  frame_places: Placement
  token_places: Placement


def arrange(records: np.ndarray, lengths: Lengths, options: PipelineOptions, slots: Slots | None = None) -> list[Shard]:
  """Arranges a batch over its shards.

  The order of the batch is that of `records`, or by captions a video, most first, where `options.sort_by_captions`. It
  numbers videos and captions (their ordinals) whatever the shards are.

  Args:
    records: `[n]` the batch's videos, in the order drawn.
    lengths: of all records of the source.
    options: limits, order, packing and number of shards.
    slots: the most sequences of a packed row, `options.slots` by default.

  Returns:
    What each shard holds; equal on all processes, whichever of the shards are theirs. A shard may hold nothing.
  """
  slots = slots or Slots(options.slots, options.slots)
  captions = lengths.captions[records]
  if options.sort_by_captions:
    order = np.argsort(-captions, kind='stable')
    records, captions = records[order], captions[order]
  frames, words = lengths.frames(records, options), lengths.words(records, options)
  owner = np.repeat(np.arange(len(records)), captions)  # of each caption
  totals = np.bincount(owner, words, len(records)).astype(np.int64)
  loads = [frames, totals, captions]
  if options.packing:
    # How well the videos of a shard pack depends on how many long ones it has: two of more than half a row never share.
    loads += [frames > options.max_frames // parts for parts in (2, 3)]
  shard_of = share(np.stack(loads, axis=1), options.shards)
  place = pack if options.packing else _one_a_row
  shards = []
  for shard in range(options.shards):
    own, own_captions = np.flatnonzero(shard_of == shard), np.flatnonzero(shard_of[owner] == shard)
    shards.append(
      Shard(
        records=records[own],
        videos=own,
        captions=captions[own],
        caption_ordinals=own_captions,
        frames=frames[own],
        words=words[own_captions],
        frame_places=place(frames[own], options.max_frames, slots.frames),
        token_places=place(words[own_captions], options.row_words, slots.tokens),
      )
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
  order = np.argsort(-relative.sum(axis=1), kind='stable')
  limit = -(-count // shards)
  taken = np.zeros(shards, np.int64)
  held = np.zeros((shards, loads.shape[1]), np.int64)
  found = np.zeros(count, np.int64)
  for video in order:
    cost = held @ relative[video]
    cost[taken >= limit] = np.iinfo(np.int64).max
    shard = int(cost.argmin())
    found[video] = shard
    held[shard] += relative[video]
    taken[shard] += 1
  return found


def pack(lengths: np.ndarray, positions: int, slots: int) -> Placement:
  """Packs sequences into rows by best fit: the longest first, each where it leaves the least room.

  Args:
    lengths: `[N]` positions of each sequence, 1 to `positions`.
    positions: T, positions of a row.
    slots: S, the most sequences of a row.

  Raises:
    ValueError: a length is out of its range.
  """
  lengths = np.asarray(lengths)
  if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= positions:
    raise ValueError(
      f'lengths go from {lengths.min()} to {lengths.max()}; a row of {positions} positions holds 1 to {positions}'
    )
  rows, places, starts = ([0] * len(lengths) for _ in range(3))
  held: list[int] = []  # Sequences of each row.
  # Open rows by the positions they have left, and as bits which of these lists hold any: the tightest row that fits is
  # one operation on a whole number away.
  open_rows: list[list[int]] = [[] for _ in range(positions + 1)]
  there = 0
  sizes = lengths.tolist()
  for item in np.argsort(-lengths, kind='stable').tolist():
    length = sizes[item]
    fitting = there >> length
    if fitting:
      room = length + (fitting & -fitting).bit_length() - 1
      row = open_rows[room].pop()
      if not open_rows[room]:
        there &= ~(1 << room)
    else:
      room, row = positions, len(held)
      held.append(0)
    rows[item], places[item], starts[item] = row, held[row], positions - room
    held[row] += 1
    room -= length
    if room and held[row] < slots:
      open_rows[room].append(row)
      there |= 1 << room
  return Placement(*(np.array(values, np.int64) for values in (rows, places, starts)), count=len(held))


def _one_a_row(lengths: np.ndarray, positions: int, slots: int) -> Placement:
  """Gives each sequence a row of its own: ordinary padding."""
  del positions, slots
  zeros = np.zeros(len(lengths), np.int64)
  return Placement(np.arange(len(lengths)), zeros, zeros, len(lengths))


def make_layout(
  shards: Sequence[tuple[Placement, np.ndarray, np.ndarray]], rows: int, positions: int, slots: int, sequences: int
) -> Layout:
  """Makes the layout of some shards of a batch, one after another, as numpy arrays.

  Args:
    shards: of each shard, where its N real sequences lie, `[N]` positions and `[N]` ordinal in the batch of each.
    rows: R, rows of a shard.
    positions: T, positions of a row.
    slots: S, slots of a row.
    sequences: entries of `where` of a shard, padded ones included.
  """
  count = len(shards)
  slot = np.full((count, rows, positions), -1, np.int32)
  position = np.zeros((count, rows, positions), np.int32)
  table = np.full((count, rows, slots), -1, np.int32)
  where = np.zeros((count, sequences), np.int32)
  for shard, (places, lengths, ordinals) in enumerate(shards):
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = np.repeat(places.rows * positions + places.starts, lengths) + within
    slot[shard].reshape(-1)[at] = np.repeat(places.slots, lengths)
    position[shard].reshape(-1)[at] = within
    table[shard, places.rows, places.slots] = ordinals
    where[shard, : len(lengths)] = places.rows * slots + places.slots
  return Layout(
    slot=slot.reshape(-1, positions),
    position=position.reshape(-1, positions),
    ordinals=table.reshape(-1, slots),
    where=where.reshape(-1),
  )
