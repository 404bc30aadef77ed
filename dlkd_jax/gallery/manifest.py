"""The manifest of an index: `manifest.json`, written last, which says what belongs to it."""

from __future__ import annotations

import json
import pathlib
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from dlkd_jax.config import differences
from dlkd_jax.gallery.segments import IndexFolderError

FORMAT, VERSION = 'dlkd_jax gallery', 1
DTYPES = ('float16', 'int8')
MANIFEST = 'manifest.json'
# Catalogs, those among them that are not whole yet.
CATALOG = re.compile(r'catalog-\d{6,}\.sqlite(\.tmp)?')
_FILE = re.compile(r'[\w-][\w.-]*', re.ASCII)
_KEYS = ('dtype', 'scorers', 'weights', 'student', 'features', 'text', 'segments', 'next_segment', 'settings')


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
  """Reads and checks the manifest of an index.

  Raises:
    FileNotFoundError: there is none.
    IndexFolderError: it is of another format or version, or damaged.
  """
  file = path / MANIFEST
  if not file.is_file():
    there = 'does not exist' if not path.is_dir() else f'has no {MANIFEST}'
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
  if odd := [name for name in _names(manifest) if not _FILE.fullmatch(str(name))]:
    raise IndexFolderError(
      f'{file} names {str(odd[0])!r}, which is no name of a file of an index; copy the index again, or build it anew'
    )
  return manifest


def _names(manifest: Mapping[str, Any]) -> Iterator[Any]:
  """Yields every name in a manifest that becomes a part of a path: none may lead out of the index."""
  yield from manifest['scorers']
  for about in (manifest['student'], manifest.get('catalog')):
    if about:
      yield about['file']
  for about in manifest['segments']:
    yield about['name']
    yield from about['files']


def refuse_others(path: pathlib.Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
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


def is_plain(file: pathlib.Path) -> bool:
  """Whether it is a file and no link to one."""
  return stat.S_ISREG(file.lstat().st_mode)
