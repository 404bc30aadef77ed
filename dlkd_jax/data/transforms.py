"""Arithmetic on the feature rows of one video or caption, in numpy alone.

Features are stored as they were extracted, mostly as float16, and become float32 here.
"""

from __future__ import annotations

import functools

import numpy as np

from dlkd_jax.errors import UserError

# Added to a row's norm before dividing by it, so that a row of zeros stays one.
NORM_EPSILON = np.float32(1e-5)

_HALF_TO_SINGLE_EXPONENT = np.float32(2.0**112)
# The sign and the 15 bits of a float16 where they lie in a float32 after the shift.
_HALF_BITS = np.int32(-0x80000000 + 0x0FFFE000)


def widen(rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
  """Converts features to float32.

  numpy converts float16 one number at a time; moving the bits of a whole array and multiplying by 2^112, which is
  the difference of the two exponent biases, is exact for every finite number and three times as fast. Infinities
  and NaN, which this would turn into ordinary numbers, are left to numpy.

  Args:
    rows: `[N, D]` features, of any float type.
    out: `[N, D]` float32 to write to; a new array by default.

  Returns:
    `[N, D]` float32: `out` where given.
  """
  if out is None:
    out = np.empty(rows.shape, np.float32)
  if rows.dtype != np.float16 or not out.flags.c_contiguous:
    np.copyto(out, rows, casting='same_kind')
    return out
  bits = out.view(np.int32)
  np.copyto(bits, rows.view(np.int16))
  np.left_shift(bits, 13, out=bits)
  np.bitwise_and(bits, _HALF_BITS, out=bits)
  np.multiply(out, _HALF_TO_SINGLE_EXPONENT, out=out)
  # 65536 and above are what infinities and NaN became; no finite float16 is as large.
  if out.size and np.max(np.vecdot(out, out)) >= 65536.0**2 and not np.isfinite(rows).all():
    np.copyto(out, rows)
  return out


@functools.lru_cache(maxsize=4096)
def slots(rows: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns where each of `count` equal slots of `rows` rows starts, and how many rows it averages.

  The borders are i/count·rows, rounded half to even and clamped to the last row. The clamp leaves the last row out
  of the last slot, unless that slot would be empty: an empty slot takes the row at its border.

  Returns:
    `[count]` first rows, and `[count]` numbers of rows, at least 1.
  """
  borders = np.round(np.arange(count + 1, dtype=np.float64) / count * rows).astype(np.int64)
  borders = np.minimum(borders, rows - 1)
  starts, sizes = borders[:-1], np.maximum(np.diff(borders), 1)
  for array in (starts, sizes):
    array.flags.writeable = False  # Shared by every caller through the cache.
  return starts, sizes


def resample_frames(rows: np.ndarray, count: int, out: np.ndarray | None = None) -> np.ndarray:
  """Brings a video to at most `count` rows by averaging the rows of equal slots of time.

  Args:
    rows: `[N, D]` features; not normalised, since the mean of unit rows is not the unit row of the mean.
    count: rows wanted; a video with no more is only converted to float32.
    out: `[min(N, count), D]` float32 to write to; a new array by default.

  Returns:
    `[min(N, count), D]` float32: `out` where given.
  """
  if len(rows) <= count:
    return widen(rows, out)
  starts, sizes = slots(len(rows), count)
  # One pass a row of the slots, over all slots at once: every row is converted and added once, in the order of time.
  out = widen(rows[starts], out)
  for row in range(1, int(sizes.max())):
    longer = np.flatnonzero(sizes > row)
    more = widen(rows[starts[longer] + row])
    if len(longer) == count:
      out += more
    else:
      out[longer] += more
  np.divide(out, sizes[:, None].astype(np.float32), out=out)
  return out


def middle_rows(rows: int, count: int) -> np.ndarray:
  """Returns which rows stand for a video that is brought to at most `count`: the middle one of each equal slot.

  What cannot be averaged, as pictures, is resampled by it; the slots are those of `resample_frames`.

  Args:
    rows: of the video.
    count: rows wanted.

  Returns:
    `[min(rows, count)]` rows, ascending; of two middle ones the first.
  """
  if rows <= count:
    return np.arange(rows)
  starts, sizes = slots(rows, count)
  return starts + (sizes - 1) // 2


def normalize_rows(rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
  """Divides each row by its L2 norm + 1e-5.

  Args:
    rows: `[N, D]` float32.
    out: `[N, D]` float32 to write to, `rows` itself allowed; a new array by default.

  Returns:
    `[N, D]` float32: `out` where given.

  Raises:
    NonFiniteError: a row holds NaN or an infinity, or numbers whose squares overflow.
  """
  squares = check_finite(rows)
  norms = np.sqrt(squares) + NORM_EPSILON
  return np.divide(rows, norms[:, None], out=out)


def check_finite(rows: np.ndarray) -> np.ndarray:
  """Returns the sum of squares of each row, after checking that it is finite: cheaper than looking at every number.

  Args:
    rows: `[N, D]` float32.

  Raises:
    NonFiniteError: a row holds NaN or an infinity, or numbers whose squares overflow.
  """
  with np.errstate(over='ignore', invalid='ignore'):
    squares = np.vecdot(rows, rows)
  if not np.isfinite(squares).all():
    raise NonFiniteError('rows hold NaN, an infinity or numbers of more than 1e18')
  return squares


class NonFiniteError(UserError):
  """Feature rows hold NaN or an infinity, or numbers whose squares overflow."""
