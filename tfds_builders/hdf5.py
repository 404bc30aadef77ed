"""Features kept in HDF5: one array per video id, or one per caption id in either spelling."""

from __future__ import annotations

import importlib.util
import pathlib

import h5py
import numpy as np

from dlkd_jax import file_kinds
from tfds_builders.arrays import as_rows
from tfds_builders.captions import Caption
from tfds_builders.errors import MalformedFileError, MissingFileError

# Of the registry of the HDF Group.
_FILTERS = {
  307: 'bzip2',
  32000: 'LZF',
  32001: 'Blosc',
  32004: 'LZ4',
  32008: 'bitshuffle',
  32013: 'ZFP',
  32015: 'Zstandard',
  32017: 'SZ',
  32026: 'Blosc2',
}


class _Hdf5:
  """An open file and the ids it holds.

  Attributes:
    path: the file.
    dims: features a row, known after the first read.
  """

  def __init__(self, path: pathlib.Path):
    if not path.is_file():
      raise MissingFileError(f'{path}: absent')
    self.path = path
    self.dims: int | None = None
    try:
      self._file = h5py.File(path, 'r')
      self._ids = set(self._file.keys())
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
      if kind := file_kinds.kind_of(path, 'HDF5'):
        raise MalformedFileError(f'{path}: expected an HDF5 file; it is {kind}') from error
      raise MalformedFileError(
        f'{path}: cannot be read as HDF5 ({error}); it may have been cut short, copy it again'
      ) from error

  def _holds(self, name: str) -> bool:
    # h5py reads '/' in a name as a path, so such an id is not among the top-level names.
    return name in self._ids or ('/' in name.strip('/') and name in self._file)

  def _read_rows(self, name: str, where: str) -> np.ndarray:
    try:
      array = self._read(name)
    except (OSError, KeyError, RuntimeError) as error:
      if lacking := self._lacking_filter(name):
        raise MalformedFileError(
          f'{where}: is compressed with {lacking}, which HDF5 lacks here; `pip install hdf5plugin` adds it, or write '
          'the file again without it, as `h5repack -f GZIP=4` does'
        ) from error
      raise MalformedFileError(f'{where}: cannot be read ({error}); copy the file again') from error
    if array is None:
      raise MalformedFileError(f'{where}: is a group of arrays; expected one array')
    array = np.asarray(array)
    rows = as_rows(array[None] if array.ndim == 1 else array, where, self.dims)
    self.dims = rows.shape[1]
    return rows

  def _read(self, name: str) -> np.ndarray | None:
    """Returns an array; None for a group of them."""
    entry = self._file[name]
    if not isinstance(entry, h5py.Dataset):
      return None
    try:
      return entry[()]
    except OSError:
      if not importlib.util.find_spec('hdf5plugin'):
        raise
      importlib.import_module('hdf5plugin')  # Adds the filters that it has.
      return entry[()]

  def _lacking_filter(self, name: str) -> str | None:
    """Returns a filter that an array was compressed with and that cannot be undone here; None: there is none."""
    try:
      properties = self._file[name].id.get_create_plist()
      filters = [properties.get_filter(index) for index in range(properties.get_nfilters())]
    except (OSError, KeyError, RuntimeError, AttributeError):
      return None
    for number, _, _, own in filters:
      if not h5py.h5z.filter_avail(number):
        called = _FILTERS.get(number) or own.decode('utf-8', 'replace').strip()
        return f'{called} (HDF5 filter {number})' if called else f'HDF5 filter {number}'
    return None

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
