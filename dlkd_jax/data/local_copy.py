"""Data sets in a bucket: array_record reads files of this machine alone, so a set is copied here once."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import zlib

from dlkd_jax import files
from dlkd_jax.errors import UserError

_ROOM = 1.05  # Of the bytes of a set, that must be free.


def local_copy(folder: files.Path) -> pathlib.Path:
  """Returns a folder of this machine with the files of another: that one itself, or its copy, made where there is none.

  A copy lies in the user's cache folder (XDG_CACHE_HOME, or ~/.cache), named after the place that it is of and the
  names, sizes and times of the files there, so that a set that was built anew is copied anew. It appears whole or not
  at all, and can be removed whenever no training reads it.

  Raises:
    UserError: there is too little room.
    OSError: a file cannot be read, or written.
  """
  if not files.is_remote(folder):
    return folder
  found = {path.relative_to(folder).as_posix(): path.stat() for path in files.below(folder)}
  sizes = '\n'.join(f'{name} {stat.length} {stat.mtime}' for name, stat in found.items())
  place, content = zlib.crc32(str(folder).encode()), zlib.crc32(sizes.encode())
  home = files.cache_folder() / 'data'
  target = home / f'{place:08x}-{content:08x}' / folder.name  # TFDS takes the version from the name.
  if target.is_dir():
    return target
  home.mkdir(parents=True, exist_ok=True)
  needed, free = sum(stat.length for stat in found.values()), shutil.disk_usage(home).free
  if free < _ROOM * needed:
    raise UserError(
      f'{folder} has {needed / 2**30:.1f} GiB, to be copied to {home}, where {free / 2**30:.1f} GiB are free; make '
      'room, or set XDG_CACHE_HOME to a folder of a larger disk'
    )
  print(f'copying {folder} once to {target}: {len(found)} files, {needed / 2**20:,.0f} MiB', flush=True)
  with tempfile.TemporaryDirectory(prefix=f'{target.parent.name}.', suffix='.partial', dir=home) as partial:
    for name in found:
      to = pathlib.Path(partial) / folder.name / name
      to.parent.mkdir(parents=True, exist_ok=True)
      with (folder / name).open('rb') as reading, to.open('wb') as writing:
        shutil.copyfileobj(reading, writing, 1 << 22)
      files.sync(to)
    target.parent.mkdir(exist_ok=True)
    try:
      os.rename(pathlib.Path(partial) / folder.name, target)
    except OSError:
      if not target.is_dir():  # Else another process was quicker.
        raise
  return target
