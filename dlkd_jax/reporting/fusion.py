"""Weights of the fused score: which of a grid gives the best SumR. NumPy only.

    score = (1 - t) · (a · first branch + (1 - a) · other branches) + t · teacher

with a and t, the teacher's weight, from 0 to 1. Of several other branches each has its part of their configured weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlkd_jax.retrieval.metrics import TEACHER, RetrievalMetrics, metrics_from_ranks, rank_fused

_FINE = 0.05  # Step of a without the teacher.
_COARSE = 0.1  # Step of a and t with it.


class Point(NamedTuple):
  """One choice of weights, and what it gives.

  Attributes:
    share: a, of the first branch among the student's; 1 where there is no other.
    teacher: t, weight of the teacher.
    weights: scorer → weight; scorers of weight 0 are left out.
    metrics: of the captions that were ranked.
  """

  share: float
  teacher: float
  weights: dict[str, float]
  metrics: RetrievalMetrics


def blend(configured: Mapping[str, float], share: float, teacher: float) -> dict[str, float]:
  """Returns scorer → weight for a share of the first branch and a weight of the teacher, without those of weight 0.

  Args:
    configured: branch → its configured weight.
    share: a.
    teacher: t.
  """
  (first, _), *others = configured.items()
  student, rest = 1.0 - teacher, sum(weight for _, weight in others)
  weights = {first: student * share}
  for name, weight in others:
    weights[name] = student * (1.0 - share) * (weight / rest if rest else 1.0 / len(others))
  return {name: weight for name, weight in (weights | {TEACHER: teacher}).items() if weight > 0.0}


def sweep(scores: Mapping[str, np.ndarray], own_columns: np.ndarray, configured: Mapping[str, float]) -> list[Point]:
  """Ranks by every choice of weights of the grid.

  Args:
    scores: scorer → `[Q, V]`.
    own_columns: `[Q]` column of each caption's own video.
    configured: branch → its configured weight.

  Returns:
    Without the teacher a in steps of 0.05, then with it a and t in steps of 0.1; only a = 1 where there is one branch,
    and no t where there is no teacher.
  """
  several = len(configured) > 1
  fine, coarse = _steps(_FINE) if several else [1.0], _steps(_COARSE)
  grid = [(a, 0.0) for a in fine]
  if TEACHER in scores:
    # The teacher alone is one point, whatever a.
    grid += [(a, t) for t in coarse[1:-1] for a in (coarse if several else [1.0])] + [(fine[-1], 1.0)]
  return [point(scores, own_columns, configured, a, t) for a, t in grid]


def point(
  scores: Mapping[str, np.ndarray], own: np.ndarray, configured: Mapping[str, float], share: float, teacher: float
) -> Point:
  """Ranks by one choice of weights; see `sweep`."""
  weights = blend(configured, share, teacher)
  return Point(share, teacher, weights, metrics_from_ranks(ranks_of(scores, weights, own)))


def ranks_of(scores: Mapping[str, np.ndarray], weights: Mapping[str, float], own: np.ndarray) -> np.ndarray:
  """Returns the ranks `[Q]` of the own videos by the weighted sum of scores."""
  return rank_fused(scores, weights, own)


def best(points: Sequence[Point], teacher: bool) -> Point:
  """Returns the point of the best SumR, with or without those that use the teacher; the first of equals."""
  allowed = [point for point in points if teacher or point.teacher == 0.0]
  return max(allowed, key=lambda point: point.metrics.sum_r)


def _steps(step: float) -> list[float]:
  count = round(1.0 / step)
  return [round(index / count, 6) for index in range(count + 1)]
