"""What the name of a file promises, and what a file really is that cannot be read as that."""

from __future__ import annotations

import os
import pathlib
import stat

_VIDEOS = """
  3g2 3gp asf avi divx f4v flv gif m2ts m2v m4v mkv mov mp4 mpe mpeg mpg mts mxf nut ogv rm rmvb ts vob webm wmv y4m
"""
VIDEO_SUFFIXES = frozenset(f'.{name}' for name in _VIDEOS.split())
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
_HEAD_BYTES = 4096
_POINTER_BYTES = 32 << 10  # What git-annex takes for a pointer at most.
_HEADER_BYTES = 100 << 20  # What safetensors takes for a header at most.


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


def whose_kind(path: pathlib.Path, reason: str, expected: str = '') -> str:
  """Returns what to say of a file that cannot be read: what it really is, or else the reason that its reader gave."""
  kind = kind_of(path, expected)
  return reason if kind is None else f'it is {kind}'
