"""Checks that every feature array passes, whatever file it came from."""

from __future__ import annotations

import numpy as np

from tfds_builders.errors import EmptyError, NotFiniteError, RangeError, WrongSizeError


def as_rows(array: np.ndarray, where: str, dims: int | None) -> np.ndarray:
  """Returns a feature array as `[n, D]`.

  Args:
    array: `[n, D]` or `[1, n, D]`.
    where: file and id, for messages.
    dims: D of the other arrays of the file; None for the first.

  Raises:
    WrongSizeError: another number of axes, or another D.
    EmptyError: no rows.
    NotFiniteError: NaN or an infinity.
  """
  shape = array.shape
  if array.ndim == 3 and shape[0] == 1:
    array = array[0]
  if array.ndim != 2 or array.dtype.kind not in 'fiu':
    raise WrongSizeError(
      f'{where}: found {array.dtype} of shape {list(shape)}; expected numbers of shape [n, D] or [1, n, D]'
    )
  if dims is not None and array.shape[1] != dims:
    raise WrongSizeError(
      f'{where}: has {array.shape[1]} features a row, the others of this file have {dims}; '
      'extract it again with the same model'
    )
  if not array.size:
    raise EmptyError(f'{where}: holds no values (shape {list(shape)}); expected 1 row or more')
  if not np.isfinite(array).all():
    row = int(np.argmin(np.isfinite(array).all(axis=1)))
    bad = array[row][~np.isfinite(array[row])][0]
    raise NotFiniteError(f'{where}: row {row} (from 0) holds {bad}; features must be finite, extract it again')
  return array


def to_storage(array: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
  """Returns an array of finite values in the type it is stored in.

  Raises:
    RangeError: a value does not fit the type.
  """
  if array.dtype == dtype:
    return array
  limit = float(np.finfo(dtype).max)
  largest = float(np.abs(array).max()) if array.size else 0.0
  if largest > limit:
    hint = 'build with --dtype=float32' if dtype == np.float16 else 'scale the features down'
    raise RangeError(f'{where}: holds a value of magnitude {largest:g}, above {limit:g}, the largest {dtype}; {hint}')
  return array.astype(dtype)
