"""An index on disk: a manifest, the student, and segments that never change once they are written.

    INDEX/manifest.json      version, scorers, weights, text backbones, and every file with its size and hash
    INDEX/student-<hash>.safetensors
    INDEX/segments/<number>/ see `segments`

Whatever changes the index writes new files first and the manifest last, by a rename: whoever opens the index sees the
state before or the state after, also where the writer was killed in between. What a killed writer left is cleared away
by the next one. One writer at a time holds a lock; readers need none.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dlkd_jax import files
from dlkd_jax.config import differences
from dlkd_jax.gallery.segments import IndexFolderError, Segment, SegmentWriter, check_contents, open_segment
from dlkd_jax.training.integrity import sync_folder

__all__ = ['IndexFolder', 'IndexFolderError']

FORMAT, VERSION = 'dlkd_jax gallery', 1
DTYPES = ('float16', 'int8')
_MANIFEST, _LOCK, _SEGMENTS = 'manifest.json', '.lock', 'segments'
_KEYS = ('dtype', 'scorers', 'weights', 'student', 'features', 'text', 'segments', 'next_segment', 'settings')


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
      student: writes the student's parameters into a file; None where there is none.

    Raises:
      IndexFolderError: there is an index that was made otherwise; the message lists the differences.
    """
    content = {'format': FORMAT, 'version': VERSION, **copy.deepcopy(dict(manifest)), 'segments': [], 'next_segment': 1}
    temporary = path / 'student.partial.safetensors'
    if student is not None:
      student(temporary)
      with temporary.open('rb') as file:
        os.fsync(file.fileno())
      found = _digest(temporary)
      about = {'file': f'student-{found[:12]}.safetensors', 'sha256': found, 'bytes': temporary.stat().st_size}
      content['student'] |= about
    if (path / _MANIFEST).exists():
      temporary.unlink(missing_ok=True)
      folder = cls.open(path)
      _refuse_others(path, folder.manifest, content)
      return folder
    if student is not None:
      temporary.replace(path / content['student']['file'])
    folder = cls(path, content)
    folder.write_manifest()
    return folder

  def segments(self) -> list[Segment]:
    """Opens all segments.

    Where a writer replaced them after the manifest was read, the new manifest is taken.

    Raises:
      IndexFolderError: a file is absent or has another size than it should.
    """
    for attempt in range(5):
      try:
        return [self._open(about) for about in self.manifest['segments']]
      except FileNotFoundError as error:
        newer = read_manifest(self.path)
        if newer['segments'] == self.manifest['segments'] or attempt == 4:
          raise IndexFolderError(
            f'{error.filename} is absent; copy the index again, or remove {self.path} and build it anew'
          ) from error
        self.manifest = newer
    raise AssertionError  # The loop returns or raises.

  def segment_path(self, name: str) -> pathlib.Path:
    """Returns the folder of a segment."""
    return self.path / _SEGMENTS / name

  def _open(self, about: Mapping[str, Any]) -> Segment:
    return open_segment(self.segment_path(about['name']), about, self.manifest['scorers'], self.manifest['dtype'])

  def verify(self) -> None:
    """Reads every file and compares its hash.

    Raises:
      IndexFolderError: a file is not what was written.
    """
    for about in self.manifest['segments']:
      check_contents(self.path / _SEGMENTS / about['name'], about)

  def bytes(self) -> int:
    """Returns what the files of the index take on disk."""
    sizes = [file['bytes'] for about in self.manifest['segments'] for file in about['files'].values()]
    return sum(sizes) + (self.manifest['student'] or {'bytes': 0})['bytes']

  def write_manifest(self) -> None:
    """Writes the manifest: from here on the index is what it says; the caller holds the lock."""
    files.write_json(self.path / _MANIFEST, self.manifest)
    sync_folder(self.path)  # Before anything that the manifest before it named is removed.

  def new_segment(self) -> SegmentWriter:
    """Starts a segment that does not belong to the index until `commit`; the caller holds the lock."""
    name = f'{self.manifest["next_segment"]:06d}'
    self.manifest['next_segment'] += 1
    return SegmentWriter(self.path / _SEGMENTS / name, self.manifest['scorers'], self.manifest['dtype'])

  def commit(self, added: Sequence[Mapping[str, Any]], replace: bool = False) -> None:
    """Puts finished segments into the index, or in the place of all that are there; the caller holds the lock.

    Args:
      added: what `SegmentWriter.finish` returned.
      replace: drop the segments that are there.
    """
    before = [] if replace else self.manifest['segments']
    self.manifest['segments'] = [*before, *(dict(about) for about in added)]
    self.write_manifest()
    if replace:
      self.clear_away()

  def clear_away(self) -> None:
    """Removes what does not belong to the index: parts of writers that were killed, and replaced segments."""
    kept = {about['name'] for about in self.manifest['segments']}
    for folder in (self.path / _SEGMENTS).glob('*'):
      if folder.name not in kept:
        shutil.rmtree(folder)
    student = (self.manifest['student'] or {'file': None})['file']
    for file in self.path.glob('student*.safetensors*'):
      if file.name != student:
        file.unlink()


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
  """Reads and checks the manifest of an index.

  Raises:
    FileNotFoundError: there is none.
    IndexFolderError: it is of another format or version, or damaged.
  """
  file = path / _MANIFEST
  if not file.is_file():
    there = 'does not exist' if not path.is_dir() else f'has no {_MANIFEST}'
    raise FileNotFoundError(
      f'{path} is no index: it {there}; make one with `python -m dlkd_jax.index build --index={path} …`'
    )
  try:
    manifest = dict(json.loads(file.read_text(encoding='utf-8')))
  except (ValueError, TypeError) as error:
    raise IndexFolderError(f'{file} is damaged ({error}); copy the index again, or build it anew') from error
  found = manifest.get('format'), manifest.get('version')
  if found != (FORMAT, VERSION):
    raise IndexFolderError(
      f'{file} has format {found[0]!r} of version {found[1]!r}, expected {FORMAT!r} of version {VERSION}; open it with '
      'the version of dlkd_jax that made it, or build it anew'
    )
  if absent := [key for key in _KEYS if key not in manifest]:
    raise IndexFolderError(f'{file} is damaged: it lacks {absent}; copy the index again, or build it anew')
  return manifest


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Holds the lock of the writers of an index.

  Raises:
    IndexFolderError: another process holds it.
  """
  path.mkdir(parents=True, exist_ok=True)
  with (path / _LOCK).open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise IndexFolderError(f'{path}: another process is changing this index; wait until it is done') from error
    yield


def foreign_files(path: pathlib.Path) -> list[str]:
  """Returns names in a folder that no index has, so that an index is not put among other people's files."""
  own = (_MANIFEST, _MANIFEST + '.tmp', _LOCK, _SEGMENTS)
  names = [] if not path.is_dir() else sorted(file.name for file in path.iterdir())
  return [name for name in names if name not in own and not name.startswith('student')]


def _refuse_others(path: pathlib.Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
  """Raises where an index was made otherwise than it is asked for."""

  def made(manifest: Mapping[str, Any]) -> dict[str, Any]:
    # Not the hash of the file, in which the order of what is said of it is left to chance.
    about = manifest['student']
    student = about and f'parameters {about["parameters"]} of step {about["step"]}'
    same = {key: manifest[key] for key in ('dtype', 'scorers', 'features')}
    return {**same, 'student': student, 'long_videos': manifest['settings']['long_videos']}

  if lines := differences(made(there), made(asked)):
    raise IndexFolderError(
      f'{path} holds an index that was made otherwise (there → asked for): {"; ".join(lines)}. Ask for the same, '
      'choose another --index, or remove the folder'
    )


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
