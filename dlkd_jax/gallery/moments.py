"""From a frame curve to moments: the frames around its peak that fit almost as well.

A frame stands for the time from halfway to the frame before it to halfway to the next one. One frame that fits badly
does not end a moment: its borders are those of the smoothed curve s,

  s[i] = (c[i - 1] + 2 c[i] + c[i + 1]) / 4,   the curve c being continued by its first and last value.

With the median m of s and a peak of c at frame p, the moment is the longest run of frames around p with

  s[i] >= m + level · (s[p] - m).

A box of two frames or more is found as it stands with levels from 1/3 to 3/4. The default was chosen on captions with
known moments (Charades-STA features, validation split).
"""

from __future__ import annotations

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.results import Moment

LEVEL = 0.35


def frame_edges(times: np.ndarray, duration: float | None = None) -> np.ndarray:
  """Returns where the time that a frame stands for begins and ends.

  Args:
    times: `[n]` seconds, rising; n at least 1.
    duration: of the video, seconds; None where unknown. Edges lie within [0, duration], and in [0, the last frame's
      time] at the least.

  Returns:
    `[n + 1]` seconds; frame i stands for the time from edge i to edge i + 1.
  """
  times = np.asarray(times, np.float64)
  last = np.inf if duration is None else max(float(duration), times[-1])
  if len(times) == 1:
    return np.array([0.0, last]) if duration is not None else np.array([times[0], times[0]])
  inner = (times[1:] + times[:-1]) / 2
  first = times[0] - (times[1] - times[0]) / 2
  end = times[-1] + (times[-1] - times[-2]) / 2
  return np.concatenate([[max(0.0, first)], inner, [min(last, end)]])


def find_moments(
  times: np.ndarray, curve: np.ndarray, duration: float | None = None, count: int = 1, level: float = LEVEL
) -> tuple[Moment, ...]:
  """Finds the moments of a video that fit a query best.

  The first holds the curve's peak. Each further one holds the highest local maximum outside those before it, and ends
  where one of them begins; there are fewer than asked for where no such maximum rises above the curve's median.

  Args:
    times: `[n]` seconds at which the frames are shown, rising; n at least 1.
    curve: `[n]` how well each frame fits.
    duration: of the video, seconds; None where unknown.
    count: most moments to return, at least 1.
    level: share of the smoothed peak's height above the median that the moment's frames reach, in [0, 1]; small values
      give long moments.

  Returns:
    Moments, best first, disjoint.

  Raises:
    ValueError: shapes disagree, times fall, values are not finite, or count or level are out of range.
  """
  times, curve = np.asarray(times, np.float64), np.asarray(curve, np.float64)
  _check(times, curve, count, level)
  edges = frame_edges(times, duration)
  smooth = smoothed(curve)
  floor, middle = float(np.median(curve)), float(np.median(smooth))
  beside = np.concatenate([[-np.inf], curve, [-np.inf]])
  maximum = (curve >= beside[:-2]) & (curve >= beside[2:])
  free = np.ones(len(curve), bool)
  moments = []
  while len(moments) < count:
    candidates = np.flatnonzero(free & maximum & ((curve > floor) | (not moments)))
    if not len(candidates):
      break
    peak = int(candidates[np.argmax(curve[candidates])])
    fits = free & (smooth >= middle + level * (smooth[peak] - middle))
    fits[peak] = True  # Also where the smoothed curve does not rise there.
    start = peak - int(np.argmin(np.append(fits[peak::-1], False))) + 1
    end = peak + int(np.argmin(np.append(fits[peak:], False)))
    free[start:end] = False
    moments.append(Moment(float(edges[start]), float(edges[end]), float(times[peak]), float(curve[peak])))
  return tuple(moments)


def smoothed(curve: np.ndarray) -> np.ndarray:
  """Returns the curve `[n]` with half of each frame's value taken from its two neighbours."""
  wide = np.pad(curve, 1, mode='edge')
  return (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4


def _check(times: np.ndarray, curve: np.ndarray, count: int, level: float) -> None:
  if times.ndim != 1 or times.shape != curve.shape or not len(times):
    raise UserError(f'times {times.shape} and curve {curve.shape}: expected one value a frame in both, and a frame')
  if not (np.isfinite(times).all() and np.isfinite(curve).all()):
    raise UserError('times or curve hold values that are not finite')
  if (np.diff(times) < 0).any():
    raise UserError('times fall; expected the frames in the order in which they are shown')
  if count < 1 or not 0 <= level <= 1:
    raise UserError(f'count {count} and level {level}: expected count of at least 1 and level from 0 to 1')
