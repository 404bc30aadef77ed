"""The whole report: findings of one run or of several, as a document, and its files."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from dlkd_jax import files, tables
from dlkd_jax.reporting import document, plots, sections
from dlkd_jax.reporting.analysis import Options
from dlkd_jax.reporting.comparison import BEST_FRAME, BEST_FRAME_FIRST, RunComparison
from dlkd_jax.reporting.document import Document, Figure, Section, Table, Text
from dlkd_jax.reporting.findings import RunFindings, plain

_LISTED = 12  # Differences of two configurations that are named.


def build(findings: Sequence[RunFindings], compared: RunComparison | None, options: Options) -> Document:
  """Returns the document.

  Args:
    findings: of each run.
    compared: the runs side by side; None where there is one.
    options: that the findings were made with.
  """
  first = findings[0]
  if compared is None:
    parts = [Section('Summary', sections.headline(first)), *sections.run_sections(first)]
    title = f'{first.name} on {first.about["dataset"]}, {first.about["split"]}'
  else:
    parts = [_overview(findings), _groups(compared), _comparisons(compared)]
    for number, found in enumerate(findings, 1):
      inside = [*sections.headline(found), *sections.run_sections(found, f'run{number}_')]
      parts.append(Section(f'Run {found.name}', inside, folded=True))
    title = f'{len(findings)} runs on {first.about["dataset"]}, {first.about["split"]}'
  subtitle = '; '.join(f'{found.name}: {found.workdir}, seed {found.about["seed"]}' for found in findings)
  return Document(title, subtitle, [*parts, _method(options)])


def _overview(findings: Sequence[RunFindings]) -> Section:
  metrics = list(findings[0].metrics[findings[0].primary])
  rows = [(found.name, *(sections.cell(found.metrics[found.primary][m], m) for m in metrics)) for found in findings]
  teacher = findings[0].metrics.get('teacher')
  if teacher is not None:
    rows.append(('teacher alone', *(sections.cell(teacher[m], m) for m in metrics)))
  return Section(
    'Runs',
    [
      Table(
        'The student of every run, with 95% intervals over videos', ('', *(m.replace('_', ' ') for m in metrics)), rows
      ),
      Figure('runs', plots.runs(findings, 'runs'), 'Every run; bars are 95% intervals over videos.'),
      Text('Details of each run are folded below.', note=True),
    ],
  )


def _groups(compared: RunComparison) -> Section:
  blocks: list[Text | Table | Figure | Section] = []
  names = [m for m in compared.groups[0].values if all(m in group.values for group in compared.groups)]
  digits = {'mAP': 3}

  def row(text: str, values) -> tuple[str, ...]:
    return (text, *(tables.plus_minus(values[m], digits.get(m, 1)) if m in values else '' for m in names))

  rows = [row(group.name, group.values) for group in compared.groups]
  rows += [row('teacher alone', group.teacher) for group in compared.groups[:1] if group.teacher]
  explain = {BEST_FRAME: 'best frame in moment, %', BEST_FRAME_FIRST: 'the same, own video ranked first, %'}
  blocks.append(
    Table('Runs that differ in their seed alone, mean ± sd', ('', *(explain.get(m, m) for m in names)), rows)
  )
  for name, lines in list(compared.differences.items())[1:]:
    more = f'; and {len(lines) - _LISTED} more' if len(lines) > _LISTED else ''
    text = '; '.join(lines[:_LISTED]) + more if lines else 'no difference'
    blocks.append(Text(f'{name} against {next(iter(compared.differences))}: {text}', note=True))
  return Section('Seeds and configurations', blocks)


def _comparisons(compared: RunComparison) -> Section:
  title = 'Comparison'
  if compared.obstacle:
    return Section(title, [Text(compared.obstacle)])
  blocks: list[Text | Table | Figure | Section] = [
    Figure('differences', plots.differences(compared, 'differences'), 'Paired differences of SumR, 95% over videos.')
  ]
  if compared.of_groups:
    blocks += [
      sections.comparison_table('Groups, each caption averaged over the seeds', compared.of_groups),
    ]
  blocks += [
    sections.comparison_table('Runs', compared.runs),
    Text(
      'Permutation test on the same captions, sides exchanged for all captions of a video at once, two-sided; p '
      'corrected by Holm over all rows of a table; rows that stay below 0.05 are highlighted. The tests take the '
      'trained students as they are: they tell whether these differ on such captions and videos, not what another '
      'seed would give.',
      note=True,
    ),
  ]
  return Section(title, blocks)


def _method(options: Options) -> Section:
  return Section(
    'How the numbers are made',
    [
      Text(
        "A caption's score for a video is the largest cosine over the video's frames; fused, the weighted sum of the "
        "branches' scores. Ties are pessimistic: a wrong video with the score of the right one counts as ranked before "
        'it.'
      ),
      Text(
        f'Intervals: percentiles of {options.samples:,} bootstrap samples (seed {options.seed}), the same samples for '
        f'all scorers. Tests: {options.permutations:,} permutations. Neither tells how much another training would '
        'differ; for that, train several seeds.'
      ),
    ],
  )


def as_json(findings: Sequence[RunFindings], compared: RunComparison | None, options: Options) -> dict[str, Any]:
  """Returns everything that the report says as plain values."""
  return {
    'options': {'split': options.split, 'samples': options.samples, 'permutations': options.permutations},
    'runs': [found.as_json() for found in findings],
    'comparison': None if compared is None else plain(compared),
  }


def write(folder: pathlib.Path, content: Document, values: dict[str, Any]) -> list[pathlib.Path]:
  """Writes `report.html`, `report.md` with `figures/`, and `report.json`.

  Returns:
    The three files.

  Raises:
    OSError: they cannot be written.
  """
  for figure in document.figures_of(content):
    header = '<?xml version="1.0" encoding="UTF-8"?>\n'
    svg = (
      figure.svg
      if 'xmlns=' in figure.svg
      else figure.svg.replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    )
    files.write_text(folder / 'figures' / f'{figure.name}.svg', header + svg + '\n')
  paths = [folder / f'report.{kind}' for kind in ('html', 'md', 'json')]
  files.write_text(paths[0], document.to_html(content))
  files.write_text(paths[1], document.to_markdown(content))
  files.write_json(paths[2], values)
  return paths
