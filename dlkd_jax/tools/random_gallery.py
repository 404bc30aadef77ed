"""Large galleries of made-up frame vectors, in files that are mapped, and queries for them.

| kind | frames | queries |
|---|---|---|
| random | without any order: every direction is as likely | likewise: the best videos are best by chance, by little |
| structured | share a direction, those of a video one of its own, and drift from frame to frame | near a frame |
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from dlkd_jax.gallery import quantization
from dlkd_jax.gallery.quantization import Rows
from dlkd_jax.vectors import unit

KINDS = ('random', 'structured')
# Videos made at once.
_VIDEOS = 500
_KEPT, _FRESH = 0.9, 0.19**0.5  # Of a frame's drift, of the frame before and of its own.


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Rows in files, and queries.

  Attributes:
    stored: scorer → rows, mapped from files.
    offsets: `[V+1]` int64, first row of each video, then the number of rows.
    queries: scorer → `[q, H]` float32.
  """

  stored: dict[str, Rows]
  offsets: np.ndarray
  queries: dict[str, np.ndarray]

  @property
  def nbytes(self) -> int:
    """Bytes of the stored rows."""
    return sum(rows.nbytes for rows in self.stored.values())


def random_offsets(rows: int, frames: int, seed: int = 0) -> np.ndarray:
  """Returns offsets of videos of `frames` frames on average, a third to five thirds of that each; `rows` in all."""
  lengths = np.random.default_rng(seed).integers(frames // 3 + 1, 2 * frames - frames // 3 + 1, 1 + 2 * rows // frames)
  ends = np.cumsum(lengths)
  return np.concatenate([[0], ends[ends < rows], [rows]]).astype(np.int64)


def make(
  folder: pathlib.Path, kind: str, dtype: str, offsets: np.ndarray, hidden: int, scorers: tuple[str, ...], queries: int
) -> Gallery:
  """Makes a gallery; the same arguments give the same one.

  Args:
    folder: for its files.
    kind: one of `KINDS`.
    dtype: stored form, as `quantization.encode` takes it.
    offsets: `[V+1]`.
    hidden: H.
    scorers: their names; their vectors are independent, and their queries near the same frames.
    queries: q.
  """
  chosen = np.sort(np.random.default_rng(1).integers(offsets[-1], size=queries))
  stored, vectors = {}, {}
  for number, name in enumerate(scorers):
    rng = np.random.default_rng([KINDS.index(kind), number])
    common = _drawn(rng, (hidden,))
    path = folder / f'{kind}.{dtype}.{name}.npy'
    values = np.lib.format.open_memmap(path, 'w+', dtype, (int(offsets[-1]), hidden))
    scales = np.empty(len(values), np.float32) if dtype == 'int8' else None
    vectors[name] = _drawn(rng, (queries, hidden))
    for first in range(0, len(offsets) - 1, _VIDEOS):
      borders = offsets[first : first + _VIDEOS + 1]
      made = frames(rng, kind, np.diff(borders), hidden, common)
      part, rows = slice(borders[0], borders[-1]), quantization.encode(made, dtype)
      values[part] = rows.values
      if scales is not None:
        scales[part] = rows.scales
      if kind == 'structured':
        near = (chosen >= borders[0]) & (chosen < borders[-1])
        vectors[name][near] += quantization.unit_rows(made[chosen[near] - borders[0]])
    values.flush()
    stored[name] = Rows(np.load(path, mmap_mode='r'), scales)
  return Gallery(stored, offsets, vectors)


def frames(rng: np.random.Generator, kind: str, lengths: np.ndarray, hidden: int, common: np.ndarray) -> np.ndarray:
  """Returns `[n, H]` float32 frames of videos of the given lengths."""
  if kind == 'random':
    return rng.standard_normal((int(lengths.sum()), hidden), np.float32)
  longest = int(lengths.max())
  drift = np.empty((len(lengths), longest, hidden), np.float32)
  drift[:, 0] = _drawn(rng, (len(lengths), hidden))
  for t in range(1, longest):
    drift[:, t] = _KEPT * drift[:, t - 1] + _FRESH * _drawn(rng, (len(lengths), hidden))
  drift += _drawn(rng, (len(lengths), hidden))[:, None] + 0.8 * common[None, None]
  return drift[np.arange(longest)[None, :] < lengths[:, None]]


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  return unit(rng.standard_normal(shape, np.float32))
