"""The table of results that ends a run, as aligned text and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from dlkd_jax.retrieval.metrics import RetrievalMetrics, chance_metrics

COLUMNS = ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'MedR', 'MeanR', 'mAP')
# Rows appear in this order, those that were not measured are left out; further names follow.
_ROW_LABELS = {
  'teacher': 'teacher alone',
  'inheritance': 'inheritance',
  'exploration': 'exploration',
  'fused': 'fused',
}


def table_rows(metrics: Mapping[str, RetrievalMetrics], videos: int) -> list[tuple[str, ...]]:
  """Returns the cells of the table: the heading, a row for each scorer, and chance.

  Args:
    metrics: name of a scorer ('teacher', 'inheritance', 'exploration', 'fused', …) to its metrics.
    videos: size of the gallery, for chance.

  Raises:
    ValueError: the gallery is empty.
  """
  names = [name for name in _ROW_LABELS if name in metrics]
  names += [name for name in metrics if name not in _ROW_LABELS]
  rows = [('', *COLUMNS)]
  rows += [_cells(_ROW_LABELS.get(name, name), metrics[name]) for name in names]
  rows.append(_cells('chance', chance_metrics(videos)))
  return rows


def text_table(metrics: Mapping[str, RetrievalMetrics], videos: int) -> str:
  """Returns the table as aligned text, without a final newline. See `table_rows`."""
  rows = table_rows(metrics, videos)
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [_aligned(row, widths) for row in rows]
  lines.insert(1, '-' * len(lines[0]))
  return '\n'.join(lines)


def markdown_table(metrics: Mapping[str, RetrievalMetrics], videos: int) -> str:
  """Returns the table in Markdown, without a final newline. See `table_rows`."""
  rows = [f'| {" | ".join(row)} |' for row in table_rows(metrics, videos)]
  rows.insert(1, '|---|' + '---:|' * len(COLUMNS))
  return '\n'.join(rows)


def _cells(label: str, m: RetrievalMetrics) -> tuple[str, ...]:
  one_digit = [f'{x:.1f}' for x in (m.r1, m.r5, m.r10, m.r100, m.sum_r, m.median_rank, m.mean_rank)]
  return (label, *one_digit, f'{m.mean_ap:.4f}')


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
  """Left-aligns the label and right-aligns the numbers."""
  numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
  return '  '.join([row[0].ljust(widths[0]), *numbers])
