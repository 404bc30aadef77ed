"""Searching in two stages: compressed frames beside those of each segment, made where they pay or are asked for.

Segments of large indexes get them before they are put into the index (`IndexFolder.commit`), those of small ones where
they were asked for once. Segments without are scored exactly.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import engine, exact, index_folder, two_stage
from dlkd_jax.gallery.exact import ExactSearch
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.quantization import JoinedRows
from dlkd_jax.gallery.segments import MANY_FRAMES, Segment, codes_name, has_codes

if TYPE_CHECKING:
  from dlkd_jax.gallery.frame_index import FrameIndex

# Numbers of videos of which the first stage leaves one to the second.
_CANDIDATES = (500, 2000)
# A first stage pays where at most one video in so many is scored exactly after it: that costs several times as much a
# frame as to score all. For so many queries at once, of which exact search costs a third, it pays from more frames on.
_SHARE, _TOGETHER = 8, 8


def accelerate(path: pathlib.Path, wanted: str | None = None) -> int:
  """Prepares an index for searching in two stages; what is prepared and whole is left alone.

  Args:
    path: folder of the index.
    wanted: 'lancedb' or 'lancedb:ADDRESS' copies the frames into an engine, see `engine.push`; 'none': the index has
      none any more, and its frames are compressed; None: as it was.

  Returns:
    Segments that were prepared.

  Raises:
    IndexFolderError: the index is damaged, or another process is changing it.
  """
  name, _, address = (wanted or '').partition(':')
  if name not in ('', 'none', engine.NAME):
    raise UserError(f'--engine is {wanted!r}; expected {engine.NAME}, {engine.NAME}:ADDRESS or none')
  if name == engine.NAME or (not name and IndexFolder.open(path).manifest.get('engine')):
    return engine.push(path, address or None)
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    folder.manifest.pop('engine', None)
    folder.manifest['settings']['two_stage'] = True
    for about, segment in zip(folder.manifest['segments'], folder.segments(), strict=True):
      if about['frames'] and has_codes(about, segment.rows) and not _are_whole(folder, segment):
        about['files'] = {name: file for name, file in about['files'].items() if not name.endswith(codes_name(''))}
    done = folder.compress(folder.write_manifest)
    folder.write_manifest()
    return done


def _are_whole(folder: IndexFolder, segment: Segment) -> bool:
  """Whether the compressed frames of a segment can be read."""
  try:
    _read(folder, segment)
  except UserError:
    return False
  return True


def _read(folder: IndexFolder, segment: Segment) -> dict[str, FrameIndex]:
  """Returns scorer → compressed frames of a segment."""
  from dlkd_jax.gallery.frame_index import FrameIndex  # FAISS takes a while to load.

  where = folder.segment_path(segment.name)
  return {
    name: FrameIndex.load(where / codes_name(name), len(rows), rows.hidden) for name, rows in segment.rows.items()
  }


def is_ready(manifest: Mapping[str, Any]) -> bool:
  """Returns whether an index can be searched in two stages; segments that are not prepared yet are scored exactly."""
  return bool(manifest['settings'].get('two_stage') or manifest.get('engine')) or ready_frames(manifest) > 0


def ready_frames(manifest: Mapping[str, Any]) -> int:
  """Returns how many frames of an index are prepared for searching in two stages."""
  names = _ready_segments(manifest)
  return sum(about['frames'] for about in manifest['segments'] if about['name'] in names)


def _ready_segments(manifest: Mapping[str, Any]) -> set[str]:
  """Returns the names of segments whose frames the engine has, or that have compressed ones."""
  if about := manifest.get('engine'):
    return set(about['segments'])
  return {each['name'] for each in manifest['segments'] if has_codes(each, manifest['scorers'])}


def pays(frames: int, videos: int, count: int, queries: int) -> bool:
  """Whether two stages cost less than exact search.

  Args:
    frames: that are prepared.
    videos: V of the index.
    count: videos scored exactly after the first stage.
    queries: that are searched together.
  """
  return frames >= MANY_FRAMES * (1 if queries < _TOGETHER else 3) and videos >= _SHARE * count


def candidates(count: int) -> int | None:
  """Returns how many videos are scored exactly where so many are wanted; None: all of them, without a first stage.

  At least twice as many as are wanted, for the first stage ranks them roughly; in few steps, so that the pages of one
  ranking are mostly of the same candidates; and no more than that.
  """
  return next((size for size in _CANDIDATES if size >= 2 * count), None)


class JoinedFrames:
  """Compressed frames of several segments, numbered through."""

  def __init__(self, parts: Sequence[FrameIndex]):
    """Takes those of each segment."""
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

  def search(self, queries: np.ndarray, count: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of about the largest products; arguments and result are those of `FrameIndex.search`."""
    scores, rows = [], []
    for part, start in zip(self._parts, self._starts[:-1], strict=True):
      found, numbers = part.search(queries, min(count, len(part)))
      scores.append(np.where(numbers >= 0, found, -np.inf))
      rows.append(np.where(numbers >= 0, numbers + start, -1))
    scores, rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    order = np.argsort(-scores, axis=1, kind='stable')[:, :count]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def open_stages(folder: IndexFolder, segments: Sequence[Segment], searches: Sequence[ExactSearch]) -> TwoStages:
  """Opens an index for searching in two stages: with the engine that it names, or with compressed frames.

  Args:
    folder: an index.
    segments: of it, all with videos.
    searches: exact search of each.

  Raises:
    UserError: the index is not prepared, a file of it is damaged, or its engine is not there.
  """
  if not is_ready(folder.manifest):
    raise UserError(
      f'{folder.path} is not prepared for searching in two stages, as no index of fewer than {MANY_FRAMES:,} frames '
      f'is; leave --two_stage out, or prepare it with `dlkd index accelerate --index={folder.path}`'
    )
  names = _ready_segments(folder.manifest)
  if folder.manifest.get('engine'):
    read = lambda some: engine.open_frames(folder, some)  # noqa: E731
  else:
    read = lambda some: _joined([_read(folder, segment) for segment in some])  # noqa: E731
  return TwoStages(segments, searches, [segment.name in names for segment in segments], read)


def _joined(parts: Sequence[Mapping[str, FrameIndex]]) -> dict[str, JoinedFrames]:
  return {name: JoinedFrames([part[name] for part in parts]) for name in parts[0]}


class TwoStages:
  """All segments of an index, ready for searching in two stages."""

  def __init__(
    self,
    segments: Sequence[Segment],
    searches: Sequence[ExactSearch],
    ready: Sequence[bool],
    read: Callable[[Sequence[Segment]], Mapping[str, two_stage.FrameSearch]],
  ):
    """Reads the frames of the first stage.

    Args:
      segments: of an index, all with videos.
      searches: exact search of each.
      ready: for each, whether it has frames for the first stage.
      read: returns, of those that have, scorer → frames numbered through.
    """
    self._others = [search for search, is_done in zip(searches, ready, strict=True) if not is_done]
    counts = [len(segment.offsets) - 1 for segment in segments]
    self._is_ready = np.repeat(np.array(ready, bool), counts)
    if not any(ready):
      return
    segments = [segment for segment, is_done in zip(segments, ready, strict=True) if is_done]
    self._stored = {name: JoinedRows([s.rows[name] for s in segments]) for name in segments[0].rows}
    self._indexes = read(segments)
    lengths = np.concatenate([np.diff(segment.offsets) for segment in segments])
    self._offsets = np.concatenate([[0], np.cumsum(lengths)])

  def scores(
    self, queries: Mapping[str, np.ndarray], weights: Mapping[str, float], count: int, allowed: np.ndarray
  ) -> np.ndarray:
    """Returns `[q, V]` float32: exact scores of the allowed videos that may be the best, -inf for all others.

    Args:
      queries: scorer → `[q, H]`, of scorers with a weight.
      weights: scorer → weight.
      count: videos of prepared segments that are scored; all videos of others are.
      allowed: `[V]` bool.
    """
    fused = np.full((len(next(iter(queries.values()))), len(allowed)), -np.inf, np.float32)
    of_ready = allowed[self._is_ready]
    if of_ready.any():
      found = two_stage.search(
        self._indexes, self._stored, self._offsets, queries, weights, count, count, allowed=of_ready
      )
      places = np.flatnonzero(self._is_ready)
      for row, each in zip(fused, found, strict=True):
        row[places[each.videos]] = each.fused
    if self._others and allowed[~self._is_ready].any():
      parts = [search.video_scores(queries) for search in self._others]
      scores = exact.fuse({name: np.concatenate([part[name] for part in parts], axis=1) for name in queries}, weights)
      fused[:, ~self._is_ready] = np.where(allowed[~self._is_ready], scores, -np.inf)
    return fused
