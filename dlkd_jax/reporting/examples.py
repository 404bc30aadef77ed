"""The queries that a run finds best and worst, with the frame curves that show why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dlkd_jax.reporting.frame_curves import Pair
from dlkd_jax.reporting.split_data import SplitData
from dlkd_jax.retrieval.metrics import TEACHER

EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Curves:
  """Frame curves of one query over one video.

  Attributes:
    video_id: of the video.
    times: scorer → `[n]` seconds, or shares of the video where these are unknown.
    curves: scorer → `[n]` cosines.
    seconds: whether times are seconds.
  """

  video_id: str
  times: Mapping[str, np.ndarray]
  curves: Mapping[str, np.ndarray]
  seconds: bool


@dataclasses.dataclass(frozen=True)
class Example:
  """One query.

  Attributes:
    kind: 'best' or 'worst'.
    caption_id, text: of the query.
    ranks: scorer → rank of its own video.
    margin: score of its own video minus that of the best wrong one.
    moment: annotated start and end in seconds, or None.
    own: curves over its own video.
    first: curves over the video ranked first, where that is another.
  """

  kind: str
  caption_id: str
  text: str
  ranks: Mapping[str, int]
  margin: float
  moment: tuple[float, float] | None
  own: Curves
  first: Curves | None


def margins(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
  """Returns by how much each caption's own video scores above the best wrong one: `[Q]` of `[Q, V]`."""
  wrong = scores.copy()
  wrong[np.arange(len(own)), own] = -np.inf
  return scores[np.arange(len(own)), own] - wrong.max(axis=1)


def choose(data: SplitData, scorer: str, count: int = EXAMPLES) -> dict[str, list[int]]:
  """Chooses rows of captions by a scorer.

  Returns:
    'best': of those ranked first by the largest margin; 'worst': by the highest rank, then the smallest margin. At
    most one caption a video in each, so that they show different videos.
  """
  margin, ranks = margins(data.scores[scorer], data.own), data.ranks[scorer]
  best = [row for row in np.argsort(-margin, kind='stable') if ranks[row] == 1]
  worst = [row for row in np.lexsort((margin, -ranks)) if ranks[row] > 1]
  return {kind: _of_different_videos(data, rows, count) for kind, rows in (('best', best), ('worst', worst))}


def _of_different_videos(data: SplitData, rows: Sequence[int], count: int) -> list[int]:
  chosen: dict[int, int] = {}
  for row in rows:
    chosen.setdefault(int(data.own[row]), int(row))
    if len(chosen) == count:
      break
  return list(chosen.values())


def pairs_of(data: SplitData, scorer: str, rows: Mapping[str, Sequence[int]]) -> list[Pair]:
  """Returns the pairs whose curves the examples show: with the own video, and with the one ranked first."""
  every = [row for some in rows.values() for row in some]
  return [(row, column) for row in every for column in (int(data.own[row]), _first(data, scorer, row))]


def _first(data: SplitData, scorer: str, row: int) -> int:
  """The column that ranks first; of equals one that is wrong, as ranks count."""
  scores = data.scores[scorer][row]
  columns = np.flatnonzero(scores == scores.max())
  wrong = columns[columns != data.own[row]]
  return int(wrong[0] if wrong.size else columns[0])


def describe(
  data: SplitData, scorer: str, rows: Mapping[str, Sequence[int]], curves: Mapping[str, Mapping[Pair, np.ndarray]]
) -> list[Example]:
  """Gathers what the examples show.

  Args:
    data: the split.
    scorer: that chose the rows.
    rows: 'best' and 'worst' → rows of captions.
    curves: scorer → pair → curve, of `pairs_of` at least.
  """
  margin = margins(data.scores[scorer], data.own)

  def over(row: int, column: int) -> Curves:
    video = data.videos[column]
    times = {name: video.teacher_times if name == TEACHER else video.student_times for name in curves}
    return Curves(data.video_ids[column], times, {name: x[row, column] for name, x in curves.items()}, video.seconds)

  found = []
  for kind, some in rows.items():
    for row in some:
      own, first = int(data.own[row]), _first(data, scorer, row)
      moment = tuple(map(float, data.moments[row]))
      found.append(
        Example(
          kind=kind,
          caption_id=data.caption_ids[row],
          text=data.texts[row],
          ranks={name: int(ranks[row]) for name, ranks in data.ranks.items()},
          margin=float(margin[row]),
          moment=moment if np.isfinite(moment).all() else None,
          own=over(row, own),
          first=over(row, first) if first != own else None,
        )
      )
  return found
