"""Removing videos from an index, and writing segments anew: all of them, or small ones together."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlkd_jax.gallery import index_folder
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.quantization import Rows
from dlkd_jax.gallery.segments import Caption, Cue, Entry, Segment


class Stored(NamedTuple):
  """A video as it lies in a segment; see `SegmentWriter.add`."""

  entry: Entry
  times: np.ndarray
  rows: Mapping[str, Rows]
  captions: Sequence[Caption] = ()
  vectors: Mapping[str, np.ndarray] | None = None
  cues: Sequence[Cue] = ()


# A segment is small below this share of the frames after which segments are put into an index.
_SMALL = 4
# So many small segments cost a query little; where there are more, the last are merged until at most so many are left.
_MOST, _LEFT = 3, 2


def remove(path: pathlib.Path, chosen: Callable[[Entry], bool]) -> list[str]:
  """Marks videos as removed, so that no search finds them; their bytes stay until `compact`.

  The index remembers that they were removed: `add` does not bring them back unless it is told to.

  Args:
    path: folder of an index.
    chosen: whether a video is to go.

  Returns:
    Ids of the videos that went.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    catalog = Catalog.open(folder)
    gone = {entry.video_id: entry.digest for entry in catalog.videos.values() if chosen(entry)}
    if gone:
      note_forgotten(folder, catalog)
      folder.drop({video: catalog.place_of(video) for video in gone}, catalog)
      forgotten = {video: {'digest': digest} for video, digest in gone.items()}
      folder.manifest['forgotten'] = {**folder.manifest['forgotten'], **forgotten}
      folder.write_manifest()
    return list(gone)


def note_forgotten(folder: IndexFolder, catalog: Catalog) -> None:
  """Notes what was removed from an index before it remembered that, in the manifest in memory."""
  if 'forgotten' not in folder.manifest:
    gone = {video for about in folder.manifest['segments'] for video in about['removed']} - catalog.known().keys()
    folder.manifest['forgotten'] = {video: {'digest': ''} for video in sorted(gone)}


def compact(path: pathlib.Path, segment_frames: int) -> int:
  """Writes an index anew without what was removed, in as few segments as possible.

  Args:
    path: folder of an index.
    segment_frames: frames after which a segment is finished.

  Returns:
    Bytes that were freed.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    folder.clear_away()
    before = folder.bytes()
    abouts = folder.manifest['segments']
    if len(abouts) <= 1 and not any(about['removed'] for about in abouts):
      return 0
    note_forgotten(folder, Catalog.open(folder))
    folder.commit(list(_rewrite(folder, folder.segments(), segment_frames)), replace=True)
    return before - folder.bytes()


def commit_merged(folder: IndexFolder, added: Sequence[Mapping[str, Any]], segment_frames: int) -> None:
  """Puts finished segments into an index, small ones together with small ones that are there, in one change.

  However many small additions there were, a handful of small segments is left. The last are merged, and those before
  them that are not twice as large as what comes of it: so a frame is written anew a few times, not once an addition.

  Args:
    folder: the index; the caller holds the lock.
    added: what `SegmentWriter.finish` returned.
    segment_frames: frames after which segments are put into the index.
  """
  small = [about for about in [*folder.manifest['segments'], *added] if about['frames'] * _SMALL < segment_frames]
  merged: list[Mapping[str, Any]] = []
  frames = 0
  many = len(small) > _MOST
  while many and small and (len(small) >= _LEFT or small[-1]['frames'] < 2 * frames):
    if frames + small[-1]['frames'] > segment_frames:
      break
    frames += small[-1]['frames']
    merged.insert(0, small.pop())
  if len(merged) < 2:
    if added or folder.is_changed():
      folder.commit(added)
    return
  names = {about['name'] for about in merged}
  segments = [folder.open_segment(about) for about in merged]
  written = list(_rewrite(folder, segments, segment_frames))
  folder.commit([*(about for about in added if about['name'] not in names), *written], dropped=names)
  folder.clear_away()


def _rewrite(folder: IndexFolder, segments: Sequence[Segment], segment_frames: int) -> Iterator[Mapping[str, Any]]:
  """Writes what was not removed of segments into new ones, in the same order."""
  writer = None
  for segment in segments:
    for stored in stored_videos(segment):
      writer = writer or folder.new_segment()
      writer.add(*stored)
      if writer.frames >= segment_frames:
        yield writer.finish()
        writer = None
  if writer:
    yield writer.finish()


def stored_videos(segment: Segment, chosen: Container[str] | None = None) -> Iterator[Stored]:
  """Yields what `SegmentWriter.add` takes of the videos of a segment that were not removed, or of some of them."""
  captions: dict[str, list[int]] = {}
  for number, caption in enumerate(segment.captions):
    captions.setdefault(caption.video_id, []).append(number)
  cues: dict[str, list[Cue]] = {}
  for cue in segment.cues:
    cues.setdefault(cue.video_id, []).append(cue)
  for video, (entry, alive) in enumerate(zip(segment.entries, segment.alive(), strict=True)):
    if alive and (chosen is None or entry.video_id in chosen):
      own = captions.get(entry.video_id, [])
      vectors = {name: array[own] for name, array in segment.caption_vectors.items()}
      said = [segment.captions[n] for n in own]
      times, rows = segment.times[segment.slice_of(video)], segment.rows_of(video)
      yield Stored(entry, times, rows, said, vectors, cues.get(entry.video_id, ()))
