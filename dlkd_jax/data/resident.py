"""The features of a training split on the devices: a batch is then no more than the numbers of their rows.

A batch at TVR's sizes is 62 MB of features, or 0.2 MB of numbers. Where the features of the whole split fit onto every
device (TVR's are 8 GB as float16), they are put there once, before the first step; each step takes its rows from there.
Where they do not, batches hold the features themselves. What a step computes is the same to the bit.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dlkd_jax.allocation import aligned_bytes
from dlkd_jax.data.batch import Batch, Feature
from dlkd_jax.data.packing import Shard
from dlkd_jax.data.prepared import Prepared
from dlkd_jax.layout import Layout


class Resident:
  """Tables of the features of a split, and where those of each record lie in them.

  Row 0 of each table is zeros, for padding; then come the rows of the records, one after another.

  Attributes:
    params: the tables by name, an argument of the step; `jax.ShapeDtypeStruct` until they are placed.
    features: width and type of what batches hold instead: numbers of rows.
  """

  def __init__(self, records: Prepared):
    """Works out from lengths where everything will lie."""
    lengths, options = records.lengths, records.options
    everything = np.arange(len(lengths))
    frames, words = lengths.frames(everything, options), lengths.words(everything, options)
    self._frames, self._tokens = np.cumsum(frames) - frames, np.cumsum(words) - words
    rows = {'student_frames': frames.sum(), 'teacher_frames': frames.sum(), 'student_tokens': words.sum()}
    self.params: dict[str, Any] = {
      name: jax.ShapeDtypeStruct((1 + int(rows.get(name, len(words))), width), dtype)
      for name, (width, dtype) in records.features.items()
    }
    # Those of a teacher's frames are those of the student's.
    self.features = {name: Feature(1, np.int32) for name in records.features if name != 'teacher_frames'}
    self._records, self._lengths, self._placed = records, lengths, False

  @property
  def nbytes(self) -> int:
    """Bytes on each device."""
    return sum(x.size * x.dtype.itemsize for x in self.params.values())

  def place(self, put: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]) -> None:
    """Reads all records, in threads, and puts their features onto the devices; once. Errors are those of `Prepared`."""
    if self._placed:
      return
    tables = {
      name: aligned_bytes(x.size * x.dtype.itemsize).view(x.dtype).reshape(x.shape) for name, x in self.params.items()
    }
    for table in tables.values():
      table[0] = 0

    def write(index: int) -> None:
      caption = self._lengths.starts[index]
      starts = {'student_tokens': self._tokens[caption], 'teacher_text': caption, 'query_anchors': caption}
      for name, rows in self._records[index].items():
        first = 1 + starts.get(name, self._frames[index])
        tables[name][first : first + len(rows)] = rows

    with concurrent.futures.ThreadPoolExecutor(self._records.options.read_threads) as pool:
      for _ in pool.map(write, range(len(self._records))):
        pass  # Errors surface here.
    self.params, self._placed = put(tables), True

  def numbers(self, batch: Batch, shards: Sequence[Shard]) -> dict[str, np.ndarray]:
    """Returns the numbers of the rows of a batch of these shards: what stands for each of its features."""
    records, shares = np.concatenate([shard.records for shard in shards]), len(shards)
    captions = self._lengths.captions_of(records)
    found = {
      'student_frames': _at_positions(batch.frame_layout, self._frames[records], batch.video_mask, shares),
      'student_tokens': _at_positions(batch.token_layout, self._tokens[captions], batch.caption_mask, shares),
    }
    if 'teacher_text' in self.features:
      found['teacher_text'] = np.zeros((len(batch.caption_mask), 1), np.int32)
      found['teacher_text'][batch.caption_mask, 0] = captions + 1
    if 'query_anchors' in self.features:
      found['query_anchors'] = _by_slot(batch.token_layout, captions + 1, batch.caption_mask, shares)[..., None]
    return found

  def fill(self, params: Mapping[str, jax.Array], batch: Batch, mesh: Mesh | None = None) -> Batch:
    """Returns a batch with features in place of the numbers of their rows, within the step."""
    del mesh  # Each device has all rows, and takes those of its share of the batch.
    places = {name: getattr(batch, 'student_frames' if name == 'teacher_frames' else name) for name in params}
    return batch.replace(**{name: table.at[places[name][..., 0]].get(mode='clip') for name, table in params.items()})


def _by_slot(layout: Layout, values: np.ndarray, real: np.ndarray, shares: int) -> np.ndarray:
  """Lays values of the real sequences, `[n]`, where the sequences lie: `[R, S]` int32, 0 in empty slots."""
  found = np.zeros(layout.ordinals.shape, np.int32)
  # `where` counts from the first row of a share.
  first = np.repeat(np.arange(shares) * (found.size // shares), len(real) // shares)
  found.reshape(-1)[(layout.where + first)[real]] = values
  return found


def _at_positions(layout: Layout, first: np.ndarray, real: np.ndarray, shares: int) -> np.ndarray:
  """Returns `[R, T, 1]` int32 numbers of the rows at each position, of sequences whose rows begin at `first` `[n]`."""
  starts = np.take_along_axis(_by_slot(layout, first + 1, real, shares), np.maximum(layout.slot, 0), axis=1)
  return np.where(layout.mask, starts + layout.position, 0)[..., None]
