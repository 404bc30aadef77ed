"""Searching in two stages: compressed frames beside those of each segment, made where they are wanted.

An index for which they were asked once has them for every segment that is added, too.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import index_folder
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.quantization import JoinedRows
from dlkd_jax.gallery.segments import Segment, describe_file


def accelerate(path: pathlib.Path) -> int:
  """Prepares an index for searching in two stages; what is prepared is left alone.

  Returns:
    Segments that were prepared.

  Raises:
    IndexFolderError: the index is damaged, or another process is changing it.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    folder.manifest['settings']['two_stage'] = True
    done = prepare(folder)
    folder.write_manifest()
    return done


def prepare(folder: IndexFolder) -> int:
  """Compresses the frames of the segments that lack it, where the index wants it; the caller holds the lock."""
  if not folder.manifest['settings'].get('two_stage'):
    return 0
  from dlkd_jax.gallery.frame_index import FrameIndex  # FAISS takes a while to load.

  done = 0
  for about, segment in zip(folder.manifest['segments'], folder.segments(), strict=True):
    names = {scorer: file_name(scorer) for scorer in segment.rows}
    if not segment.entries or set(names.values()) <= about['files'].keys():
      continue
    for scorer, name in names.items():
      file = folder.segment_path(about['name']) / name
      FrameIndex.build(segment.rows[scorer]).save(file)
      about['files'][name] = describe_file(file)
    folder.write_manifest()
    done += 1
  return done


def is_ready(manifest: Mapping[str, Any]) -> bool:
  """Returns whether an index can be searched in two stages."""
  wanted = {file_name(scorer) for scorer in manifest['scorers']}
  return all(wanted <= about['files'].keys() for about in manifest['segments'] if about['videos'])


class JoinedFrames:
  """Compressed frames of several segments, numbered through."""

  def __init__(self, parts: Sequence[Any]):
    """Takes one `FrameIndex` a segment."""
    self._parts = list(parts)
    self._starts = np.cumsum([0, *(len(part) for part in parts)])
    self.hidden: int = parts[0].hidden

  def __len__(self) -> int:
    return int(self._starts[-1])

  def check(self, rows: int, hidden: int, name: str) -> None:
    """Checks that they are of so many rows of that size.

    Raises:
      ValueError: they are not.
    """
    if (len(self), self.hidden) != (rows, hidden):
      raise UserError(f'{name} has {len(self)} vectors of {self.hidden}, and the gallery {rows} of {hidden}')

  def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of about the largest products; arguments and result are those of `FrameIndex.search`."""
    scores, rows = [], []
    for part, start in zip(self._parts, self._starts[:-1], strict=True):
      found, numbers = part.search(queries, min(count, len(part)))
      scores.append(np.where(numbers >= 0, found, -np.inf))
      rows.append(np.where(numbers >= 0, numbers + start, -1))
    scores, rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    order = np.argsort(-scores, axis=1, kind='stable')[:, :count]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


class TwoStages:
  """All segments of an index, ready for searching in two stages."""

  def __init__(self, folder: IndexFolder, segments: Sequence[Segment]):
    """Reads the compressed frames.

    Args:
      folder: an index.
      segments: of it, at least one, all with videos.

    Raises:
      ValueError: the index is not prepared, or a file of it is damaged.
    """
    from dlkd_jax.gallery import two_stage
    from dlkd_jax.gallery.frame_index import FrameIndex

    if not is_ready(folder.manifest):
      raise UserError(
        f'{folder.path} is not prepared for searching in two stages; do it once with '
        f'`python -m dlkd_jax.index accelerate --index={folder.path}`, or search exactly'
      )
    self._search = two_stage.search
    self._stored = {name: JoinedRows([s.rows[name] for s in segments]) for name in segments[0].rows}
    self._indexes = {
      name: JoinedFrames(
        [
          FrameIndex.load(folder.segment_path(s.name) / file_name(name), len(s.rows[name]), s.rows[name].hidden)
          for s in segments
        ]
      )
      for name in self._stored
    }
    lengths = np.concatenate([np.diff(segment.offsets) for segment in segments])
    self._offsets = np.concatenate([[0], np.cumsum(lengths)])

  def scores(
    self, queries: Mapping[str, np.ndarray], weights: Mapping[str, float], count: int, allowed: np.ndarray
  ) -> np.ndarray:
    """Returns `[q, V]` float32: the exact scores of the `count` best of the allowed videos, -inf for all others.

    Args:
      queries: scorer → `[q, H]`.
      weights: scorer → weight.
      count: how many videos are wanted.
      allowed: `[V]` bool.
    """
    fused = np.full((len(next(iter(queries.values()))), len(allowed)), -np.inf, np.float32)
    if allowed.any():
      found = self._search(self._indexes, self._stored, self._offsets, queries, weights, count, allowed=allowed)
      for row, each in zip(fused, found, strict=True):
        row[each.videos] = each.fused
    return fused


def file_name(scorer: str) -> str:
  """Returns the name of the compressed frames of a scorer in a segment."""
  return f'{scorer}.frames'
