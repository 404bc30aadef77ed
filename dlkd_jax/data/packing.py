"""Packing: which row of an array each sequence of a batch goes to, so that few positions are left over.

A row has T positions and at most S slots, one a sequence; a sequence is contiguous and never straddles rows. Two
heuristics of bin packing are tried, and the one with fewer rows is taken. Both are deterministic: they see whole
numbers alone, so that every process that packs the same lengths gets the same rows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dlkd_jax.layout import Layout


@dataclasses.dataclass(frozen=True)
class Places:
  """Where N sequences lie.

  Attributes:
    rows: `[N]` row of each sequence, from 0.
    slots: `[N]` its place among the sequences of its row, from 0.
    starts: `[N]` its first position in the row.
    count: rows that hold any sequence; every row below it does.
  """

  rows: np.ndarray
  slots: np.ndarray
  starts: np.ndarray
  count: int


def one_a_row(count: int) -> Places:
  """Returns the places of so many sequences, each in a row of its own: ordinary padding."""
  zeros = np.zeros(count, np.int64)
  return Places(np.arange(count), zeros, zeros, count)


def pack(lengths: np.ndarray, positions: int, slots: int) -> Places:
  """Packs sequences into rows.

  Args:
    lengths: `[N]` positions of each sequence, 1 to `positions`.
    positions: T, positions of a row.
    slots: S, the most sequences of a row.

  Returns:
    The places, of the better of two packings; the same for the same arguments.

  Raises:
    ValueError: a length is out of its range.
  """
  lengths = np.asarray(lengths)
  if not len(lengths):
    return one_a_row(0)
  if lengths.min() < 1 or lengths.max() > positions:
    raise ValueError(
      f'lengths go from {lengths.min()} to {lengths.max()}; a row of {positions} positions holds 1 to {positions}'
    )
  best_fit = _best_fit(lengths, positions, slots)
  filled = _filled(lengths, positions, slots)
  return _places(best_fit if len(best_fit) <= len(filled) else filled, lengths)


def make_layout(
  places: Places, lengths: np.ndarray, ordinals: np.ndarray, rows: int, positions: int, slots: int, sequences: int
) -> Layout:
  """Makes the layout of one device's share of a batch, as numpy arrays.

  Args:
    places: where the N real sequences lie.
    lengths: `[N]` positions of each.
    ordinals: `[N]` ordinal of each in the whole batch.
    rows: R, rows of the share, at least `places.count`.
    positions: T, positions of a row.
    slots: S, slots of a row.
    sequences: entries of `where`, padded ones included.
  """
  count = len(lengths)
  slot = np.full((rows, positions), -1, np.int32)
  position = np.zeros((rows, positions), np.int32)
  within = ranges(lengths)
  flat = np.repeat(places.rows * positions + places.starts, lengths) + within
  slot.reshape(-1)[flat] = np.repeat(places.slots, lengths)
  position.reshape(-1)[flat] = within
  table = np.full((rows, slots), -1, np.int32)
  table[places.rows, places.slots] = ordinals
  where = np.zeros(sequences, np.int32)
  where[:count] = places.rows * slots + places.slots
  return Layout(slot=slot, position=position, ordinals=table, where=where)


def ranges(lengths: np.ndarray) -> np.ndarray:
  """Returns 0 … n−1 for each n of `lengths`, one after another."""
  lengths = np.asarray(lengths, np.int64)
  return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _best_fit(lengths: np.ndarray, positions: int, slots: int) -> list[list[int]]:
  """Packs the longest first, each where it leaves the least room; a new row where none has room."""
  rows: list[list[int]] = []
  # Open rows by the positions they have left, and as bits which of these lists hold any: the tightest row is one
  # operation on a whole number away.
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
      room, row = positions, len(rows)
      rows.append([])
    rows[row].append(item)
    room -= length
    if room and len(rows[row]) < slots:
      open_rows[room].append(row)
      there |= 1 << room
  return rows


class _Stock:
  """Sequences not yet packed, by length; the lengths there are as the bits of a whole number."""

  def __init__(self, lengths: np.ndarray, positions: int):
    self.items: list[list[int]] = [[] for _ in range(positions + 1)]
    for item, length in enumerate(lengths.tolist()):
      self.items[length].append(item)
    self.there = sum(1 << length for length, items in enumerate(self.items) if items)

  def take(self, length: int) -> int:
    item = self.items[length].pop()
    if not self.items[length]:
      self.there &= ~(1 << length)
    return item

  def longest(self, limit: int) -> int:
    """Returns the longest length there is up to a limit, 0 for none."""
    return (self.there & ((2 << limit) - 1)).bit_length() - 1 if limit > 0 else 0

  def first_of_best_pair(self, room: int) -> int:
    """Returns the longer of the two lengths that together leave the least of `room`, or the one that alone does."""
    choice = best = max(self.longest(room), 0)
    rest = self.there & ((2 << room) - 1)
    while best < room and rest:
      longer = rest.bit_length() - 1
      if 2 * longer <= best:
        break
      rest &= ~(1 << longer)
      shorter = self.longest(min(room - longer, longer))
      if shorter == longer and len(self.items[longer]) < 2:
        shorter = self.longest(longer - 1)
      if shorter > 0 and longer + shorter > best:
        choice, best = longer, longer + shorter
    return choice


def _filled(lengths: np.ndarray, positions: int, slots: int) -> list[list[int]]:
  """Packs row by row: the longest sequence left, then again and again the best pair for the room that is left."""
  stock = _Stock(lengths, positions)
  rows: list[list[int]] = []
  while stock.there:
    longest = stock.there.bit_length() - 1
    row, room = [stock.take(longest)], positions - longest
    while room and len(row) < slots:
      length = stock.first_of_best_pair(room)
      if not length:
        break
      row.append(stock.take(length))
      room -= length
    rows.append(row)
  return rows


def _places(packed: list[list[int]], lengths: np.ndarray) -> Places:
  """Turns lists of sequences, one a row, into places."""
  counts = np.array([len(row) for row in packed])
  items = np.concatenate([np.asarray(row) for row in packed])
  rows, slots, starts = (np.zeros(len(lengths), np.int64) for _ in range(3))
  rows[items] = np.repeat(np.arange(len(packed)), counts)
  slots[items] = ranges(counts)
  before = np.cumsum(lengths[items]) - lengths[items]
  starts[items] = before - np.repeat(before[np.cumsum(counts) - counts], counts)
  return Places(rows, slots, starts, len(packed))
