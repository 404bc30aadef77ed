"""Features kept in HDF5: one array per video id, or one per caption id in either spelling."""

from __future__ import annotations

import pathlib

import h5py
import numpy as np

from tfds_builders import arrays, errors
from tfds_builders.captions import Caption


class _Hdf5:
  """An open file and the ids it holds.

  Attributes:
    path: the file.
    dims: features a row, known after the first read.
  """

  def __init__(self, path: pathlib.Path):
    if not path.is_file():
      raise errors.MissingFileError(f'{path}: absent')
    self.path = path
    self.dims: int | None = None
    try:
      self._file = h5py.File(path, 'r')
      self._ids = set(self._file.keys())
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
      raise errors.MalformedFileError(
        f'{path}: cannot be read as HDF5 ({error}); it may have been cut short, copy it again'
      ) from error

  def _holds(self, name: str) -> bool:
    # h5py reads '/' in a name as a path, so such an id is not among the top-level names.
    return name in self._ids or ('/' in name.strip('/') and name in self._file)

  def _read_rows(self, name: str, where: str) -> np.ndarray:
    try:
      entry = self._file[name]
      array = entry[()] if isinstance(entry, h5py.Dataset) else None
    except (OSError, KeyError) as error:
      raise errors.MalformedFileError(f'{where}: cannot be read ({error}); copy the file again') from error
    if array is None:
      raise errors.MalformedFileError(f'{where}: is a group of arrays; expected one array')
    array = np.asarray(array)
    rows = arrays.as_rows(array[None] if array.ndim == 1 else array, where, self.dims)
    self.dims = rows.shape[1]
    return rows

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class Hdf5Frames(_Hdf5):
  """Frames of each video, `[n, D]` or `[1, n, D]` under the video's id."""

  def __contains__(self, video: str) -> bool:
    return self._holds(video)

  def read(self, video: str) -> np.ndarray:
    """Returns the frames of a video, `[n, D]`.

    Raises:
      PackError: wrong shape, no rows, or not finite.
    """
    return self._read_rows(video, f'{self.path}: video {video!r}')


class Hdf5Captions(_Hdf5):
  """Text features, an array under the caption's id as `<video>#enc#<k>` or `<video>#<k>`."""

  def __contains__(self, caption: Caption) -> bool:
    return any(self._holds(name) for name in caption.spellings())

  def read(self, caption: Caption) -> np.ndarray:
    """Returns the features of a caption, `[n, D]`: n tokens, or 1 row for a sentence vector.

    Raises:
      PackError: wrong shape, no rows, or not finite.
    """
    name = next(name for name in caption.spellings() if self._holds(name))
    return self._read_rows(name, f'{self.path}: caption {name!r}')
