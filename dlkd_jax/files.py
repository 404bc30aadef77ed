"""Text, JSON lines and paths as people write them; files that appear whole or not at all; folders of buckets."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from dlkd_jax.errors import UserError

Path = pathlib.Path | epath.Path  # On this machine's disks, or somewhere else, as gs://bucket/folder.

_OTHER_ENCODINGS = {
  b'\xff\xfe\x00\x00': 'UTF-32',
  b'\x00\x00\xfe\xff': 'UTF-32',
  b'\xff\xfe': 'UTF-16',
  b'\xfe\xff': 'UTF-16',
}
_MANIFEST = 'manifest.json'  # Of a sealed folder.
_HARMLESS = '\xa0\u3000\u200c\u200d'  # Spaces, and joiners that some scripts are written with.
_ROOM = 1.05  # Of the bytes of what is copied here, that must be free.
_REMOTE = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+://')


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a path as a person meant it: `~` and `~name` are home folders.

  Every path that a command line or a configuration names goes through here; a folder that is really called `~` is
  written `./~`.

  Raises:
    UserError: it is empty, holds a NUL character, names the home of nobody, or is not one of this machine.
  """
  text = os.fspath(path)
  if not text or '\0' in text:
    raise UserError(f'a path is {text!r}; expected the name of a file or a folder')
  if _REMOTE.match(text):
    raise UserError(f'{text}: expected a file or a folder of this machine here; copy it, and name the copy')
  expanded = os.path.expanduser(text)  # pathlib would take ./~ for ~.
  if expanded.startswith('~'):
    raise UserError(f'{text}: there is no home folder of that name; write the whole path, or ./{text}')
  path = pathlib.Path(expanded)
  return path.absolute() if path.parts[:1] and path.parts[0].startswith('~') else path  # It was ./~, and stays that.


def expand_any(path: str | os.PathLike[str]) -> Path:
  """Returns a path as `expand` does, where a folder of a bucket will do, too: `gs://bucket/folder`.

  Raises:
    UserError: as of `expand`; or what reads and writes there is not installed.
  """
  text = os.fspath(path)
  if not text.startswith('gs://'):
    return expand(path)
  try:
    fsspec.get_filesystem_class('gs')
  except ImportError as error:
    raise UserError(f'{text}: gs:// needs the package gcsfs, which is not installed; pip install gcsfs') from error
  return epath.Path(text)


def cache_folder() -> pathlib.Path:
  """Returns the folder for what can be made again: dlkd_jax in XDG_CACHE_HOME, or in ~/.cache.

  Raises:
    RuntimeError: there is no home.
  """
  home = pathlib.Path(os.environ.get('XDG_CACHE_HOME', ''))
  return (home if home.is_absolute() else pathlib.Path.home() / '.cache') / 'dlkd_jax'


def is_remote(path: Path) -> bool:
  """Whether a path is of a bucket, where a file is written whole: none is appended to, and none renamed at once."""
  return not isinstance(path, pathlib.Path)


def absolute(path: Path) -> Path:
  """Returns a path that stays the same where the program changes its folder."""
  return path if is_remote(path) else path.absolute()


def listing(folder: Path) -> list[Path]:
  """Returns what is in a folder, in order; nothing where there is no such folder, as none is that holds no file."""
  try:
    return sorted(folder.iterdir())
  except FileNotFoundError:
    return []


def remove(path: Path) -> None:
  """Removes a file, or a folder with all that is in it, where there is one."""
  if not path.is_dir():
    path.unlink(missing_ok=True)
  elif is_remote(path):
    path.rmtree()
  else:
    shutil.rmtree(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
  """Gives a temporary path to write to; what was written there replaces `path` where the block ends without an error.

  Then it is on the disk, not only on its way there, and as readable to others as any new file, whatever mode the writer
  chose. After an error, also one in between (Ctrl-C), `path` is what it was and the temporary file is gone.

  Raises:
    OSError: it cannot be written; the error names `path`.
  """
  if is_remote(path):
    with tempfile.TemporaryDirectory() as folder:
      yield (temporary := pathlib.Path(folder) / path.name)
      path.write_bytes(temporary.read_bytes())
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  try:
    temporary.unlink(missing_ok=True)
    with temporary.open('xb') as file:
      mode = os.fstat(file.fileno()).st_mode & 0o777  # As the umask has it, which cannot be read without setting it.
    yield temporary
    os.chmod(temporary, mode)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
  except BaseException as error:
    temporary.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.errno is not None:
      error.filename = error.filename or str(path)  # A failed write does not say of what.
    raise


def sync(path: Path) -> None:
  """Waits until a file, or the names in a folder, are on the disk; where that is not to be had of folders, goes on.

  Raises:
    OSError: it cannot be written.
  """
  if is_remote(path):
    return
  try:
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
  except OSError as error:
    # Network file systems know no waiting for a folder; and a folder may be written to, and not listed.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES) or not path.is_dir():
      raise


def seal(folder: Path) -> None:
  """Writes `folder/manifest.json`: size and CRC-32 of every file below; all of them are on the disk afterwards.

  Raises:
    OSError: a file cannot be read, or the manifest cannot be written.
  """
  paths = list(below(folder))
  for each in {*paths, *(above for path in paths for above in path.parents if above.is_relative_to(folder))}:
    sync(each)
  write_json(folder / _MANIFEST, {path.relative_to(folder).as_posix(): _fingerprint(path) for path in paths})


def problem(folder: Path) -> str | None:
  """Says what is wrong with a sealed folder, as 'state/d/1b1f is damaged', or None where it is as it was sealed."""
  try:
    for name, expected in json.loads((folder / _MANIFEST).read_text(encoding='utf-8')).items():
      if not (folder / name).is_file():
        return f'{name} is missing'
      found = _fingerprint(folder / name)
      if found['bytes'] != expected['bytes']:
        return f'{name} has {found["bytes"]:,} bytes, expected {expected["bytes"]:,}'
      if found != expected:
        return f'{name} is damaged: its check sum differs'
  except FileNotFoundError:
    return f'{_MANIFEST} is missing'
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    return f'{_MANIFEST} or a file that it lists cannot be read: {error}'
  return None


def below(folder: Path) -> Iterator[Path]:
  """Yields the files in a folder and in the folders below it, but for lists of check sums."""
  for path in listing(folder):
    if path.is_dir():
      yield from below(path)
    elif path.name != _MANIFEST:
      yield path


def _fingerprint(path: Path) -> dict[str, int]:
  size, crc = 0, 0
  with path.open('rb') as file:
    while piece := file.read(1 << 20):
      size, crc = size + len(piece), zlib.crc32(piece, crc)
  return {'bytes': size, 'crc32': crc}


def write_text(path: Path, text: str) -> None:
  """Writes a text file in UTF-8 as `replacing` does."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8', newline='')


def write_json(path: Path, content: Any) -> None:
  """Writes indented JSON as `replacing` does."""
  write_text(path, json.dumps(content, indent=2) + '\n')


def read_text(path: pathlib.Path) -> str:
  """Reads a text file that a person wrote: UTF-8, with or without a byte order mark.

  Raises:
    UserError: it is no UTF-8; the line and the byte are named.
    OSError: it cannot be read.
  """
  return decode(path.read_bytes(), str(path))


def decode(content: bytes, origin: str) -> str:
  """Returns bytes as text as `read_text` does; `origin` is what errors call them."""
  for mark, name in _OTHER_ENCODINGS.items():
    if content.startswith(mark):
      raise UserError(f'{origin}: is {name} text; save it as UTF-8')
  try:
    return content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    # The codec counts behind the byte order mark.
    place = error.start + (3 if content.startswith(b'\xef\xbb\xbf') else 0)
    line = content.count(b'\n', 0, place) + 1
    raise UserError(
      f'{origin}, line {line}: byte {place} is 0x{content[place]:02x}, which is no UTF-8 text; save the file as UTF-8'
    ) from error


def check_characters(text: str, what: str) -> None:
  """Checks that a text is whole characters: what a terminal could not decode arrives as halves of some.

  Raises:
    UserError: it holds half of a character; the message begins with `what` and names the place.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{what}: holds half of a character, or bytes that are no UTF-8 text, at character {error.start + 1} of '
      f'{text[:80]!r}; write it whole, or leave it out'
    ) from error


def lines(text: str) -> Iterator[tuple[int, str]]:
  """Yields number, from 1, and content of each line that holds more than white space.

  Lines end with LF or CRLF alone: U+2028, U+0085 and their like are characters of a sentence.
  """
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      yield number, line.removesuffix('\r')


def json_lines(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Reads JSON objects, one a line.

  Yields:
    Where it stands, as 'captions.jsonl, line 3', and the object.

  Raises:
    UserError: a line is no object of JSON, or holds half of a character (a lone surrogate); the line is named.
    OSError: it cannot be read.
  """
  for number, line in lines(read_text(path)):
    where = f'{path}, line {number}'
    yield where, parse_object(line, where)


def parse_object(text: str, where: str) -> dict[str, Any]:
  """Reads one JSON object; see `json_lines` for the errors, which begin with `where`."""
  try:
    content = json.loads(text)
    text.encode(), json.dumps(content, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{where}: holds half of a character ({error.object[error.start : error.start + 1]!r}); write it whole, or '
      'leave it out'
    ) from error
  except (ValueError, RecursionError) as error:
    raise UserError(f'{where}: not JSON ({error}); expected one object a line, found {text.strip()[:80]!r}') from error
  if not isinstance(content, dict):
    raise UserError(f'{where}: expected an object, as {{"video": "lake.mp4", …}}, found {text.strip()[:80]!r}')
  return content


def is_text(name: str) -> bool:
  """Whether a name is text, and can be kept: Python reads bytes of a name that are no UTF-8 as halves of characters."""
  return not any('\ud800' <= each <= '\udfff' for each in name)


def printable(text: str) -> str:
  """Returns a name as it may be printed: what moves the cursor or the writing, and bytes that are no text, escaped."""
  return ''.join(each if each.isprintable() or each in _HARMLESS else _escaped(each) for each in text)


def _escaped(character: str) -> str:
  number = ord(character)
  # How Python reads a byte of a name that is no UTF-8.
  return f'\\x{number - 0xDC00:02x}' if 0xDC80 <= number <= 0xDCFF else repr(character)[1:-1]


def fingerprint_of_files(*paths: pathlib.Path) -> str:
  """Returns a short hash of the contents of files."""
  digest = hashlib.sha256()
  for path in paths:
    with path.open('rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  return digest.hexdigest()[:16]


def local_copy(folder: Path) -> pathlib.Path:
  """Returns a folder of this machine with the files of another: that one itself, or its copy, made where there is none.

  A copy lies in the user's cache folder (XDG_CACHE_HOME, or ~/.cache), named after the place that it is of and the
  names, sizes and times of the files there, so that a set that was built anew is copied anew. It appears whole or not
  at all, and can be removed whenever no training reads it.

  Raises:
    UserError: there is too little room.
    OSError: a file cannot be read, or written.
  """
  if not is_remote(folder):
    return folder
  found = {path.relative_to(folder).as_posix(): path.stat() for path in below(folder)}
  sizes = '\n'.join(f'{name} {stat.length} {stat.mtime}' for name, stat in found.items())
  place, content = zlib.crc32(str(folder).encode()), zlib.crc32(sizes.encode())
  home = cache_folder() / 'data'
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
      sync(to)
    target.parent.mkdir(exist_ok=True)
    try:
      os.rename(pathlib.Path(partial) / folder.name, target)
    except OSError:
      if not target.is_dir():  # Else another process was quicker.
        raise
  return target
