"""Captions with several relevant videos: the file that names them, and recall over all of them. NumPy only.

The file holds JSON, one caption a line:

    {"caption": "vid7#3", "videos": ["vid7", "vid9"]}

A caption that it does not name has its own video alone. With R relevant videos, of which r are among the first k,

    R@k = r / R,    AP = (1/R) Σ_i i / rank_i   over the relevant videos by rising rank.

Ties are pessimistic, as everywhere: a wrong video with the score of a relevant one counts as ranked before it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.reporting.bootstrap import CUTOFFS
from dlkd_jax.retrieval.metrics import fused_rows

_NAMED = 3  # Ids that an error names.


class Relevance(NamedTuple):
  """Ground truth of a split.

  Attributes:
    columns: for each of Q captions the columns of its relevant videos, at least one.
    given: how many captions the file named.
  """

  columns: list[np.ndarray]
  given: int


def read_relevant(
  path: pathlib.Path, caption_ids: Sequence[str], video_ids: Sequence[str], own_columns: np.ndarray
) -> Relevance:
  """Reads which videos are relevant to which captions.

  Args:
    path: the file (see the module's docstring).
    caption_ids: of the Q captions of the split.
    video_ids: of the V videos of the gallery.
    own_columns: `[Q]` column of each caption's own video, which stands for captions that the file does not name.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is not of that form, a caption is named twice, or no caption of it is in this split, or a video
      is not in the gallery. Captions of other splits are passed over.
  """
  row, column = ({name: i for i, name in enumerate(ids)} for ids in (caption_ids, video_ids))
  columns, named = [np.array([own], np.int64) for own in own_columns], {}
  for number, caption, videos in _lines(path):
    if caption in named:
      raise UserError(f'{path}:{number}: caption {caption!r} was named in line {named[caption]} already')
    named[caption] = number
    if caption not in row:
      continue
    absent = [name for name in videos if name not in column]
    if absent:
      raise UserError(
        f'{path}:{number}: {len(absent)} relevant videos of caption {caption!r} are not among the {len(column)} of the '
        f'gallery, as {", ".join(map(repr, absent[:_NAMED]))}; name videos of the split that is evaluated'
      )
    columns[row[caption]] = np.array(sorted({column[name] for name in videos}), np.int64)
  given = sum(name in row for name in named)
  if not given:
    raise UserError(
      f'{path} names {len(named)} captions, none of them among the {len(row)} of this split, which are called '
      f'{", ".join(map(repr, list(row)[:_NAMED]))}, …; use these ids'
    )
  return Relevance(columns, given)


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str, list[str]]]:
  """Yields number, caption and videos of each line that is not empty."""
  for number, line in files.lines(files.read_text(path)):
    content = files.parse_object(line, f'{path}:{number}')
    caption, videos = content.get('caption'), content.get('videos')
    fits = isinstance(videos, list) and videos and all(isinstance(name, str) for name in videos)
    if not isinstance(caption, str) or not fits:
      raise UserError(
        f'{path}:{number}: expected {{"caption": "<id>", "videos": ["<id>", …]}} with a video at least, found '
        f'{line.strip()[:120]}'
      )
    yield number, caption, videos


def multiple_values(
  scores: Mapping[str, np.ndarray], weights: Mapping[str, float], relevance: Relevance
) -> dict[str, np.ndarray]:
  """Computes what each caption adds to the metrics over all relevant videos.

  Args:
    scores: scorer → `[Q, V]`.
    weights: scorer → weight of the score that ranks.
    relevance: columns of the relevant videos.

  Returns:
    'R@1', 'R@5', 'R@10', 'R@100' and 'SumR' in percent, 'mAP' in 0..1, and 'first_rank', the rank of the first
    relevant video, `[Q]` each.
  """
  names = [f'R@{k}' for k in CUTOFFS]
  values = {name: np.empty(len(relevance.columns)) for name in [*names, 'mAP', 'first_rank']}
  for rows, block in fused_rows(scores, weights):
    for row, line in zip(range(rows.start, rows.stop), block, strict=True):
      ranks = relevant_ranks(line, relevance.columns[row])
      for k, name in zip(CUTOFFS, names, strict=True):
        values[name][row] = 100.0 * np.mean(ranks <= k)
      values['mAP'][row] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
      values['first_rank'][row] = ranks[0]
  return values | {'SumR': sum(values[name] for name in names)}


def relevant_ranks(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Returns the ranks, rising, of the relevant columns `[R]` by the scores `[V]`; ties are pessimistic."""
  relevant = -np.sort(-scores[columns])
  wrong = np.sort(np.delete(scores, columns))
  ahead = len(wrong) - np.searchsorted(wrong, relevant, side='left')
  return ahead + np.arange(1, len(relevant) + 1)
