"""Paired comparisons of scorers or runs on the same captions: a permutation test clustered by video. NumPy only.

For a metric that is a mean over captions, each caption gives the difference of the two sides. If the sides were alike,
either could have come first; the test exchanges them for all captions of a video at once, which keeps captions of a
video together, and asks how often the mean difference becomes at least as large, either way, as the one found:

    p = (1 + #{permutations with |d*| >= |d|}) / (1 + permutations).

Of several comparisons the p values are corrected by Holm's step-down procedure, which bounds the chance of any false
finding among them whatever their dependence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dlkd_jax.reporting import bootstrap

PERMUTATIONS = 10_000
METRICS = ('SumR', 'R@1', 'R@10', 'mAP')
_CHUNK_NUMBERS = 4_000_000


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What a paired comparison found.

  Attributes:
    first, second: names of the sides.
    metric: a mean over captions.
    difference: of the first side minus the second.
    interval: 95% of the difference, over videos drawn with all their captions.
    p: two-sided, of the permutation test.
    corrected: p by Holm, over all comparisons made together.
  """

  first: str
  second: str
  metric: str
  difference: float
  interval: bootstrap.Interval
  p: float
  corrected: float


def holm(p: Sequence[float]) -> np.ndarray:
  """Corrects p values `[m]` by Holm: sorted, the i-th (from 0) times m - i, never falling, at most 1."""
  p = np.asarray(p, np.float64)
  order = np.argsort(p, kind='stable')
  raised = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
  corrected = np.empty(len(p))
  corrected[order] = np.minimum(raised, 1.0)
  return corrected


def permutation_p(
  differences: np.ndarray, clusters: np.ndarray | None = None, permutations: int = PERMUTATIONS, seed: int = 0
) -> np.ndarray:
  """Computes two-sided p values of mean paired differences being zero.

  Args:
    differences: `[Q, m]` first side minus second, a column a metric.
    clusters: `[Q]` the video of each caption, whose captions change sides together; None: each by itself.
    permutations: drawn.
    seed: of the draws.

  Returns:
    `[m]` p values, at least 1 / (permutations + 1).
  """
  differences = np.asarray(differences, np.float64)
  members = np.arange(len(differences)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
  sums = np.zeros((int(members.max()) + 1, differences.shape[1]))
  np.add.at(sums, members, differences)
  observed = np.abs(sums.sum(axis=0))
  # Sums of the same numbers in another order differ in the last bits; equal must count as equal.
  observed = observed - 1e-9 * np.maximum(np.abs(sums).sum(axis=0), 1e-300)
  random, block, reached = np.random.default_rng(seed), max(1, _CHUNK_NUMBERS // len(sums)), np.zeros(len(observed))
  for start in range(0, permutations, block):
    size = min(block, permutations - start)
    signs = 1.0 - 2.0 * random.integers(2, size=(size, len(sums)))
    reached += (np.abs(signs @ sums) >= observed).sum(axis=0)
  return (1.0 + reached) / (1.0 + permutations)


def compare(
  values: Mapping[str, Mapping[str, np.ndarray]],
  pairs: Sequence[tuple[str, str]],
  clusters: np.ndarray | None = None,
  metrics: Sequence[str] = METRICS,
  permutations: int = PERMUTATIONS,
  samples: int = bootstrap.SAMPLES,
  seed: int = 0,
) -> list[Comparison]:
  """Compares pairs of sides on the same captions, in the same order.

  Args:
    values: side → metric → `[Q]` what each caption adds, as `bootstrap.caption_values` gives it.
    pairs: of names of sides.
    clusters: `[Q]` the video of each caption.
    metrics: which are compared.
    permutations: of the test.
    samples: of the bootstrap of the intervals.
    seed: of both.

  Returns:
    For each pair each metric; p values are corrected over all of them.

  Raises:
    ValueError: the sides have different numbers of captions.
  """
  found = []
  for first, second in pairs:
    sides = [np.stack([values[name][metric] for metric in metrics], axis=1) for name in (first, second)]
    if sides[0].shape != sides[1].shape:
      raise ValueError(
        f'{first} has {len(sides[0])} captions and {second} {len(sides[1])}: a paired comparison needs the same ones'
      )
    differences = sides[0] - sides[1]
    intervals = bootstrap.mean_intervals(differences, clusters, samples, seed=seed)
    p = permutation_p(differences, clusters, permutations, seed)
    means = differences.mean(axis=0)
    found += [
      Comparison(first, second, metric, float(mean), interval, float(value), float('nan'))
      for metric, mean, interval, value in zip(metrics, means, intervals, p, strict=True)
    ]
  corrected = holm([comparison.p for comparison in found])
  return [dataclasses.replace(x, corrected=float(value)) for x, value in zip(found, corrected, strict=True)]
