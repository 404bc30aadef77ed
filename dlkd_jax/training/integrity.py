"""What makes a folder's damage visible: a list of its files with their sizes and check sums, written last.

Array storage notices a file that is cut, but returns other numbers without a word where a bit has flipped.
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib

from dlkd_jax import files

_MANIFEST = 'manifest.json'
_PIECE = 1 << 20  # bytes read at once


def seal(folder: pathlib.Path) -> None:
  """Writes `folder/manifest.json`: size and CRC-32 of every file below; all of them are on the disk afterwards.

  Raises:
    OSError: a file cannot be read, or the manifest cannot be written.
  """
  entries = {}
  for path in _files(folder):
    entries[path.relative_to(folder).as_posix()] = _fingerprint(path, sync=True)
  files.write_json(folder / _MANIFEST, entries)
  for path in (folder, *(p for p in folder.rglob('*') if p.is_dir())):
    files.sync(path)


def problem(folder: pathlib.Path) -> str | None:
  """Says what is wrong with a sealed folder, as 'state/d/1b1f is damaged', or None where it is as it was sealed."""
  try:
    entries = json.loads((folder / _MANIFEST).read_text(encoding='utf-8'))
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name, expected in entries.items():
      if name not in there:
        return f'{name} is missing'
      found = _fingerprint(there[name])
      if found['bytes'] != expected['bytes']:
        return f'{name} has {found["bytes"]:,} bytes, expected {expected["bytes"]:,}'
      if found != expected:
        return f'{name} is damaged: its check sum differs'
  except FileNotFoundError:
    return f'{_MANIFEST} is missing'
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    return f'{_MANIFEST} or a file that it lists cannot be read: {error}'
  return None


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob('*') if path.is_file() and path != folder / _MANIFEST)


def _fingerprint(path: pathlib.Path, sync: bool = False) -> dict[str, int]:
  size, crc = 0, 0
  with path.open('rb') as file:
    while piece := file.read(_PIECE):
      size, crc = size + len(piece), zlib.crc32(piece, crc)
    if sync:
      os.fsync(file.fileno())
  return {'bytes': size, 'crc32': crc}
