"""Putting the videos of a data set into an index, and taking out what it has no more."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dlkd_jax.data import sources
from dlkd_jax.gallery import changing, encoding, quantization, texts
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.collection import Collection, Knowledge, captions_of
from dlkd_jax.gallery.encoding import StudentEncoder
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import Entry, SegmentWriter
from dlkd_jax.gallery.sorting import Sorted, check_prune, sort_out

# Frames that are encoded together, and after which a segment is put into the index unless told otherwise.
_BATCH_FRAMES = 8192
SEGMENT_FRAMES = 1 << 18
Step = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Account:
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


def take(
  folder: IndexFolder,
  collection: Collection,
  student: StudentEncoder | None,
  knowledge: Knowledge,
  segment_frames: int,
  step: Step,
  update: bool = False,
  prune: bool = False,
  again: bool = False,
) -> Account:
  """Encodes and writes what an index lacks of a data set; the caller holds the lock.

  Args:
    folder: the index.
    collection: the data set.
    student: None where only the teacher scores.
    knowledge: of its videos.
    segment_frames: frames after which what was encoded is put into the index.
    step: called with its split for each video that is done.
    update: take anew what changed: old out and new in within one change of the index.
    prune: remove what vanished.
    again: take what was removed before, too.
  """
  folder.clear_away()
  catalog = Catalog.open(folder)
  changing.note_forgotten(folder, catalog)
  found = sort_out(folder.manifest, catalog, collection, knowledge, update, again)
  if prune:
    check_prune(found, knowledge)
  _remember(folder, knowledge, catalog)
  for about in found.there.values():
    step(about.split)
  pruned = [video for video in found.vanished if video not in found.wanted] if prune else []
  if pruned:
    folder.drop({video: catalog.place_of(video) for video in pruned}, catalog)
    folder.manifest['pruned'] = sorted({*folder.manifest.get('pruned', ()), *pruned})
  there = set(catalog.videos)
  captions, absent, new = _write_all(folder, catalog, collection, student, knowledge, found, segment_frames, step)
  updated = sorted(there & set(new))
  return Account(
    added=len(new) - len(updated),
    there=len(found.there) + len(updated),
    captions=captions,
    without_file=absent if knowledge.videos is not None else None,
    not_described=sorted(set(knowledge.metadata) - found.named),
    changed=[video for video in found.changed if video not in found.wanted and video not in pruned],
    updated=updated,
    vanished=[video for video in found.vanished if video not in pruned],
    pruned=pruned,
    forgotten=list(found.forgotten),
    unchecked=found.unchecked,
    alike=list(found.alike),
    absent=list(knowledge.absent),
  )


def _write_all(
  folder: IndexFolder,
  catalog: Catalog,
  collection: Collection,
  student: StudentEncoder | None,
  knowledge: Knowledge,
  found: Sorted,
  segment_frames: int,
  step: Step,
) -> tuple[int, list[str], list[str]]:
  """Writes what is wanted in whole segments; returns the number of captions, videos without a file, and all ids."""
  captions, absent, new = 0, [], []
  writer: SegmentWriter | None = None
  batch: list[str] = []

  def put(last: bool) -> None:
    nonlocal writer, batch, captions
    done = []
    if writer is not None:
      done, captions = [writer.finish()], captions + writer.captions
    folder.drop({video: about.place for video in batch if (about := known.get(video))}, catalog)
    manifest = folder.manifest
    if manifest.get('forgotten'):
      manifest['forgotten'] = {v: about for v, about in manifest['forgotten'].items() if v not in batch}
    if manifest.get('pruned'):
      manifest['pruned'] = [video for video in manifest['pruned'] if video not in batch]
    if last:
      changing.commit_merged(folder, done, segment_frames)
    else:
      folder.commit(done)
    writer, batch = None, []

  known = catalog.known()
  for some in _batches(collection.records(found.wanted.values()), min(_BATCH_FRAMES, segment_frames)):
    writer = writer or folder.new_segment()
    for entry in _write(folder, catalog, writer, student, knowledge, some, found.digests, collection.dataset):
      if entry.path is not None and not pathlib.Path(entry.path).is_file():
        absent.append(entry.video_id)
      batch.append(entry.video_id)
      new.append(entry.video_id)
      _note_root(folder, entry.path)
      step(entry.split)
    if writer.frames >= segment_frames:
      put(last=False)
  put(last=True)
  return captions, absent, new


def _batches(
  records: Iterable[tuple[str, sources.Record]], batch_frames: int
) -> Iterator[list[tuple[str, sources.Record]]]:
  """Groups records by their frames."""
  some, frames = [], 0
  for split, record in records:
    some.append((split, record))
    frames += len(record['student_frames'])
    if frames >= batch_frames:
      yield some
      some, frames = [], 0
  if some:
    yield some


def _write(
  folder: IndexFolder,
  catalog: Catalog,
  writer: SegmentWriter,
  student: StudentEncoder | None,
  knowledge: Knowledge,
  some: Sequence[tuple[str, sources.Record]],
  digests: Mapping[str, str],
  dataset: str,
) -> Iterable[Entry]:
  """Encodes records and writes them to a segment, one after another."""
  manifest = folder.manifest
  scorers = list(manifest['scorers'])
  used = student if student is not None and set(scorers) & set(student.branches) else None
  videos = encoding.encode_videos([record for _, record in some], scorers, used, manifest['settings']['long_videos'])
  captions = encoding.encode_captions([record for _, record in some], scorers, used)
  for (split, record), video, vectors in zip(some, videos, captions, strict=True):
    video_id = sources.text(record['video_id'])
    entry = knowledge.entry(record, split, digests[video_id], dataset, catalog.videos.get(video_id))
    entry, cues = texts.read(entry)
    rows = {name: quantization.encode(array, manifest['dtype']) for name, array in video.rows.items()}
    writer.add(entry, video.times, rows, captions_of(record) if vectors else [], vectors, cues)
    yield entry


def _remember(folder: IndexFolder, knowledge: Knowledge, catalog: Catalog) -> None:
  """Notes where the films and their description are, for the next addition, and the folders that films may lie in."""
  settings = dict(folder.manifest['settings'])
  if knowledge.videos is not None:
    settings['videos'] = str(knowledge.videos)
  if knowledge.metadata_file is not None:
    settings['metadata'] = str(knowledge.metadata_file)
  folder.manifest['settings'] = settings
  if 'roots' not in folder.manifest:
    folder.manifest['roots'] = []
    for entry in catalog.videos.values():  # Of an index that was made before they were noted.
      _note_root(folder, entry.path)
  if knowledge.videos is not None and knowledge.videos.is_dir():
    _add_root(folder, os.path.realpath(knowledge.videos))


def _note_root(folder: IndexFolder, path: str | None) -> None:
  """Notes the folder of a film that is a link to elsewhere, or lies in no folder that is known."""
  if path is not None and os.path.isfile(path):
    _add_root(folder, os.path.dirname(os.path.realpath(path)))


def _add_root(folder: IndexFolder, root: str) -> None:
  roots = folder.manifest['roots']
  if not any(pathlib.Path(root).is_relative_to(each) for each in roots):
    folder.manifest['roots'] = sorted([*(each for each in roots if not pathlib.Path(each).is_relative_to(root)), root])
