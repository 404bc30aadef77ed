"""An index on disk: a manifest, the student, and segments that never change once they are written.

    INDEX/manifest.json      version, scorers, weights, text backbones, and every file with its size and hash
    INDEX/student-<hash>.safetensors
    INDEX/segments/<number>/ see `segments`
    INDEX/catalog-<number>.sqlite see `catalog`

Whatever changes the index writes new files first and the manifest last, by a rename: whoever opens the index sees the
state before or the state after, also where the writer was killed in between. What a killed writer left is cleared away
by the next one. One writer at a time holds a lock; readers need none.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import pathlib
import re
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from dlkd_jax import files
from dlkd_jax.files import sync
from dlkd_jax.gallery import catalog as catalog_lib
from dlkd_jax.gallery import catalog_file
from dlkd_jax.gallery.locking import clear_segment, foreign_files, student_file, writing
from dlkd_jax.gallery.manifest import CATALOG, DTYPES, FORMAT, MANIFEST, VERSION, is_plain, read_manifest, refuse_others
from dlkd_jax.gallery.segments import (
  FITTED_FRAMES,
  MANY_FRAMES,
  IndexFolderError,
  Segment,
  SegmentWriter,
  add_codes,
  check_content,
  check_contents,
  check_size,
  describe_file,
  has_codes,
  open_segment,
)

__all__ = ['DTYPES', 'IndexFolder', 'IndexFolderError', 'foreign_files', 'read_manifest', 'student_file', 'writing']

_SEGMENTS = 'segments'
_STAGING, _STAGED = 'staging', re.compile(r'[0-9a-f]{32}')
_SEGMENT = re.compile(r'\d{6,}')


class IndexFolder:
  """The folder of an index.

  Attributes:
    path: the folder.
    manifest: what `manifest.json` says, as it was when the folder was opened or last written here.
  """

  def __init__(self, path: pathlib.Path, manifest: dict[str, Any]):
    """Takes what `open` or `create` found; use these."""
    self.path, self.manifest = path, manifest

  @classmethod
  def open(cls, path: pathlib.Path | str) -> IndexFolder:
    """Opens an index and checks its version, the student's hash, and the sizes of all files.

    Raises:
      FileNotFoundError: there is no index.
      IndexFolderError: it is of another version or damaged.
    """
    path = pathlib.Path(path)
    folder = cls(path, read_manifest(path))
    if student := folder.manifest['student']:
      _check_student(path / student['file'], student)
    return folder

  @classmethod
  def create(
    cls, path: pathlib.Path, manifest: Mapping[str, Any], student: Callable[[pathlib.Path], None] | None
  ) -> IndexFolder:
    """Makes an index without videos, or opens the one that is there; the caller holds the lock (`writing`).

    Args:
      path: its folder.
      manifest: 'dtype', 'scorers', 'weights', 'features', 'text', 'settings', and 'student': None where there is
        none, else 'step' and 'parameters' that tell it from others, and whatever is to be known of it.
      student: writes the student's parameters into a file, whole or not at all; None where there is none.

    Raises:
      IndexFolderError: there is an index that was made otherwise; the message lists the differences.
    """
    content = {'format': FORMAT, 'version': VERSION, **copy.deepcopy(dict(manifest))}
    content |= {'segments': [], 'next_segment': 1, 'forgotten': {}}
    if (path / MANIFEST).is_file():
      folder = cls.open(path)
      refuse_others(path, folder.manifest, content)
      return folder
    if student is not None:
      file = path / student_file(content['student'])
      student(file)
      content['student'] |= {'file': file.name, **describe_file(file)}
    folder = cls(path, content)
    folder.write_manifest()
    return folder

  def contents(self, videos: str | None = None) -> tuple[list[Segment], catalog_lib.Catalog]:
    """Opens all segments and the catalog, of one state of the index.

    Where a writer replaced them after the manifest was read, the new manifest is taken.

    Args:
      videos: folder of the video files, where that has moved.

    Raises:
      IndexFolderError: a file is absent, has another size than it should, or is damaged.
    """
    return self._of_one_state(lambda: ((found := self._segments()), self._catalog(found, videos)))

  def segments(self) -> list[Segment]:
    """Opens all segments; errors are those of `contents`."""
    return self._of_one_state(self._segments)

  def _of_one_state(self, opening: Callable[[], Any]) -> Any:
    for attempt in range(5):
      try:
        return opening()
      except FileNotFoundError as error:
        newer = read_manifest(self.path)
        same = all(newer.get(key) == self.manifest.get(key) for key in ('segments', 'catalog'))
        if same or attempt == 4:
          raise IndexFolderError(
            f'{error.filename} is absent; copy the index again, or remove {self.path} and build it anew'
          ) from error
        self.manifest = newer
    raise AssertionError  # The loop returns or raises.

  def _segments(self) -> list[Segment]:
    return [self.open_segment(about) for about in self.manifest['segments']]

  def _catalog(self, segments: list[Segment], videos: str | None) -> catalog_lib.Catalog:
    abouts = self.manifest['segments']
    if (file := self._catalog_file(self.manifest)) is None:
      return catalog_lib.in_memory(segments, abouts, videos)
    check_size(file, self.manifest['catalog'])
    return catalog_lib.open_file(file, abouts, videos)

  def _catalog_file(self, manifest: Mapping[str, Any]) -> pathlib.Path | None:
    """Returns the catalog of a manifest; None where it has none that tells of all its segments."""
    about = manifest.get('catalog')
    current = about is not None and about['covers'] == catalog_file.covered(manifest['segments'])
    return self.path / about['file'] if current else None

  def segment_path(self, name: str) -> pathlib.Path:
    """Returns the folder of a segment."""
    return self.path / _SEGMENTS / name

  def verify(self) -> None:
    """Reads every file and compares its hash.

    Raises:
      IndexFolderError: a file is not what was written.
    """
    for about in self.manifest['segments']:
      check_contents(self.path / _SEGMENTS / about['name'], about)
    if (file := self._catalog_file(self.manifest)) is not None:
      check_content(file, self.manifest['catalog'])

  def bytes(self) -> int:
    """Returns what the files of the index take on disk."""
    sizes = [file['bytes'] for about in self.manifest['segments'] for file in about['files'].values()]
    others = (self.manifest['student'], self.manifest.get('catalog'))
    return sum(sizes) + sum(about['bytes'] for about in others if about)

  def is_changed(self) -> bool:
    """Whether the manifest in memory says something else than the one on the disk."""
    return not (self.path / MANIFEST).is_file() or read_manifest(self.path) != json.loads(json.dumps(self.manifest))

  def write_manifest(self) -> None:
    """Writes a catalog and then the manifest: from here on the index is what it says; the caller holds the lock."""
    covers = catalog_file.covered(self.manifest['segments'])
    if (self.manifest.get('catalog') or {}).get('covers') != covers:
      self._write_catalog(covers)
    files.write_json(self.path / MANIFEST, self.manifest)  # On the disk before anything that it replaces is removed.
    self._clear_catalogs()

  def _write_catalog(self, covers: str) -> None:
    before = None
    if (self.path / MANIFEST).exists():
      there = read_manifest(self.path)
      old = self._catalog_file(there)
      # Damage in it would be taken over, and get a check sum that fits.
      if old is not None and old.is_file() and _digest(old) == there['catalog']['sha256']:
        before = old, there['segments']
    # Numbers only rise: whoever is about to open a catalog never finds a later one of the same name.
    number = (self.manifest.get('catalog') or {'number': 0})['number'] + 1
    while os.path.lexists(file := self.path / f'catalog-{number:06d}.sqlite'):
      number += 1
    catalog_file.write(file, self._segments(), before)
    self.manifest['catalog'] = {'file': file.name, 'number': number, 'covers': covers, **describe_file(file)}

  def _clear_catalogs(self) -> None:
    """Removes catalogs that the manifest does not name."""
    named = (self.manifest.get('catalog') or {'file': None})['file']
    for file in self.path.iterdir():
      if file.name != named and CATALOG.fullmatch(file.name) and is_plain(file) and catalog_file.is_catalog(file):
        file.unlink()

  def _next_segment(self) -> pathlib.Path:
    """Returns the folder of a segment that there is none of."""
    while os.path.lexists(folder := self.segment_path(f'{self.manifest["next_segment"]:06d}')):
      self.manifest['next_segment'] += 1  # Whatever it is, it is not ours to write to.
    self.manifest['next_segment'] += 1
    return folder

  def new_segment(self) -> SegmentWriter:
    """Starts a segment that does not belong to the index until `commit`; the caller holds the lock."""
    folder = self._next_segment()
    scorers, dtype = self.manifest['scorers'], self.manifest['dtype']
    return SegmentWriter(folder, scorers, dtype, self._codes_from(), self._fitted())

  def _fitted(self) -> pathlib.Path | None:
    """Returns the folder of the segment to whose frames codes were fitted best: the largest that has them."""
    ready = [
      about for about in self.manifest['segments'] if about['frames'] and has_codes(about, self.manifest['scorers'])
    ]
    largest = max(ready, key=lambda about: about['frames'], default=None)
    return None if largest is None or largest['frames'] < FITTED_FRAMES else self.segment_path(largest['name'])

  def staged_segment(self) -> SegmentWriter:
    """Starts a segment beside those of the index, to be handed over by `adopt`; without the lock."""
    scorers, dtype = self.manifest['scorers'], self.manifest['dtype']
    return SegmentWriter(self.path / _STAGING / uuid.uuid4().hex, scorers, dtype, self._codes_from(), self._fitted())

  def adopt(self, about: Mapping[str, Any]) -> dict[str, Any]:
    """Moves a finished staged segment to those of the index, which it does not belong to until `commit`.

    Args:
      about: what `SegmentWriter.finish` returned; the caller holds the lock.

    Returns:
      The same with its new name, for `commit`.

    Raises:
      IndexFolderError: it is not there, or not whole.
    """
    staged = self.path / _STAGING / about['name']
    try:
      open_segment(staged, about, self.manifest['scorers'], self.manifest['dtype'])
    except FileNotFoundError as error:
      raise IndexFolderError(f'{error.filename} is absent: a segment that a worker wrote; add again') from error
    target = self._next_segment()
    target.parent.mkdir(exist_ok=True)
    staged.rename(target)
    sync(target.parent)
    return {**about, 'name': target.name}

  def _codes_from(self) -> int | None:
    """Returns how many frames a segment needs for them to be compressed: then the index is large, or it was asked.

    None: an engine has the frames.
    """
    if self.manifest.get('engine'):
      return None
    if self.manifest['settings'].get('two_stage'):
      return 0
    return max(0, MANY_FRAMES - sum(about['frames'] for about in self.manifest['segments']))

  def compress(self, each: Callable[[], None] = lambda: None) -> int:
    """Compresses the frames of segments that lack it, if the index is large or it was asked; the caller holds the lock.

    Args:
      each: called after each segment, of which the manifest in memory says so.

    Returns:
      Segments that were compressed.
    """
    done = 0
    if self._codes_from() != 0:
      return done
    for number, about in enumerate(self.manifest['segments']):
      if not has_codes(about, self.manifest['scorers']):
        self.manifest['segments'][number] = about = dict(about)
        add_codes(self.segment_path(about['name']), about, self.open_segment(about).rows, self._fitted())
        each()
        done += 1
    return done

  def commit(
    self, added: Sequence[Mapping[str, Any]], replace: bool = False, dropped: Collection[str] | None = None
  ) -> None:
    """Puts finished segments into the index, or in the place of others; the caller holds the lock.

    An index that has become large is prepared for searching in two stages before.

    Args:
      added: what `SegmentWriter.finish` returned.
      replace: drop the segments that are there.
      dropped: names of those that are dropped; none, unless all are.
    """
    there = self.manifest['segments']
    gone = {about['name'] for about in there} if replace else set(dropped or ())
    kept = [about for about in there if about['name'] not in gone]
    self.manifest['segments'] = [*kept, *(dict(about) for about in added)]
    self.compress()
    self.write_manifest()
    if gone:
      self.clear_away()

  def drop(self, places: Mapping[str, int], catalog: catalog_lib.Catalog) -> None:
    """Marks videos as removed, in the manifest in memory; `write_manifest` or `commit` writes it.

    Args:
      places: id → place of each, as `catalog` has it.
      catalog: of the segments that the manifest begins with.
    """
    segments = self.manifest['segments']
    own: dict[int, list[str]] = {}
    for video, place in places.items():
      own.setdefault(catalog.segment_of(place)[0], []).append(video)
    for number, videos in own.items():
      segments[number] = {**segments[number], 'removed': sorted({*segments[number]['removed'], *videos})}

  def open_segment(self, about: Mapping[str, Any]) -> Segment:
    """Opens a segment, which may be finished and not committed yet."""
    return open_segment(self.segment_path(about['name']), about, self.manifest['scorers'], self.manifest['dtype'])

  def clear_away(self) -> None:
    """Removes what the index does not need any more: parts of writers that were killed, and replaced segments.

    Only what a writer of an index has made goes, file by file, known by its name and by how it begins. Links, and other
    people's files and folders, stay, wherever they lie.
    """
    kept = {about['name'] for about in self.manifest['segments']}
    folder = self.path / _SEGMENTS
    if folder.is_dir() and not folder.is_symlink():
      for segment in folder.iterdir():
        if segment.name not in kept and _SEGMENT.fullmatch(segment.name):
          clear_segment(segment, self.manifest['scorers'])
    self._clear_catalogs()

  def clear_staging(self) -> None:
    """Removes staged segments, likewise; no worker writes one that is wanted."""
    if (staging := self.path / _STAGING).is_dir() and not staging.is_symlink():
      for segment in staging.iterdir():
        if _STAGED.fullmatch(segment.name):
          clear_segment(segment, self.manifest['scorers'])
      with contextlib.suppress(OSError):  # Somebody's files are in it.
        staging.rmdir()


def _check_student(path: pathlib.Path, expected: Mapping[str, Any]) -> None:
  if not path.is_file():
    raise IndexFolderError(f'{path} is absent; copy the index again, or build it anew')
  size = path.stat().st_size
  found = f'{size} bytes' if size != expected['bytes'] else f'the check sum {_digest(path)[:12]}…'
  wanted = f'{expected["bytes"]} bytes' if size != expected['bytes'] else f'the check sum {expected["sha256"][:12]}…'
  if found != wanted:
    raise IndexFolderError(
      f'{path} has {found}, expected {wanted}: the student is not the one that the index was made with; copy the index '
      'again, or build it anew'
    )


def _digest(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
