"""From a frame curve to moments: the frames around its peak that fit almost as well.

A frame stands for the time from halfway to the frame before it to halfway to the next one. One frame that fits badly
does not end a moment: its borders are those of the smoothed curve s,

  s[i] = (c[i - 1] + 2 c[i] + c[i + 1]) / 4,   the curve c being continued by its first and last value.

With the median m of s and a peak of c at frame p, the moment is the longest run of frames around p with

  s[i] >= m + level · (s[p] - m).

Runs around other peaks count as further moments where those rise at least half as high above the median of the curve,
its background, as the best one. Runs that touch are one moment.

A box of two frames or more is found as it stands with levels from 1/3 to 3/4. The default was chosen on captions with
known moments (Charades-STA features, validation split).
"""

from __future__ import annotations

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.results import Moment

LEVEL = 0.35
# Share of the best peak's height above the background that further ones reach.
_FURTHER = 0.5


def frame_edges(times: np.ndarray, duration: float | None = None) -> np.ndarray:
  """Returns where the time that a frame stands for begins and ends.

  Args:
    times: `[n]` seconds, rising; n at least 1.
    duration: of the video, seconds; None where unknown.

  Returns:
    `[n + 1]` seconds; frame i stands for the time from edge i to edge i + 1. The last edge is the duration where
    that is known, and half a step behind the last frame where not.
  """
  times = np.asarray(times, np.float64)
  if len(times) == 1:
    return np.array([0.0, max(float(duration), times[0])]) if duration is not None else np.array([times[0], times[0]])
  inner = (times[1:] + times[:-1]) / 2
  first = max(0.0, times[0] - (times[1] - times[0]) / 2)
  last = times[-1] + (times[-1] - times[-2]) / 2 if duration is None else max(float(duration), times[-1])
  return np.concatenate([[first], inner, [last]])


def find_moments(
  times: np.ndarray, curve: np.ndarray, duration: float | None = None, count: int = 1, level: float = LEVEL
) -> tuple[Moment, ...]:
  """Finds the moments of a video that fit a query best.

  The first holds the curve's peak; of the further ones, which the module describes, none is a single frame. The first
  ones stay what they are where more are asked for.

  Args:
    times: `[n]` seconds at which the frames are shown, rising; n at least 1.
    curve: `[n]` how well each frame fits.
    duration: of the video, seconds; None where unknown.
    count: most moments to return, at least 1.
    level: share of the smoothed peak's height above the median that the moment's frames reach, in [0, 1]; small values
      give long moments.

  Returns:
    Moments, best first; between two of them there is a frame that is in none.

  Raises:
    ValueError: shapes disagree, times fall, values are not finite, or count or level are out of range.
  """
  times, curve = np.asarray(times, np.float64), np.asarray(curve, np.float64)
  _check(times, curve, count, level)
  edges = frame_edges(times, duration)
  best = int(np.argmax(curve))
  kept = [run for run in _runs(curve, level) if run[2] == best or run[1] - run[0] > 1]
  return tuple(
    Moment(float(edges[start]), float(edges[end]), float(times[peak]), float(curve[peak]))
    for start, end, peak in kept[:count]
  )


def _runs(curve: np.ndarray, level: float) -> list[tuple[int, int, int]]:
  """Returns runs of frames around peaks, none touching: first frame, the one behind the last, peak; best first."""
  smooth = smoothed(curve)
  floor, middle = float(np.median(curve)), float(np.median(smooth))
  beside = np.concatenate([[-np.inf], curve, [-np.inf]])
  is_peak = (curve >= beside[:-2]) & (curve >= beside[2:])
  is_peak &= (curve > floor) & (curve - floor >= _FURTHER * (curve.max() - floor))
  is_peak[np.argmax(curve)] = True  # Also of a flat curve.
  peaks = np.flatnonzero(is_peak)
  values = smooth.tolist()
  of_frame = [-1] * len(values)  # The run that a frame is in.
  runs: list[tuple[int, int, int]] = []
  for peak in peaks[np.argsort(-curve[peaks], kind='stable')].tolist():
    if of_frame[peak] >= 0:
      continue
    least = middle + level * (values[peak] - middle)
    start, end = peak, peak + 1
    while start and of_frame[start - 1] < 0 and values[start - 1] >= least:
      start -= 1
    while end < len(values) and of_frame[end] < 0 and values[end] >= least:
      end += 1
    # Of runs that touch, the one of the best peak takes the others in.
    touched = sorted({of_frame[frame] for frame in (start - 1, end) if 0 <= frame < len(values)} - {-1})
    runs.append((start, end, peak))
    first = touched[0] if touched else len(runs) - 1
    for worse in touched[1:]:
      start, end = min(start, runs[worse][0]), max(end, runs[worse][1])
      runs[worse] = (0, 0, -1)
    if touched:
      runs[-1] = (0, 0, -1)
      runs[first] = min(start, runs[first][0]), max(end, runs[first][1]), runs[first][2]
    of_frame[runs[first][0] : runs[first][1]] = [first] * (runs[first][1] - runs[first][0])
  return [run for run in runs if run[2] >= 0]


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
