"""Ranks of the captions' own videos, the retrieval metrics made of them, and their table. NumPy only.

Ties are pessimistic: a wrong video with the same score as the right one counts as ranked before it, so

    rank(q) = 1 + #{v other than the own video of q: score[q, v] >= score[q, own(q)]}.

A scorer that gives every video the same score therefore gets the worst rank, never the best one by luck, and the rank
depends on the scores only, not on the order of the gallery. Scores are compared as stored, without a tolerance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

# Names of scorers that are no branch of the student.
TEACHER = 'teacher'
FUSED = 'fused'
COLUMNS = ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'MedR', 'MeanR', 'mAP')
_ROW_BLOCK_BYTES = 8 << 20  # One block of rows, whatever the gallery's size.


@dataclasses.dataclass(frozen=True)
class RetrievalMetrics:
  """Text-to-video metrics with one relevant video per caption.

  Attributes:
    r1, r5, r10, r100: percent of captions whose own video is among the first 1, 5, 10, 100.
    median_rank: median of the ranks from 1; for an even number of captions the mean of the two middle ones.
    mean_rank: mean of the ranks from 1.
    mean_ap: mean average precision in 0..1, with one relevant video the mean of 1 / rank.
  """

  r1: float
  r5: float
  r10: float
  r100: float
  median_rank: float
  mean_rank: float
  mean_ap: float

  @property
  def sum_r(self) -> float:
    """R@1 + R@5 + R@10 + R@100, at most 400."""
    return self.r1 + self.r5 + self.r10 + self.r100

  def as_dict(self, prefix: str = '') -> dict[str, float]:
    """Returns every metric by name, e.g. `{'fused/R@1': …}` for the prefix `'fused/'`."""
    names = 'R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'median_rank', 'mean_rank', 'mAP'
    recall = self.r1, self.r5, self.r10, self.r100
    values = *recall, self.sum_r, self.median_rank, self.mean_rank, self.mean_ap
    return {prefix + name: value for name, value in zip(names, values, strict=True)}


def metrics_from_ranks(ranks: np.ndarray) -> RetrievalMetrics:
  """Computes the metrics of the ranks `[Q]`, of which there must be some, counted from 1."""
  ranks = np.asarray(ranks)
  if ranks.ndim != 1 or ranks.size == 0:
    raise ValueError(f'metrics need at least one rank in a vector, found the shape {ranks.shape}')
  if ranks.min() < 1:
    raise ValueError(f'ranks are counted from 1, found {ranks.min()} for caption {ranks.argmin()}')
  ranks = np.sort(ranks)  # So that the order of the captions does not change the last bit of a mean.
  recall = [100.0 * np.count_nonzero(ranks <= k) / ranks.size for k in (1, 5, 10, 100)]
  return RetrievalMetrics(
    *map(float, recall),
    median_rank=float(np.median(ranks)),
    mean_rank=float(ranks.mean()),
    mean_ap=float((1.0 / ranks).mean()),
  )


def chance_metrics(videos: int) -> RetrievalMetrics:
  """The expected metrics of a random order of so many videos, in closed form.

  Every rank from 1 to V is equally likely: R@k = min(k / V, 1), mean and median rank (V + 1) / 2, and the mean
  reciprocal rank is the V-th harmonic number divided by V.
  """
  if videos < 1:
    raise ValueError(f'chance needs a gallery of at least one video, found {videos}')
  recall = [100.0 * min(k / videos, 1.0) for k in (1, 5, 10, 100)]
  middle = (videos + 1) / 2
  harmonic = float((1.0 / np.arange(1, videos + 1)).sum())
  return RetrievalMetrics(*recall, middle, middle, harmonic / videos)


def at_chance(metrics: Mapping[str, RetrievalMetrics], videos: int) -> dict[str, float]:
  """Returns, for branches whose SumR is that of a random order of so many videos or little more, the SumR of chance.

  Little is half of chance, and a twentieth of the way from chance to 400, whichever is less.
  """
  chance = chance_metrics(videos).sum_r
  most = chance + min(0.5 * chance, 0.05 * (400.0 - chance))
  return {name: chance for name, found in metrics.items() if name not in (FUSED, TEACHER) and found.sum_r < most}


def rank_own_videos(scores: np.ndarray, own_columns: np.ndarray) -> np.ndarray:
  """Ranks each caption's own video by scores `[Q, V]`; see `rank_fused`."""
  return rank_fused({'': scores}, {'': 1.0}, own_columns)


def fused_weights(branches: Sequence[str], given: Sequence[float]) -> dict[str, float]:
  """Returns scorer → weight in the fused score.

  Args:
    branches: of the student.
    given: of each of them, and of the teacher where there is one more; (): yet to be found, and until then two branches
      count as in the paper, others alike.
  """
  if not len(given):
    given = (0.7, 0.3) if len(branches) == 2 else (1.0 / len(branches),) * len(branches)
  return dict(zip((*branches, TEACHER)[: len(given)], given, strict=True))


def rank_fused(scores: Mapping[str, np.ndarray], weights: Mapping[str, float], own_columns: np.ndarray) -> np.ndarray:
  """Ranks each caption's own video by a weighted sum of scores, formed in blocks of rows and never as a whole.

  Args:
    scores: name to `[Q, V]` scores, higher is better; names without a weight are ignored.
    weights: name to weight; the sum is taken in this order, in the scores' own precision.
    own_columns: `[Q]` integers, the column of each caption's own video.

  Returns:
    `[Q]` int64 ranks from 1 to V.

  Raises:
    ValueError: the shapes disagree, a column is not in the gallery, or a score is not finite.
  """
  own_columns = np.asarray(own_columns)
  ranks = np.empty(own_columns.shape, np.int64)
  for rows, block in fused_rows(scores, weights):
    if rows.start == 0:  # Only now is the size of the gallery known to be consistent.
      _check_columns(own_columns, next(iter(scores.values())).shape)
    if not np.isfinite(block).all():
      row, column = np.argwhere(~np.isfinite(block))[0]
      raise ValueError(
        f'the score of caption {rows.start + row} and video {column} is {block[row, column]}; '
        'ranks need finite scores: check the features and the parameters for NaN or infinity'
      )
    own = np.take_along_axis(block, own_columns[rows, None], axis=1)
    # The own video counts itself once, which is the 1 that ranks start from.
    ranks[rows] = np.count_nonzero(block >= own, axis=1)
  return ranks


def fused_rows(scores: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> Iterator[tuple[slice, np.ndarray]]:
  """Yields (rows, `[rows, V]` weighted sum of the score matrices) from the first caption to the last.

  Raises:
    ValueError: no weight is given, a matrix is missing, or two matrices disagree in shape.
  """
  missing = [name for name in weights if name not in scores]
  if missing or not weights:
    raise ValueError(f'weights are for {list(weights)}, scores for {list(scores)}: weight at least one, and only those')
  matrices = [(weight, scores[name]) for name, weight in weights.items()]
  shape = matrices[0][1].shape
  if len(shape) != 2 or any(matrix.shape != shape for _, matrix in matrices):
    found = {name: scores[name].shape for name in weights}
    raise ValueError(f'score matrices must share one shape [Q, V], found {found}')
  step = max(1, _ROW_BLOCK_BYTES // (4 * max(1, shape[1])))
  for start in range(0, shape[0], step):
    rows = slice(start, min(start + step, shape[0]))
    yield rows, sum_in_order([(weight, matrix[rows]) for weight, matrix in matrices])


def sum_in_order(terms: list[tuple[float, np.ndarray]]) -> np.ndarray:
  """Returns weight·array summed from the first term to the last, in the arrays' precision."""
  first_weight, first = terms[0]
  if len(terms) == 1 and first_weight == 1.0:
    return first
  total = first * first_weight
  for weight, array in terms[1:]:
    total += array * weight
  return total


def _check_columns(own_columns: np.ndarray, shape: tuple[int, ...]) -> None:
  """Raises ValueError unless there is one column inside `[Q, V]` scores for each caption."""
  if own_columns.shape != shape[:1] or not np.issubdtype(own_columns.dtype, np.integer):
    raise ValueError(
      f'expected one integer column for each of the {shape[0]} captions, found shape '
      f'{own_columns.shape} of {own_columns.dtype}'
    )
  outside = np.flatnonzero((own_columns < 0) | (own_columns >= shape[1]))
  if outside.size:
    raise ValueError(f'caption {outside[0]} names column {own_columns[outside[0]]} of a gallery of {shape[1]} videos')


def table_rows(metrics: Mapping[str, RetrievalMetrics], videos: int) -> list[tuple[str, ...]]:
  """Returns the cells of the table that ends a run: the heading, a row a scorer, and chance in so many videos."""
  names = sorted(metrics, key=lambda name: {TEACHER: 0, FUSED: 2}.get(name, 1))
  rows = [('', *COLUMNS)]
  rows += [_cells('teacher alone' if name == TEACHER else name, metrics[name]) for name in names]
  rows.append(_cells('chance', chance_metrics(videos)))
  return rows


def _cells(label: str, m: RetrievalMetrics) -> tuple[str, ...]:
  one_digit = [f'{x:.1f}' for x in (m.r1, m.r5, m.r10, m.r100, m.sum_r, m.median_rank, m.mean_rank)]
  return (label, *one_digit, f'{m.mean_ap:.4f}')
