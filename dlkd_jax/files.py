"""Text, JSON lines and paths as people write them; files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
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
_KINDS = {
  b'version https://git-lfs.github.com/spec/': 'a Git LFS pointer and not the file; run `git lfs pull` in its folder',
  b'\x89HDF\r\n\x1a\n': 'an HDF5 file',
  b'PK\x03\x04': 'a zip archive (as .npz and the files of PyTorch are, too)',
  b'PK\x05\x06': 'an empty zip archive',
  b'\x1f\x8b': 'packed with gzip; unpack it',
  b'\xfd7zXZ\x00': 'packed with xz; unpack it',
  b'\x28\xb5\x2f\xfd': 'packed with zstd; unpack it',
  b'7z\xbc\xaf\x27\x1c': 'a 7z archive; unpack it',
  b'Rar!\x1a\x07': 'a RAR archive; unpack it',
  b'\x93NUMPY': 'a single NumPy array (.npy)',
  b'\x80\x02': 'a Python pickle, which may run anything and is never opened',
  b'\x80\x03': 'a Python pickle, which may run anything and is never opened',
  b'\x80\x04': 'a Python pickle, which may run anything and is never opened',
  b'\x80\x05': 'a Python pickle, which may run anything and is never opened',
  b'%PDF-': 'a PDF document',
}
_MANIFEST = 'manifest.json'  # Of a sealed folder.
_HARMLESS = '\xa0\u3000\u200c\u200d'  # Spaces, and joiners that some scripts are written with.
_HEAD_BYTES = 4096
_POINTER_BYTES = 32 << 10  # What git-annex takes for a pointer at most.
_HEADER_BYTES = 100 << 20  # What safetensors takes for a header at most.
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


def kind_of(path: pathlib.Path, expected: str = '') -> str | None:
  """Says what a file really is that cannot be read as what its name promises, and what to do.

  Only a regular file is opened, and only its two ends are read.

  Args:
    path: the file.
    expected: what it should be: 'HDF5', 'safetensors' or '.npz'. A file of this kind, only damaged, is not named.

  Returns:
    What fits behind '<path> is ', as 'a Git LFS pointer, not the file itself; run `git lfs pull` …'; None where
    nothing is known of it.
  """
  try:
    mode = path.stat()
    if not stat.S_ISREG(mode.st_mode):
      return 'a folder' if stat.S_ISDIR(mode.st_mode) else 'no regular file'
    with path.open('rb') as file:
      head = file.read(_HEAD_BYTES)
      file.seek(-min(mode.st_size, _HEAD_BYTES), os.SEEK_END)
      tail = file.read(_HEAD_BYTES)
  except FileNotFoundError:
    return f'a link to {os.readlink(path)}, which is absent; get that file' if path.is_symlink() else 'absent'
  except OSError as error:
    return f'not readable ({error.strerror})'
  kind = _kind_of_content(head, tail, mode.st_size)
  return None if kind is None or (expected and expected in kind) else kind


def _kind_of_content(head: bytes, tail: bytes, size: int) -> str | None:
  if not head:
    return 'an empty file (0 bytes); get it again'
  if not any(head) and not any(tail):
    return 'full of zero bytes, as an interrupted copy leaves it; get it again'
  for start, kind in _KINDS.items():
    if head.startswith(start):
      return kind
  if head.startswith(b'BZh') and head[4:10] == b'1AY&SY':  # A text may begin with the three letters.
    return 'packed with bzip2; unpack it'
  if head.startswith((b'/annex/objects/', b'../.git/annex/', b'.git/annex/')) and size < _POINTER_BYTES:
    return 'a git-annex pointer, not the file itself; run `git annex get` in its folder'
  if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < _HEADER_BYTES:
    return 'a safetensors file'
  text = head.removeprefix(b'\xef\xbb\xbf').lstrip()[:16].lower()
  if text.startswith((b'<!doctype html', b'<html', b'<head')):
    return 'an HTML page, as comes where a download needs a login or another address; download it again'
  if text.startswith((b'<?xml', b'<error>')):
    return 'XML text, as a server sends instead of a file that it refuses; download it again'
  return None


def fingerprint_of_files(*paths: pathlib.Path) -> str:
  """Returns a short hash of the contents of files."""
  digest = hashlib.sha256()
  for path in paths:
    with path.open('rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  return digest.hexdigest()[:16]
