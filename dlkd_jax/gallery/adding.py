"""Putting the videos of a source into an index, and taking out what it has no more."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlkd_jax.data import sources
from dlkd_jax.data.sources import Record
from dlkd_jax.gallery import changing, encoding, quantization, texts
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.changing import Stored
from dlkd_jax.gallery.collection import Knowledge, captions_of, default_title
from dlkd_jax.gallery.encoding import StudentEncoder
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.progress_file import ProgressFile
from dlkd_jax.gallery.segments import Entry, SegmentWriter
from dlkd_jax.gallery.sorting import Sorted, restated, sort_out
from dlkd_jax.gallery.source import Source

if TYPE_CHECKING:
  from dlkd_jax.gallery.workers import Workers

# Frames that are encoded together, and after which a segment is put into the index unless told otherwise.
_BATCH_FRAMES = 8192
SEGMENT_FRAMES = 1 << 18
# The same for films, which take their time.
_BATCH_SECONDS = 10.0
_SEGMENT_SECONDS = 60.0
Step = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Addition:
  """What became of the videos of a call.

  Attributes:
    added: videos that were put into the index and had not been there.
    there: videos that were there already.
    captions: that were put into it.
    without_file: ids of added videos whose file is not where it should be; None where no folder of files was given.
    not_described: videos that the metadata name and the data set has not.
    changed: ids whose record or description is another than was indexed; they were left as they are.
    updated: ids that were taken anew.
    vanished: ids whose film or record is not there any more; they stay in the index.
    pruned: such ids that were removed from the index.
    forgotten: ids that were removed before, and so were not taken.
    unchecked: how many were indexed before hashes of records were kept: whether they changed is not known.
    alike: ids that were not taken, for videos of another data set have them.
    absent: what the index remembers of folders and files that are not there any more.
    moved: id → the one that its film had before.
    restated: those of `updated` of which only what is said changed.
    frames: that were encoded.
  """

  added: int
  there: int
  captions: int
  without_file: list[str] | None
  not_described: list[str]
  changed: list[str] = dataclasses.field(default_factory=list)
  updated: list[str] = dataclasses.field(default_factory=list)
  vanished: list[str] = dataclasses.field(default_factory=list)
  pruned: list[str] = dataclasses.field(default_factory=list)
  forgotten: list[str] = dataclasses.field(default_factory=list)
  unchecked: int = 0
  alike: list[str] = dataclasses.field(default_factory=list)
  absent: list[str] = dataclasses.field(default_factory=list)
  moved: dict[str, str] = dataclasses.field(default_factory=dict)
  restated: list[str] = dataclasses.field(default_factory=list)
  frames: int = 0


def take(
  folder: IndexFolder,
  source: Source,
  student: StudentEncoder | None,
  knowledge: Knowledge,
  segment_frames: int,
  step: Step = lambda split: None,
  update: bool = False,
  prune: bool = False,
  again: bool = False,
  workers: Workers | None = None,
) -> Addition:
  """Encodes and writes what an index lacks of a source; the caller holds the lock.

  Args:
    folder: the index.
    source: the data set, or the folders of films.
    student: None where only the teacher scores.
    knowledge: of its videos.
    segment_frames: frames after which what was encoded is put into the index, unless a minute has passed before.
    step: called with its split for each video that is done.
    update: take anew what changed: old out and new in within one change of the index.
    prune: remove what vanished.
    again: take what was removed before, too.
    workers: that films are handed to; None: this process encodes.
  """
  folder.clear_away()
  folder.clear_staging()
  catalog = Catalog.open(folder)
  changing.note_forgotten(folder, catalog)
  found = sort_out(folder.manifest, catalog, source, knowledge, update, again)
  if prune:
    source.check_prune(found, knowledge)
  _remember(folder, source, knowledge, catalog)
  for about in found.there.values():
    step(about.split)
  pruned = [video for video in found.vanished if video not in found.digests] if prune else []
  if pruned:
    folder.drop({video: catalog.place_of(video) for video in pruned}, catalog)
    folder.manifest['pruned'] = sorted({*folder.manifest.get('pruned', ()), *pruned})
  there = set(catalog.videos)
  writing = _Writing(folder, catalog, found, segment_frames, step)
  with ProgressFile(folder.path, len(found.wanted)) as running:
    _reuse(folder, catalog, writing, source, knowledge, found)
    if workers is not None:
      for part in workers.run(folder, source, knowledge, list(found.wanted)):
        source.merge(part.films)
        writing.adopt(part.about, part.entries)
      folder.clear_staging()
    else:
      places = found.wanted.values()
      for stored in encoded(folder, catalog, student, source, knowledge, places, segment_frames, running):
        writing.add(stored)
    if prune:
      pruned += writing.drop(source.broken)
    writing.put(last=True)
  updated = sorted(there & set(writing.new))
  moved = {video: other for video, other in found.moved.items() if video in writing.new}
  return Addition(
    added=len(writing.new) - len(updated) - len(moved.keys() - there),
    there=len(found.there) + len(updated) + len(moved.keys() - there),
    captions=writing.captions,
    without_file=writing.absent if knowledge.videos is not None else None,
    not_described=sorted(set(knowledge.metadata) - found.named),
    changed=[video for video in found.changed if video not in found.digests and video not in pruned],
    updated=updated,
    vanished=[video for video in found.vanished if video not in pruned],
    pruned=pruned,
    forgotten=list(found.forgotten),
    unchecked=found.unchecked,
    alike=list(found.alike),
    absent=list(knowledge.absent),
    moved=moved,
    restated=[video for video in updated if found.reused.get(video) == video],
    frames=writing.frames,
  )


class _Writing:
  """Writes videos into segments, and puts these into the index from time to time.

  Attributes:
    new: ids that were written.
    captions: how many were.
    frames: how many were encoded for it.
    absent: ids of those without a file where it should be.
  """

  def __init__(self, folder: IndexFolder, catalog: Catalog, found: Sorted, segment_frames: int, step: Step):
    self._folder, self._catalog, self._known = folder, catalog, catalog.known()
    self._moved, self._segment_frames, self._step = found.moved, segment_frames, step
    self._writer: SegmentWriter | None = None
    self._adopted: list[dict[str, Any]] = []
    self._batch: list[str] = []
    self._begun = time.monotonic()
    self.captions = self.frames = 0
    self.absent: list[str] = []
    self.new: list[str] = []

  def add(self, stored: Stored, encoded: bool = True) -> None:
    """Writes a video; what the index had of it, or by its other name, goes with the same change that brings it."""
    self._writer = self._writer or self._folder.new_segment()
    self._writer.add(*stored)
    self._count(stored.entry)
    self.frames += len(stored.times) if encoded else 0
    if self._writer.frames >= self._segment_frames or time.monotonic() - self._begun > _SEGMENT_SECONDS:
      self.put()

  def _count(self, entry: Entry) -> None:
    if entry.path is not None and not pathlib.Path(entry.path).is_file():
      self.absent.append(entry.video_id)
    self._batch.append(entry.video_id)
    self.new.append(entry.video_id)
    _note_root(self._folder, entry.path)
    self._step(entry.split)

  def adopt(self, about: Mapping[str, Any] | None, entries: Iterable[Entry]) -> None:
    """Puts a segment that a worker wrote into the index; None: it wrote none."""
    if about is None:
      return
    if self._writer is not None:
      self.put()
    for entry in entries:
      self._count(entry)
    self.frames, self.captions = self.frames + about['frames'], self.captions + about['captions']
    self._adopted = [self._folder.adopt(about)]
    self.put()

  def put(self, last: bool = False) -> None:
    """Puts what was written into the index, and merges small segments, of which each call leaves one."""
    done, self._adopted = self._adopted, []
    if self._writer is not None:
      done, self.captions = [self._writer.finish()], self.captions + self._writer.captions
    self.drop([*self._batch, *(self._moved[video] for video in self._batch if video in self._moved)])
    manifest, batch = self._folder.manifest, set(self._batch)
    for remembered in ('forgotten', 'failed'):
      if manifest.get(remembered):
        manifest[remembered] = {v: about for v, about in manifest[remembered].items() if v not in batch}
    if manifest.get('pruned'):
      manifest['pruned'] = [video for video in manifest['pruned'] if video not in batch]
    changing.commit_merged(self._folder, done, self._segment_frames)
    self._writer, self._batch, self._begun = None, [], time.monotonic()
    if not last:  # Segments may have been merged.
      self._catalog = Catalog.open(self._folder)
      self._known = self._catalog.known()

  def drop(self, videos: Iterable[str]) -> list[str]:
    """Marks what the index has of some videos as removed, in the manifest in memory; returns their ids."""
    there = {video: about.place for video in videos if (about := self._known.get(video))}
    self._folder.drop(there, self._catalog)
    return list(there)


def _reuse(
  folder: IndexFolder, catalog: Catalog, writing: _Writing, source: Source, knowledge: Knowledge, found: Sorted
) -> None:
  """Writes the vectors that the index has once more, for what is said otherwise, or has another name."""
  takers: dict[str, list[str]] = {}
  for video, other in sorted(found.reused.items()):
    takers.setdefault(other, []).append(video)
  numbers = {catalog.segment_of(catalog.place_of(other))[0] for other in takers}
  segments = folder.segments() if takers else []  # Opened together: those that are replaced meanwhile stay readable.
  for segment in (segments[number] for number in sorted(numbers)):
    for stored in changing.stored_videos(segment, takers):
      for video in takers[stored.entry.video_id]:
        entry = dataclasses.replace(stored.entry, video_id=video, digest=found.digests[video])
        if video != stored.entry.video_id and (
          video not in found.moved or entry.title == default_title(stored.entry.video_id)
        ):
          entry = dataclasses.replace(entry, title=default_title(video))
        if video != stored.entry.video_id and video not in found.moved:  # A copy.
          entry = dataclasses.replace(entry, metadata={})
        entry = restated(entry, source.facts(video), knowledge)
        captions, cues = (
          [dataclasses.replace(each, video_id=video) for each in those] for those in (stored.captions, stored.cues)
        )
        if entry.said != stored.entry.said:  # The subtitles beside it are others.
          entry, cues = texts.read(entry)
        writing.add(stored._replace(entry=entry, captions=captions, cues=cues), encoded=False)


def _batches(records: Iterable[tuple[str, Record]], batch_frames: int) -> Iterator[list[tuple[str, Record]]]:
  """Groups records by their frames, or by the time that it takes to get them."""
  some, frames, begun = [], 0, time.monotonic()
  for split, record in records:
    some.append((split, record))
    frames += _length(record)
    if frames >= batch_frames or time.monotonic() - begun > _BATCH_SECONDS:
      yield some
      some, frames, begun = [], 0, time.monotonic()
  if some:
    yield some


def _length(record: Record) -> int:
  return len(record['student_frames'] if 'student_frames' in record else record['teacher_frames'])


def encoded(
  folder: IndexFolder,
  catalog: Catalog,
  student: StudentEncoder | None,
  source: Source,
  knowledge: Knowledge,
  places: Iterable[tuple[str, int]],
  segment_frames: int = SEGMENT_FRAMES,
  running: ProgressFile | None = None,
) -> Iterator[Stored]:
  """Reads and encodes what is at some places of a source; arguments are those of `take`."""
  digests = source.digests()
  for some in _batches(source.records(places, running), min(_BATCH_FRAMES, segment_frames)):
    yield from _encode(folder, catalog, student, source, knowledge, some, digests)


def _encode(
  folder: IndexFolder,
  catalog: Catalog,
  student: StudentEncoder | None,
  source: Source,
  knowledge: Knowledge,
  some: Sequence[tuple[str, Record]],
  digests: Mapping[str, str],
) -> Iterator[Stored]:
  """Makes of records what is written of them."""
  manifest = folder.manifest
  scorers = list(manifest['scorers'])
  used = student if student is not None and set(scorers) & set(student.branches) else None
  videos = encoding.encode_videos([record for _, record in some], scorers, used, manifest['settings']['long_videos'])
  captions = encoding.encode_captions([record for _, record in some], scorers, used)
  for (split, record), video, vectors in zip(some, videos, captions, strict=True):
    video_id = sources.text(record['video_id'])
    entry = knowledge.entry(record, split, digests[video_id], source.dataset, catalog.videos.get(video_id))
    entry, cues = texts.read(restated(entry, source.facts(video_id), knowledge))
    rows = {name: quantization.encode(array, manifest['dtype']) for name, array in video.rows.items()}
    yield Stored(entry, video.times, rows, captions_of(record) if vectors else [], vectors, cues)


def _remember(folder: IndexFolder, source: Source, knowledge: Knowledge, catalog: Catalog) -> None:
  """Notes where the films and their description are, for the next addition, and the folders that films may lie in."""
  settings = dict(folder.manifest['settings'])
  if 'folders' in (own := source.settings()):
    settings |= own
  if knowledge.videos is not None:
    settings['videos'] = str(knowledge.videos)
  if knowledge.metadata_file is not None:
    settings['metadata'] = str(knowledge.metadata_file)
  folder.manifest['settings'] = settings
  if 'roots' not in folder.manifest:
    folder.manifest['roots'] = []
    for entry in catalog.videos.values():  # Of an index that was made before they were noted.
      _note_root(folder, entry.path)
  folders = [pathlib.Path(about['path']) for about in own.get('folders', ())]
  for each in [*folders, *([knowledge.videos] if knowledge.videos is not None else [])]:
    if each.is_dir():
      _add_root(folder, os.path.realpath(each))


def _note_root(folder: IndexFolder, path: str | None) -> None:
  """Notes the folder of a film that is a link to elsewhere, or lies in no folder that is known."""
  if path is not None and os.path.isfile(path):
    _add_root(folder, os.path.dirname(os.path.realpath(path)))


def _add_root(folder: IndexFolder, root: str) -> None:
  roots = folder.manifest['roots']
  if not any(pathlib.Path(root).is_relative_to(each) for each in roots):
    folder.manifest['roots'] = sorted([*(each for each in roots if not pathlib.Path(each).is_relative_to(root)), root])
