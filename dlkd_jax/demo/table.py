"""The table of the demonstration: what distillation and the second branch are worth, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dlkd_jax.retrieval.metrics import chance_metrics

COLUMNS = ('R@1', 'R@5', 'R@10', 'SumR')
_ROWS = (
  ('student, fused', 'distilled', 'fused'),
  ('student, inheritance branch', 'distilled', 'inheritance'),
  ('student, exploration branch', 'distilled', 'exploration'),
  ('without a teacher, fused', 'no_teacher', 'fused'),
  ('single branch, with the teacher', 'single', 'inheritance'),
)


def markdown(results: Mapping[str, Sequence[Mapping[str, float]]], videos: int) -> str:
  """Returns the table of the test split in Markdown: means ± standard deviations over seeds.

  Args:
    results: kind of student → metrics of each seed, by names as `test/fused/R@1`.
    videos: size of the gallery, for chance.
  """
  lines = [f'| test split, {videos} films | {" | ".join(COLUMNS)} |', f'|---|{"---:|" * len(COLUMNS)}']
  chance = chance_metrics(videos).as_dict()
  lines.append(_row('chance', [f'{chance[name]:.1f}' for name in COLUMNS]))
  teacher = results['distilled'][0]
  lines.append(_row('teacher alone', [f'{teacher[f"test/teacher/{name}"]:.1f}' for name in COLUMNS]))
  for label, kind, scorer in _ROWS:
    values = [[seed[f'test/{scorer}/{name}'] for seed in results[kind]] for name in COLUMNS]
    lines.append(_row(label, [_spread(row) for row in values]))
  return '\n'.join(lines)


def _spread(values: Sequence[float]) -> str:
  """Returns mean ± standard deviation of a sample; the value where there is one alone."""
  if len(values) == 1:
    return f'{values[0]:.1f}'
  return f'{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}'


def _row(label: str, cells: Sequence[str]) -> str:
  return f'| {" | ".join((label, *cells))} |'
