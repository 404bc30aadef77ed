"""The table of a sweep: mean ± standard deviation over seeds, as text, Markdown and JSON."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from dlkd_jax import files
from dlkd_jax.reporting.sweeping import Run
from dlkd_jax.reporting.variants import RECIPE, Variant
from dlkd_jax.retrieval.metrics import FUSED, TEACHER, chance_metrics
from dlkd_jax.training import schedules

COLUMNS = ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'mAP')


def summarise(
  variants: Sequence[Variant], finished: Mapping[str, Sequence[Run]], split: str, videos: int
) -> dict[str, Any]:
  """Gathers what the finished runs of a sweep gave.

  Args:
    variants: in the order of the rows.
    finished: variant → its finished runs.
    split: whose metrics are shown.
    videos: size of its gallery, for chance.

  Returns:
    Plain values: 'split', 'videos', 'branches', 'chance' and 'teacher' (metric → value; None where no run has a
    teacher), and 'rows': for each variant with a finished run its name, what it is, its changes, seeds, best epochs,
    and 'values': column → the value of each seed; where the recipe was trained with the same seeds, 'difference' of
    SumR to it.
  """
  branches = list(
    dict.fromkeys(name for runs in finished.values() for run in runs for name in run.config.model.branches)
  )
  base = {run.seed: _values(run, split)['SumR'] for run in finished.get(RECIPE, ())}
  rows, teacher = [], None
  for variant in variants:
    runs = finished.get(variant.name, ())
    if not runs:
      continue
    each = [_values(run, split) for run in runs]
    results = [run.results() for run in runs]
    for result in results:
      if teacher is None and f'{split}/{TEACHER}/SumR' in result['metrics']:
        teacher = {name: result['metrics'][f'{split}/{TEACHER}/{name}'] for name in COLUMNS}
    rows.append(
      {
        'variant': variant.name,
        'about': variant.about,
        'changes': variant.changes,
        'seeds': [run.seed for run in runs],
        'best_epochs': [result['best_epoch'] for result in results],
        'values': {name: [x[name] for x in each] for name in (*COLUMNS, *branches) if name in each[0]},
        'difference': [x['SumR'] - base[run.seed] for run, x in zip(runs, each, strict=True) if run.seed in base],
      }
    )
  chance = chance_metrics(videos).as_dict()
  return {
    'split': split,
    'videos': videos,
    'chance': {name: chance[name] for name in COLUMNS},
    'teacher': teacher,
    'branches': branches,
    'rows': rows,
  }


def _values(run: Run, split: str) -> dict[str, float]:
  """The student's metrics, fused where it has several branches, and SumR of each branch."""
  metrics = run.results()['metrics']
  branches = run.config.model.branches
  primary = FUSED if f'{split}/{FUSED}/SumR' in metrics else branches[0]
  values = {name: metrics[f'{split}/{primary}/{name}'] for name in COLUMNS}
  return values | {name: metrics[f'{split}/{name}/SumR'] for name in branches}


def cells(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
  """Returns the cells of the table: the heading, chance, the teacher alone, and a row for each variant."""
  rows: list[tuple[str, ...]] = [('', 'seeds', *COLUMNS, *summary['branches'], 'SumR over recipe')]
  for label, values in (('chance', summary['chance']), ('teacher alone', summary['teacher'])):
    if values:
      rows.append(
        (label, '', *(_number(values[name], name) for name in COLUMNS), *[''] * (1 + len(summary['branches'])))
      )
  for row in summary['rows']:
    values = row['values']
    shown = [spread(values[name], name) if name in values else '' for name in (*COLUMNS, *summary['branches'])]
    itself = row['variant'] == RECIPE or not row['difference']
    difference = '' if itself else spread(row['difference'], 'SumR', sign='+')
    rows.append((row['variant'], str(len(row['seeds'])), *shown, difference))
  return rows


def spread(values: Sequence[float], name: str = 'SumR', sign: str = '') -> str:
  """Returns mean ± standard deviation of a sample, the value alone where there is one."""
  if len(values) == 1:
    return _number(values[0], name, sign)
  return f'{_number(float(np.mean(values)), name, sign)} ± {_number(float(np.std(values, ddof=1)), name)}'


def _number(value: float, name: str, sign: str = '') -> str:
  return f'{value:{sign}.{4 if name == "mAP" else 1}f}'


def notes(config: ml_collections.ConfigDict, summary: Mapping[str, Any]) -> list[str]:
  """Returns what a reader of the table must know: data, length of the training, and how far w fell in it."""
  epochs = config.training.epochs
  last = {
    kind: float(schedules.distillation_weight(kind, 1)(epochs - 1)) for kind in ('none', 'exp', 'linear', 'sigmoid')
  }
  weights = ', '.join(f'{value:.2f} ({kind})' for kind, value in last.items())
  about = '; '.join(f'{row["variant"]}: {row["about"]}' for row in summary['rows'] if row['variant'] != RECIPE)
  return [
    f'{config.data.dataset}, {summary["split"]}, {summary["videos"]:,} videos; fused score (of one branch: its own), '
    'SumR of each branch; mean ± standard deviation over seeds; best epoch by SumR on validation.',
    f'{epochs} epochs each. Schedules of w, alpha and beta count epochs and are not stretched to this length: in the '
    f'last epoch w is {weights}.',
    *([f'{about}.'] if about else []),
    'SumR over recipe: of the same seeds, seed by seed.',
  ]


def as_text(summary: Mapping[str, Any], remarks: Sequence[str]) -> str:
  """Returns the table as aligned text."""
  rows = cells(summary)
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
    '  '.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
    for row in rows
  ]
  lines.insert(1, '-' * sum(w + 2 for w in widths))
  return '\n'.join([*lines, '', *remarks])


def as_markdown(summary: Mapping[str, Any], remarks: Sequence[str]) -> str:
  """Returns the table in Markdown."""
  rows = cells(summary)
  lines = [f'| {" | ".join(row)} |' for row in rows]
  lines.insert(1, '|---|' + '---:|' * (len(rows[0]) - 1))
  return '\n'.join([*lines, '', *remarks])


def write(workdir: pathlib.Path, config: ml_collections.ConfigDict, summary: Mapping[str, Any]) -> str:
  """Writes `sweep.txt`, `sweep.md` and `sweep.json` into the sweep's folder; returns the text.

  Raises:
    OSError: they cannot be written.
  """
  remarks = notes(config, summary)
  text = as_text(summary, remarks)
  files.write_text(workdir / 'sweep.txt', text + '\n')
  files.write_text(workdir / 'sweep.md', f'# Sweep\n\n{as_markdown(summary, remarks)}\n')
  files.write_json(workdir / 'sweep.json', {**summary, 'epochs': config.training.epochs, 'notes': remarks})
  return text
