"""Arithmetic on the feature rows of one video or caption, in numpy alone.

Features are stored as they were extracted, mostly as float16, and travel to the device like that, where they are
widened and normalised. What is averaged on the way is averaged in float32.
"""

from __future__ import annotations

import functools

import numpy as np

from dlkd_jax.errors import UserError

# Added to a row's norm before dividing by it, so that a row of zeros stays one.
NORM_EPSILON = np.float32(1e-5)


def places_within(lengths: np.ndarray) -> np.ndarray:
  """Returns of the elements of sequences that follow each other, `[n]` lengths, the place of each in its sequence."""
  return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def widen(rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
  """Converts features `[N, D]` of any float type to float32, in a new array or in `out`."""
  if out is None:
    return rows.astype(np.float32)
  np.copyto(out, rows, casting='same_kind')
  return out


@functools.lru_cache(maxsize=4096)
def time_intervals(rows: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns `[count]` first rows of so many equal intervals of `rows` rows, and how many rows each averages, 1 or more.

  The borders are i/count·rows, rounded half to even and clamped to the last row. The clamp leaves the last row out
  of the last interval, unless that one would be empty: an empty one takes the row at its border.
  """
  borders = np.round(np.arange(count + 1, dtype=np.float64) / count * rows).astype(np.int64)
  borders = np.minimum(borders, rows - 1)
  starts, sizes = borders[:-1], np.maximum(np.diff(borders), 1)
  for array in (starts, sizes):
    array.flags.writeable = False  # Shared by every caller through the cache.
  return starts, sizes


def resample_frames(rows: np.ndarray, count: int, out: np.ndarray | None = None) -> np.ndarray:
  """Brings a video to at most `count` rows by averaging the rows of equal intervals of time.

  Args:
    rows: `[N, D]` features; not normalised, since the mean of unit rows is not the unit row of the mean.
    count: rows wanted.
    out: `[min(N, count), D]` to write to and return, float32 where rows are averaged; by default a new float32 array.
  """
  if len(rows) <= count:
    return widen(rows, out)
  starts, sizes = time_intervals(len(rows), count)
  # One pass a row of the intervals, over all of them at once: every row is added once, in the order of time.
  out = widen(rows[starts], out)
  for row in range(1, int(sizes.max())):
    longer = np.flatnonzero(sizes > row)
    more = widen(rows[starts[longer] + row])
    if len(longer) == count:  # Much faster.
      out += more
    else:
      out[longer] += more
  np.divide(out, sizes[:, None].astype(np.float32), out=out)
  return out


def at_most(rows: np.ndarray, count: int) -> np.ndarray:
  """Returns a video's rows `[N, D]` themselves, or where there are more than `count` their means, float32."""
  return rows if len(rows) <= count else resample_frames(rows, count)


def at_common_length(student: np.ndarray, teacher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Brings the longer of two sequences of frames of one video to the length of the other, by averaging."""
  if len(student) > len(teacher):
    student = resample_frames(student, len(teacher))
  elif len(teacher) > len(student):
    teacher = resample_frames(teacher, len(student))
  return student, teacher


def middle_rows(rows: int, count: int) -> np.ndarray:
  """Returns which rows, ascending, stand for a video that is brought to at most `count`: the middle of each interval.

  What cannot be averaged, as pictures, is resampled by it; the intervals are those of `resample_frames`. Of two middle
  rows it is the first.
  """
  if rows <= count:
    return np.arange(rows)
  starts, sizes = time_intervals(rows, count)
  return starts + (sizes - 1) // 2


def normalize_rows(rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
  """Divides each row of `[N, D]` float32 by its L2 norm + 1e-5, into `out` where given; raises as `check_finite`."""
  check_finite(rows)
  norms = np.sqrt(np.vecdot(rows, rows)) + NORM_EPSILON
  return np.divide(rows, norms[:, None], out=out)


def check_finite(rows: np.ndarray) -> None:
  """Checks that `[N, D]` rows can be normalised, more cheaply than by looking at every number as a number.

  Raises:
    NonFiniteError: a row holds NaN or an infinity, or numbers whose squares overflow.
  """
  if rows.dtype == np.float16:
    # The bits of infinities and NaN are the largest of their sign: 0x7C00 and 0xFC00 on.
    fine = not rows.size or (rows.view(np.int16).max() < 0x7C00 and rows.view(np.uint16).max() < 0xFC00)
  else:
    with np.errstate(over='ignore', invalid='ignore'):
      fine = np.isfinite(np.vecdot(rows, rows)).all()
  if not fine:
    raise NonFiniteError('rows hold NaN, an infinity or numbers of more than 1e18')


class NonFiniteError(UserError):
  """Feature rows hold NaN or an infinity, or numbers whose squares overflow."""
