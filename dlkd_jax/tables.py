"""Tables of results, as aligned text and in Markdown, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


def plus_minus(values: Sequence[float], digits: int = 1, sign: str = '') -> str:
  """Returns mean ± standard deviation of a sample, as '104.6 ± 0.1'; of one value that alone.

  Args:
    values: of each seed.
    digits: behind the point.
    sign: '+' where numbers above 0 are to have one, too.
  """
  mean = f'{np.mean(values):{sign}.{digits}f}'
  return mean if len(values) == 1 else f'{mean} ± {np.std(values, ddof=1):.{digits}f}'


def with_interval(value: float, interval: Sequence[float], digits: int = 1) -> str:
  """Returns a difference and the interval that it lies in, as '+9.5 [+5.4, +13.6]'."""
  low, high = interval
  return f'{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]'


def as_text(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), rule: bool = True) -> str:
  """Returns rows of cells, the first being the heading, in aligned columns, without a final newline.

  Args:
    rows: of as many cells each.
    left: columns that begin at the left; the others, of numbers, end at the right.
    rule: whether a line stands below the heading.
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [x.ljust(w) if n in left else x.rjust(w) for n, (x, w) in enumerate(zip(row, widths, strict=True))]
    lines.append('  '.join(cells).rstrip())
  if rule:
    lines.insert(1, '-' * max(map(len, lines)))
  return '\n'.join(lines)


def as_markdown(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
  """Returns rows as `as_text` does, in Markdown; their cells are Markdown already."""
  lines = [f'| {" | ".join(row)} |' for row in rows]
  marks = ['---' if column in left else '---:' for column in range(len(rows[0]))]
  lines.insert(1, f'|{"|".join(marks)}|')
  return '\n'.join(lines)
