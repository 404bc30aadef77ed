"""The table of a sweep: mean ± standard deviation over seeds, as text, Markdown and JSON."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from dlkd_jax import files, tables
from dlkd_jax.config import with_values
from dlkd_jax.reporting import bootstrap
from dlkd_jax.reporting.sweeping import Run
from dlkd_jax.reporting.variants import RECIPE, Variant
from dlkd_jax.retrieval.metrics import FUSED, TEACHER, chance_metrics
from dlkd_jax.training import recipe

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
    and 'values': column → the value of each seed; 'against', the variant that it is compared with; where that was
    trained with the same seeds, 'difference' of SumR to it, and 'interval', 95 % of their mean over videos drawn anew.
  """
  branches = list(
    dict.fromkeys(name for runs in finished.values() for run in runs for name in run.config.model.branches)
  )
  rows, teacher = [], None
  for variant in variants:
    runs = finished.get(variant.name, ())
    if not runs:
      continue
    each = [_values(run, split) for run in runs]
    base = {run.seed: run for run in finished.get(variant.against, ()) if variant.name != RECIPE}
    pairs = [(run, base[run.seed]) for run in runs if run.seed in base]
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
        'against': variant.against,
        'difference': [_values(run, split)['SumR'] - _values(other, split)['SumR'] for run, other in pairs],
        'interval': _interval(pairs, split),
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
  branches, primary = run.config.model.branches, _primary(run, split)
  values = {name: metrics[f'{split}/{primary}/{name}'] for name in COLUMNS}
  return values | {name: metrics[f'{split}/{name}/SumR'] for name in branches}


def _primary(run: Run, split: str) -> str:
  return FUSED if f'{split}/{FUSED}/SumR' in run.results()['metrics'] else run.config.model.branches[0]


def _interval(pairs: Sequence[tuple[Run, Run]], split: str) -> bootstrap.Interval | None:
  """Returns 95 % of the mean difference of SumR of pairs of runs, over videos drawn with all their captions."""
  found = [[run.values(split, _primary(run, split)) for run in pair] for pair in pairs]
  if not found or any(side is None for sides in found for side in sides):
    return None
  differences = np.mean([first[0] - second[0] for first, second in found], axis=0)
  return bootstrap.mean_intervals(differences[:, None], found[0][0][1])[0]


def cells(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
  """Returns the cells of the table: the heading, chance, the teacher alone, and a row for each variant."""
  columns = (*COLUMNS, *summary['branches'])
  rows: list[tuple[str, ...]] = [('', 'seeds', *columns, f'SumR over {_compared(summary)}')]

  def shown(values: Mapping[str, Sequence[float]]) -> list[str]:
    return [tables.plus_minus(values[x], 4 if x == 'mAP' else 1) if x in values else '' for x in columns]

  for label, values in (('chance', summary['chance']), ('teacher alone', summary['teacher'])):
    if values:
      rows.append((label, '', *shown({name: [value] for name, value in values.items()}), ''))
  for row in summary['rows']:
    difference = tables.plus_minus(row['difference'], sign='+') if row['difference'] else ''
    if row['interval']:
      difference += ' [{:+.1f}, {:+.1f}]'.format(*row['interval'])
    if _compared(summary) != RECIPE and row['difference']:
      difference += f' {row["against"]}'
    rows.append((row['variant'], str(len(row['seeds'])), *shown(row['values']), difference))
  return rows


def _compared(summary: Mapping[str, Any]) -> str:
  """Names what rows are compared with: the recipe, or others, as each row says."""
  return RECIPE if all(row['against'] == RECIPE for row in summary['rows']) else 'another row'


def notes(config: ml_collections.ConfigDict, summary: Mapping[str, Any]) -> list[str]:
  """Returns what a reader of the table must know: data, length of the training, and how far w fell in it."""
  epochs = config.training.epochs
  last = {}
  for kind in ('none', 'exp', 'linear', 'sigmoid'):
    decayed = with_values(config, {'schedules.distillation': kind})
    last[kind] = float(recipe.make_coefficients(decayed, 1)(epochs - 1)['distillation'])
  weights = ', '.join(f'{value:.2f} ({kind})' for kind, value in last.items())
  about = '; '.join(f'{row["variant"]}: {row["about"]}' for row in summary['rows'] if row['variant'] != RECIPE)
  return [
    f'{config.data.dataset}, {summary["split"]}, {summary["videos"]:,} videos; fused score (of one branch: its own), '
    'SumR of each branch; mean ± standard deviation over seeds; best epoch by SumR on validation.',
    f'{epochs} epochs each. Schedules of w, alpha and beta count epochs and are not stretched to this length: in the '
    f'last epoch w is {weights}.',
    *([f'{about}.'] if about else []),
    f'SumR over {_compared(summary)}: of the same seeds; in brackets 95 % of the mean difference, over videos drawn '
    'anew with all their captions.',
  ]


def as_text(summary: Mapping[str, Any], remarks: Sequence[str]) -> str:
  """Returns the table as aligned text."""
  return '\n'.join([tables.as_text(cells(summary)), '', *remarks])


def as_markdown(summary: Mapping[str, Any], remarks: Sequence[str]) -> str:
  """Returns the table in Markdown."""
  return '\n'.join([tables.as_markdown(cells(summary)), '', *remarks])


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
