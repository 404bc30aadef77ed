"""Frame features packed as a BigFile: feature.bin, id.txt, shape.txt and video2frames.txt in one folder."""

from __future__ import annotations

import pathlib

import numpy as np

from dlkd_jax import file_kinds
from tfds_builders.arrays import as_rows
from tfds_builders.errors import (
  DuplicateIdError,
  MalformedFileError,
  MissingFileError,
  MissingRowError,
  ShapeFileError,
  TruncatedFileError,
)
from tfds_builders.video2frames import iterate_videos
from tfds_builders.video2frames import readable as readable_name

_ROW_TYPE = np.dtype('<f4')


class BigFileFrames:
  """Frames of each video out of one file of float32 rows.

  Only the rows of the video asked for are read, so memory does not grow with feature.bin. What is held is one integer
  a row.

  Attributes:
    path: the folder.
    dims: features a row.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens the folder and checks that its four files agree.

    Args:
      folder: holds feature.bin, id.txt, shape.txt and video2frames.txt.

    Raises:
      PackError: a file is absent, or two of them disagree; the message names file and id.
    """
    self.path = folder
    self._bin = folder / 'feature.bin'
    for name in ('feature.bin', 'id.txt', 'shape.txt', 'video2frames.txt'):
      if not (folder / name).is_file():
        raise MissingFileError(
          f'{folder / name}: absent; a BigFile folder holds feature.bin, id.txt, shape.txt and video2frames.txt'
        )
    for name in ('id.txt', 'shape.txt', 'video2frames.txt'):
      if kind := file_kinds.kind_of(folder / name):
        raise MalformedFileError(f'{folder / name}: expected text; it is {kind}')
    rows, self.dims = _read_shape(folder / 'shape.txt')
    self._check_size(rows)
    self._rows = _rows_of_videos(folder, rows)
    self._file = self._bin.open('rb', buffering=0)

  def _check_size(self, rows: int) -> None:
    expected = rows * self.dims * _ROW_TYPE.itemsize
    found = self._bin.stat().st_size
    if found != expected:
      if kind := file_kinds.kind_of(self._bin):
        raise TruncatedFileError(f'{self._bin}: expected {expected:,} bytes of float32; it is {kind}')
      reason = 'it was cut short, copy it again' if found < expected else 'one of the two is not its own'
      raise TruncatedFileError(
        f'{self._bin}: has {found:,} bytes, but shape.txt says {rows} rows of {self.dims} float32, '
        f'{expected:,} bytes; {reason}'
      )

  def __contains__(self, video: str) -> bool:
    return video in self._rows

  def read(self, video: str) -> np.ndarray:
    """Returns the frames of a video, `[n, D]` float32.

    Raises:
      PackError: the video has no rows, or they are not finite.
    """
    wanted = self._rows[video]
    where = f'{self._bin}: video {video!r}'
    frames = np.empty((len(wanted), self.dims), _ROW_TYPE)
    # Rows of a video almost always follow one another: one read for each unbroken run of them.
    borders = np.flatnonzero(np.diff(wanted) != 1) + 1
    for start, end in zip([0, *borders], [*borders, len(wanted)], strict=True):
      if start < end:
        self._read_run(int(wanted[start]), frames[start:end], where)
    return as_rows(frames, where, self.dims)

  def _read_run(self, first_row: int, out: np.ndarray, where: str) -> None:
    self._file.seek(first_row * self.dims * _ROW_TYPE.itemsize)
    buffer = memoryview(out).cast('B')
    while buffer:
      count = self._file.readinto(buffer)
      if not count:
        raise TruncatedFileError(f'{where}: the file ended while its rows were read')
      buffer = buffer[count:]

  def close(self) -> None:
    """Closes feature.bin."""
    self._file.close()


def _read_shape(path: pathlib.Path) -> tuple[int, int]:
  text = path.read_text(encoding='latin-1')
  try:
    rows, dims = (int(word) for word in text.split())
  except ValueError as error:
    raise MalformedFileError(f'{path}: found {text[:60]!r}; expected two integers, "rows dims"') from error
  if rows < 1 or dims < 1:
    raise MalformedFileError(f'{path}: found {rows} rows of {dims}; expected 1 or more of each')
  return rows, dims


def _rows_of_videos(folder: pathlib.Path, rows: int) -> dict[str, np.ndarray]:
  """Returns the row numbers of each video, `[n]` int64."""
  row_of = _read_ids(folder / 'id.txt', rows)
  path = folder / 'video2frames.txt'
  videos = {}
  for video, names in iterate_videos(path):
    readable = readable_name(video)
    try:
      videos[readable] = np.fromiter((row_of[name] for name in names), np.int64, len(names))
    except KeyError as error:
      raise MissingRowError(
        f'{path}: video {readable!r} names row {error.args[0]!r}, which {folder / "id.txt"} does not hold'
      ) from None
  return videos


def _read_ids(path: pathlib.Path, rows: int) -> dict[str, int]:
  # Split as bytes: as text, ISO-8859-1 has white space above ASCII, which would cut UTF-8 names in two.
  names = path.read_bytes().split()
  if len(names) != rows:
    raise ShapeFileError(f'{path}: holds {len(names)} row names, but shape.txt says {rows} rows; they must agree')
  row_of = {name.decode('latin-1'): row for row, name in enumerate(names)}
  if len(row_of) != rows:
    seen = set()
    twice = next(name for name in names if name in seen or seen.add(name))
    raise DuplicateIdError(f'{path}: row name {twice.decode("latin-1")!r} occurs twice; row names must be unique')
  return row_of
