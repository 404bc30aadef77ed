"""Whether a scorer points at the right second: its best frame, and the moment around it, against the annotation.

Only captions with an annotated moment count. Their frame curves are of their own video, so that this asks when, not
which; the captions whose video is ranked first are told apart, for they are what a person sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dlkd_jax.gallery.moments import find_moments

IOU_LEVELS = (0.3, 0.5, 0.7)
COLUMNS = ('best frame in the moment', *(f'IoU ≥ {level}' for level in IOU_LEVELS))


@dataclasses.dataclass(frozen=True)
class Judged:
  """What the curves of Q captions over their own videos point at.

  Attributes:
    inside: `[Q]` bool, whether the best frame lies in the annotated moment.
    iou: `[Q]` intersection over union of the moment found and the annotated one.
  """

  inside: np.ndarray
  iou: np.ndarray

  def percent(self) -> np.ndarray:
    """Returns what each caption adds to the columns (`COLUMNS`): `[Q, 4]` of 0 or 100."""
    return 100.0 * np.stack([self.inside, *(self.iou >= level for level in IOU_LEVELS)], axis=1)


def interval_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Returns intersection over union of intervals `[..., 2]`, start and end: `[...]` in 0..1, 0 where both are empty."""
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  shared = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
  shared = np.maximum(shared, 0.0)
  union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - shared
  return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def judge(
  curves: Sequence[np.ndarray], times: Sequence[np.ndarray], durations: np.ndarray, moments: np.ndarray
) -> Judged:
  """Judges the frame curves of captions over their own videos.

  Args:
    curves: for each of Q captions `[n]` how well each frame fits.
    times: for each caption `[n]` seconds of these frames.
    durations: `[Q]` seconds, NaN where unknown.
    moments: `[Q, 2]` annotated start and end in seconds; no NaN.

  Returns:
    For each caption whether its best frame, the first of equals, lies in the moment, ends included, and the IoU of the
    moment that `find_moments` finds around that frame.
  """
  inside, iou = np.zeros(len(curves), bool), np.zeros(len(curves))
  for row, (curve, seconds, duration, moment) in enumerate(zip(curves, times, durations, moments, strict=True)):
    peak = seconds[int(np.argmax(curve))]
    inside[row] = moment[0] <= peak <= moment[1]
    (found,) = find_moments(seconds, curve, None if np.isnan(duration) else float(duration))
    iou[row] = interval_iou(np.array([found.start, found.end]), moment)
  return Judged(inside, iou)


def without_looking(times: Sequence[np.ndarray], durations: np.ndarray, moments: np.ndarray) -> np.ndarray:
  """Returns what comes without any model: a frame drawn at random, and the whole video for a moment.

  Args:
    times: for each of Q captions `[n]` seconds of its video's frames.
    durations: `[Q]` seconds; where unknown the last frame's time is taken.
    moments: `[Q, 2]` annotated start and end in seconds.

  Returns:
    `[Q, 4]` percent, columns as `COLUMNS`: the expected share of frames in the moment, and 0 or 100 for the IoU.
  """
  share = np.array([np.mean((t >= a) & (t <= b)) for t, (a, b) in zip(times, moments, strict=True)])
  ends = np.where(np.isnan(durations), [t[-1] for t in times], durations)
  iou = interval_iou(np.stack([np.zeros(len(moments)), ends], axis=1), moments)
  return 100.0 * np.stack([share, *(iou >= level for level in IOU_LEVELS)], axis=1)
