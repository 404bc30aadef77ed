"""Tables, against what they look like."""

import numpy as np
import pytest

from dlkd_jax import tables

ROWS = [('', 'SumR', 'about'), ('chance', '8.7', 'none'), ('one', '+104.65', '')]


def test_numbers():
  assert tables.plus_minus([1.0, 3.0]) == '2.0 ± 1.4' and tables.plus_minus([0.25], 2) == '0.25'
  assert tables.plus_minus([1.0, 3.0], 3, '+') == f'+2.000 ± {np.std([1, 3], ddof=1):.3f}'
  assert tables.with_interval(-0.04, (-1.06, 0.96)) == '-0.0 [-1.1, +1.0]'
  assert tables.with_interval(0.125, (0.1, 0.2), 3) == '+0.125 [+0.100, +0.200]'


def test_text_is_aligned():
  lines = ['           SumR  about', '----------------------', 'chance      8.7  none', 'one     +104.65']
  assert tables.as_text(ROWS, left=(0, 2)).split('\n') == lines
  assert tables.as_text(ROWS, left=(0, 2), rule=False).split('\n') == lines[:1] + lines[2:]
  with pytest.raises(ValueError, match='shorter'):
    tables.as_text([('a', 'b'), ('a',)])


def test_markdown():
  lines = ['|  | SumR | about |', '|---|---:|---|', '| chance | 8.7 | none |', '| one | +104.65 |  |']
  assert tables.as_markdown(ROWS, left=(0, 2)).split('\n') == lines
