"""Bootstrap intervals of retrieval metrics, by resampling captions or whole videos. NumPy only.

Captions of one video are not independent: they share the video's features, and what hides one of them hides the
others. Resampling videos, each with all its captions (the cluster bootstrap), allows for that; resampling captions
does not, and its intervals are for the very videos at hand. Intervals are percentiles of the metric over the samples.
They tell how much the metric would vary with other captions or videos, not how much it would with another training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

SAMPLES = 2000
LEVEL = 0.95
METRICS = ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'median_rank', 'mean_rank', 'mAP')
CUTOFFS = (1, 5, 10, 100)
_CHUNK_NUMBERS = 4_000_000  # Of one block of samples × captions.


class Interval(NamedTuple):
  """An interval of a metric."""

  low: float
  high: float


def sample_counts(
  captions: int, clusters: np.ndarray | None = None, samples: int = SAMPLES, seed: int = 0
) -> Iterator[np.ndarray]:
  """Draws how often each caption is in each bootstrap sample.

  Args:
    captions: Q.
    clusters: `[Q]` integers, the video of each caption: videos are drawn, each with all its captions. None: captions
      are drawn.
    samples: how many.
    seed: of the draws; the same arguments give the same samples.

  Yields:
    `[b, Q]` float64 counts, blocks of samples.

  Raises:
    ValueError: there is no caption, or not one cluster a caption.
  """
  if captions < 1:
    raise ValueError('a bootstrap needs at least one caption')
  members = np.arange(captions) if clusters is None else np.unique(clusters, return_inverse=True)[1]
  if members.shape != (captions,):
    raise ValueError(f'expected one cluster for each of {captions} captions, found shape {members.shape}')
  units = int(members.max()) + 1
  random, block = np.random.default_rng(seed), max(1, _CHUNK_NUMBERS // captions)
  for start in range(0, samples, block):
    size = min(block, samples - start)
    drawn = random.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
    yield counts[:, members].astype(np.float64)


def caption_values(ranks: np.ndarray) -> dict[str, np.ndarray]:
  """Returns what each caption adds to the metrics that are means over captions.

  Args:
    ranks: `[Q]` from 1.

  Returns:
    'R@1', 'R@5', 'R@10', 'R@100' and 'SumR' in percent, 'mean_rank', and 'mAP' in 0..1, `[Q]` float64 each.
  """
  ranks = np.asarray(ranks, np.float64)
  values = {f'R@{k}': 100.0 * (ranks <= k) for k in CUTOFFS}
  return values | {'SumR': sum(values.values()), 'mean_rank': ranks, 'mAP': 1.0 / ranks}


def resampled_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns the mean of the values `[Q, m]` in each sample of counts `[b, Q]`: `[b, m]`."""
  return counts @ values / counts.sum(axis=1, keepdims=True)


def resampled_medians(ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns the median of the ranks `[Q]` in each sample of counts `[b, Q]`: `[b]`; of two middle ones the mean."""
  order = np.argsort(ranks, kind='stable')
  running = np.cumsum(counts[:, order], axis=1)
  total = running[:, -1:]
  middle = [np.argmax(running > place, axis=1) for place in (np.floor((total - 1) / 2), np.floor(total / 2))]
  sorted_ranks = np.asarray(ranks, np.float64)[order]
  return (sorted_ranks[middle[0]] + sorted_ranks[middle[1]]) / 2


def rank_intervals(
  ranks: Mapping[str, np.ndarray],
  clusters: np.ndarray | None = None,
  samples: int = SAMPLES,
  level: float = LEVEL,
  seed: int = 0,
) -> dict[str, dict[str, Interval]]:
  """Computes intervals of all retrieval metrics of several scorers, over the same samples for all.

  Args:
    ranks: scorer → `[Q]` ranks from 1.
    clusters: `[Q]` the video of each caption, to resample videos; None: captions are resampled.
    samples: bootstrap samples.
    level: share of the samples within an interval.
    seed: of the draws.

  Returns:
    scorer → metric (`METRICS`) → interval.
  """
  captions = len(next(iter(ranks.values())))
  means = {name: caption_values(values) for name, values in ranks.items()}
  found: dict[str, list[np.ndarray]] = {name: [] for name in ranks}
  for counts in sample_counts(captions, clusters, samples, seed):
    for name, values in means.items():
      columns = resampled_means(np.stack(list(values.values()), axis=1), counts)
      by_name = dict(zip(values, columns.T, strict=True)) | {'median_rank': resampled_medians(ranks[name], counts)}
      found[name].append(np.stack([by_name[metric] for metric in METRICS], axis=1))
  return {name: dict(zip(METRICS, percentiles(np.concatenate(x), level), strict=True)) for name, x in found.items()}


def mean_intervals(
  values: np.ndarray,
  clusters: np.ndarray | None = None,
  samples: int = SAMPLES,
  level: float = LEVEL,
  seed: int = 0,
) -> list[Interval]:
  """Computes an interval of the mean of each column of the values `[Q, m]`; see `rank_intervals`."""
  values = np.asarray(values, np.float64)
  found = [resampled_means(values, counts) for counts in sample_counts(len(values), clusters, samples, seed)]
  return percentiles(np.concatenate(found), level)


def percentiles(samples: np.ndarray, level: float = LEVEL) -> list[Interval]:
  """Returns the interval that holds the middle share `level` of each column of the samples `[n, m]`.

  Raises:
    ValueError: the level is not between 0 and 1.
  """
  if not 0.0 < level < 1.0:
    raise ValueError(f'the level of an interval is {level}, expected a share between 0 and 1')
  low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
  return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
