"""The table of the demonstration: what distillation and the second branch are worth, over seeds and over films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dlkd_jax import tables
from dlkd_jax.reporting import bootstrap
from dlkd_jax.retrieval.metrics import chance_metrics

COLUMNS = ('R@1', 'R@5', 'R@10', 'SumR')
_COMPARED = ('R@1', 'SumR')
_FUSED = ('distilled', 'fused')
# Label → kind of student, and the scorer of it.
_ROWS = {
  'teacher alone': ('distilled', 'teacher'),
  'student without a teacher, fused': ('no_teacher', 'fused'),
  'student of one branch, with the teacher': ('single', 'inheritance'),
  "student's inheritance branch": ('distilled', 'inheritance'),
  "student's exploration branch": ('distilled', 'exploration'),
  '**student, fused**': _FUSED,
}


def markdown(
  results: Mapping[str, Sequence[Mapping[str, float]]],
  ranks: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
  videos: int,
) -> str:
  """Returns the tables of the test split in Markdown: means ± standard deviations over seeds, and differences.

  Args:
    results: kind of student → metrics of each seed, by names as `test/fused/R@1`.
    ranks: kind of student → of each seed, by names as `test/fused`, ranks `[Q]` from 1; `test/video` is the number of
      each caption's video.
    videos: size of the gallery, for chance.
  """
  chance = chance_metrics(videos).as_dict()
  found = [(f'test split, {videos} films', *COLUMNS), ('chance', *(f'{chance[name]:.1f}' for name in COLUMNS))]
  for label, (kind, scorer) in _ROWS.items():
    # The teacher is not trained, so that seeds do not change it.
    seeds = results[kind][:1] if scorer == 'teacher' else results[kind]
    found.append((label, *(tables.plus_minus([seed[f'test/{scorer}/{name}'] for seed in seeds]) for name in COLUMNS)))
  above = [(label, *_difference(ranks, row)) for label, row in _ROWS.items() if row != _FUSED]
  return '\n\n'.join(
    [tables.as_markdown(found), tables.as_markdown([('the fused student is above … by', *_COMPARED), *above])]
  )


def _difference(ranks: Mapping[str, Sequence[Mapping[str, np.ndarray]]], row: tuple[str, str]) -> list[str]:
  """Returns mean and 95 % interval of what the fused student is above a row, over films drawn with all captions."""
  ours, theirs = (
    [bootstrap.caption_values(seed[f'test/{scorer}']) for seed in ranks[kind]] for kind, scorer in (_FUSED, row)
  )
  columns = [
    np.mean([mine[name] - other[name] for mine, other in zip(ours, theirs, strict=True)], axis=0) for name in _COMPARED
  ]
  intervals = bootstrap.mean_intervals(np.stack(columns, axis=1), ranks[_FUSED[0]][0]['test/video'])
  return [tables.with_interval(each.mean(), interval) for each, interval in zip(columns, intervals, strict=True)]
