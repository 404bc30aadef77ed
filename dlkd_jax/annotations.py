"""Annotated moments: one rule for what people wrote, wherever it is read.

A moment is a start and an end in seconds. Both may be unknown. What is no number, or only one of the two, is an error
of the file. A moment that cannot be in its video counts as unknown: it starts below 0, at its end or behind it, or
where the video has ended. An end behind the end of the video is cut to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlkd_jax.errors import UserError

_SLIGHT = 0.01  # Seconds by which a rounded annotation may pass the end.


def read_moment(start: Any, end: Any, where: str) -> tuple[float, float]:
  """Returns start and end as numbers, NaN where both are unknown (null, NaN or absent); whether they can be is open.

  Raises:
    UserError: one of them is no number, as a text or true, or only one of them is known; it begins with `where`.
  """
  moment = read_seconds(start, f"{where}: 'start'"), read_seconds(end, f"{where}: 'end'")
  if math.isnan(moment[0]) != math.isnan(moment[1]):
    raise UserError(f'{where}: start is {start!r} and end {end!r}; give both, or none')
  return moment


def read_seconds(value: Any, where: str) -> float:
  """Returns a number of seconds, NaN where it is None; UserError, beginning with `where`, where it is no number."""
  if value is None:
    return math.nan
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise UserError(f'{where} is {value!r:.60}; expected seconds, as 12.5')
  try:
    return float(value)
  except OverflowError:  # A whole number of hundreds of digits.
    return math.inf if value > 0 else -math.inf


def read_duration(value: Any, where: str) -> float:
  """Returns the duration of a video in seconds, NaN where it is unknown or cannot be; errors of `read_seconds`."""
  seconds = read_seconds(value, where)
  return seconds if 0 < seconds < np.finfo(np.float32).max else math.nan


def possible(moments: np.ndarray, durations: np.ndarray | float) -> np.ndarray:
  """Applies the rule.

  Args:
    moments: `[k, 2]` seconds, NaN where unknown.
    durations: of the video, or `[k]` of the video of each, seconds; NaN where unknown.

  Returns:
    `[k, 2]` float32, as records hold them: as given, cut, or NaN.
  """
  with np.errstate(over='ignore'):
    moments = np.array(moments, np.float64).reshape(-1, 2).astype(np.float32)
    limit = np.where(np.isnan(durations), np.inf, durations).astype(np.float32)
  start, end = moments[:, 0], np.minimum(moments[:, 1], limit)
  fits = (start >= 0) & (start < end) & np.isfinite(end)
  return np.where(fits[:, None], np.stack([start, end], axis=1), np.float32(np.nan))


class Tally:
  """How many moments of a data set cannot be as they were written, and the first of them."""

  def __init__(self):
    """Starts at zero."""
    self.cut = self.dropped = 0
    self._first = ''

  def take(self, moments: np.ndarray, duration: float, names: list[str]) -> np.ndarray:
    """Returns the `possible` moments `[k, 2]` of one video, and counts what became of them; a cut below a hundredth of
    a second is none.

    Args:
      moments: `[k, 2]` seconds.
      duration: of the video; NaN where unknown.
      names: k names, for the message.
    """
    taken = possible(moments, duration)
    for name, before, after in zip(names, np.asarray(moments, np.float64).reshape(-1, 2), taken, strict=True):
      if np.allclose(before, after, rtol=1e-6, atol=_SLIGHT, equal_nan=True):
        continue
      unknown = bool(np.isnan(after[0]))
      self.dropped += unknown
      self.cut += not unknown
      if not self._first:
        length = 'of unknown duration' if math.isnan(duration) else f'of {duration:g} s'
        self._first = f'{name!r} from {before[0]:g} to {before[1]:g} s in a video {length}'
    return taken

  def __str__(self) -> str:
    """Returns one sentence; nothing where all moments can be."""
    if not self.cut + self.dropped:
      return ''
    return (
      f'{self.cut + self.dropped:,} annotated moments cannot be in their videos: {self.cut:,} end behind the video and '
      f'were cut to it, {self.dropped:,} count as unknown; the first is {self._first}'
    )


def even_times(frames: int, duration: float) -> np.ndarray:
  """Returns times for frames that have none, `[n]` seconds: each in the middle of its share of the duration."""
  return (np.arange(frames) + 0.5) * duration / frames
