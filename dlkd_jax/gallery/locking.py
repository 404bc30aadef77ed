"""Who may write to the folder of an index, and what may be removed there: never other people's files."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dlkd_jax.gallery import catalog_file
from dlkd_jax.gallery.manifest import CATALOG, FORMAT, MANIFEST, is_plain, read_manifest
from dlkd_jax.gallery.segments import CUES, FIRST, SUFFIXES, IndexFolderError

_LOCK = '.lock'


@contextlib.contextmanager
def writing(path: pathlib.Path, create: bool = False, student: str | None = None) -> Iterator[None]:
  """Holds the lock of the writers of an index. Nothing is made before it is clear that there is one, or may be one.

  Args:
    path: its folder.
    create: there need not be an index yet.
    student: see `foreign_files`.

  Raises:
    FileNotFoundError: there is no index, and none is to be made.
    IndexFolderError: the folder holds other files, or another process holds the lock.
  """
  try:
    import fcntl  # Where there is none, as on Windows, an index can be searched all the same.
  except ImportError as error:
    raise IndexFolderError('an index cannot be changed on this system; do so on Linux or macOS, and copy it') from error
  if not create or (path / MANIFEST).is_file():  # Another program's may have this name.
    read_manifest(path)
  _refuse_foreign(path, student)
  path.mkdir(parents=True, exist_ok=True)
  # Neither emptied nor followed: a file or a link of this name may be somebody's.
  descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise IndexFolderError(f'{path}: another process is changing this index; wait until it is done') from error
    _refuse_foreign(path, student)
    yield
  finally:
    os.close(descriptor)


def student_file(about: Mapping[str, Any]) -> str:
  """Returns the name of a new index's file of a student, of which `parameters` is the hash."""
  return f'student-{about["parameters"]}.safetensors'


def clear_segment(folder: pathlib.Path, scorers: Iterable[str]) -> None:
  """Removes a segment that no index needs, finished or not; nothing that a `SegmentWriter` has not made.

  A folder is taken for a segment where `offsets.i64` begins as every one does, or where all files of a segment that
  are in it are empty. Its files go, and the folder, if nothing else is in it. No link is followed.
  """
  if folder.is_symlink() or not folder.is_dir():
    return
  kinds = ('values', 'scales', 'captions', 'frames', 'frames.tmp')
  names = {*SUFFIXES.values(), CUES, *(f'{name}.{kind}' for name in scorers for kind in kinds)}
  own = [file for file in folder.iterdir() if file.name in names and is_plain(file)]
  first = folder / SUFFIXES['offsets']
  if any(file.stat().st_size for file in own):
    if first not in own:
      return
    with first.open('rb') as file:
      begun = file.read(len(FIRST))
    # Earlier writers kept the beginning in memory: theirs is known by all the others being there.
    if begun != FIRST and (begun or not {folder / name for name in SUFFIXES.values()} <= set(own)):
      return
  for file in sorted(own, key=lambda file: file == first):  # By the last one it is known.
    file.unlink()
  with contextlib.suppress(OSError):  # Somebody's files are in it.
    folder.rmdir()


def _refuse_foreign(path: pathlib.Path, student: str | None) -> None:
  if foreign := foreign_files(path, student):
    raise IndexFolderError(
      f'{path} holds files that no index has ({", ".join(foreign[:4])}); choose another --index, or a folder that is '
      'empty or absent'
    )


def foreign_files(path: pathlib.Path, student: str | None = None) -> list[str]:
  """Returns names in a folder that no index has, so that an index is not put among other people's files.

  Args:
    path: the folder; need not exist. Where it holds a manifest, it is an index, and nothing is foreign.
    student: file of the student that is about to be written; a killed writer may have left it, or a part of it.

  Raises:
    IndexFolderError: it is no folder.
  """
  if (path / MANIFEST).is_file() or not os.path.lexists(path):
    return []
  if not path.is_dir():
    raise IndexFolderError(f'{path} is no folder; choose another --index')
  return sorted(file.name for file in path.iterdir() if not _begun(file, student))


def _begun(file: pathlib.Path, student: str | None) -> bool:
  """Whether a file was left by a writer that was killed before it had written a manifest."""
  if not is_plain(file):
    return False
  if file.name == _LOCK:
    return file.stat().st_size == 0
  if file.name == MANIFEST + '.tmp':
    head = json.dumps({'format': FORMAT}, indent=2)[:-2].encode()  # Without the end of the line and the brace.
    content = file.read_bytes()[: len(head)]
    return head.startswith(content)
  if CATALOG.fullmatch(file.name):
    return catalog_file.is_catalog(file)
  if student is None or file.name not in (student, student + '.tmp'):
    return False
  from dlkd_jax.models import parameter_files  # Not needed by those who only search.

  return file.name != student or parameter_files.is_ours(file)
