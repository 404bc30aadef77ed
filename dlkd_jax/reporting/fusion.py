"""Weights of the fused score: which of a grid gives the best SumR. NumPy only.

    score = (1 - t) · (a · inheritance + (1 - a) · exploration) + t · teacher

with a, the share of inheritance, and t, the teacher's weight, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlkd_jax.models.student import EXPLORATION, INHERITANCE
from dlkd_jax.retrieval.metrics import TEACHER, RetrievalMetrics, metrics_from_ranks, rank_fused

_FINE = 0.05  # Step of a without the teacher.
_COARSE = 0.1  # Step of a and t with it.


class Point(NamedTuple):
  """One choice of weights, and what it gives.

  Attributes:
    inheritance: a, share of inheritance among the student's branches; 1 where there is no other.
    teacher: t, weight of the teacher.
    metrics: of the captions that were ranked.
  """

  inheritance: float
  teacher: float
  metrics: RetrievalMetrics

  @property
  def weights(self) -> dict[str, float]:
    """Scorer → weight; scorers of weight 0 are left out."""
    return blend(self.inheritance, self.teacher)


def blend(inheritance: float, teacher: float) -> dict[str, float]:
  """Returns scorer → weight for a share of inheritance and a weight of the teacher, without those of weight 0."""
  student = 1.0 - teacher
  weights = {INHERITANCE: student * inheritance, EXPLORATION: student * (1.0 - inheritance), TEACHER: teacher}
  return {name: weight for name, weight in weights.items() if weight > 0.0}


def sweep(scores: Mapping[str, np.ndarray], own_columns: np.ndarray) -> list[Point]:
  """Ranks by every choice of weights of the grid.

  Args:
    scores: scorer → `[Q, V]`.
    own_columns: `[Q]` column of each caption's own video.

  Returns:
    Without the teacher a in steps of 0.05, then with it a and t in steps of 0.1; only a = 1 where there is no
    exploration branch, and no t where there is no teacher.
  """
  fine, coarse = _steps(_FINE) if EXPLORATION in scores else [1.0], _steps(_COARSE)
  grid = [(a, 0.0) for a in fine]
  if TEACHER in scores:
    # The teacher alone is one point, whatever a.
    grid += [(a, t) for t in coarse[1:-1] for a in (coarse if EXPLORATION in scores else [1.0])] + [(fine[-1], 1.0)]
  return [Point(a, t, metrics_of(scores, blend(a, t), own_columns)) for a, t in grid]


def metrics_of(scores: Mapping[str, np.ndarray], weights: Mapping[str, float], own: np.ndarray) -> RetrievalMetrics:
  """Returns the metrics of the weighted sum of scores."""
  return metrics_from_ranks(ranks_of(scores, weights, own))


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
