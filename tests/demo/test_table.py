"""The table: means and spreads of the seeds, chance and the teacher beside them, and paired differences."""

import numpy as np
import pytest

from dlkd_jax.demo import students, table
from dlkd_jax.demo.settings import SIZES

SCORERS = {
  'distilled': ('fused', 'inheritance', 'exploration', 'teacher'),
  'no_teacher': ('fused',),
  'single': ('inheritance', 'teacher'),
}


def results():
  return {
    kind: [
      {f'test/{scorer}/{name}': 10.0 + seed for scorer in SCORERS[kind] for name in table.COLUMNS} for seed in (0, 2)
    ]
    for kind in students.KINDS
  }


def ranks(fused=(1, 1, 1, 1), other=(1, 2, 2, 1)):
  def of(scorer):
    return np.array(fused if scorer == 'fused' else other)

  found = {}
  for kind in students.KINDS:
    one = {f'test/{scorer}': of(scorer if kind == 'distilled' else '') for scorer in SCORERS[kind]}
    found[kind] = [one | {'test/video': np.array([0, 0, 1, 1])}] * 2
  return found


def test_rows():
  lines = table.markdown(results(), ranks(), 50).splitlines()
  assert lines[2].startswith('| chance | 2.0 | 10.0 |')
  assert lines[3] == '| teacher alone | 10.0 | 10.0 | 10.0 | 10.0 |'
  assert lines[8] == '| **student, fused** | 11.0 ± 1.4 | 11.0 ± 1.4 | 11.0 ± 1.4 | 11.0 ± 1.4 |'
  one = {kind: seeds[:1] for kind, seeds in results().items()}
  assert '±' not in table.markdown(one, {kind: seeds[:1] for kind, seeds in ranks().items()}, 50)


def test_differences_are_paired_over_films():
  lines = table.markdown(results(), ranks(), 50).splitlines()[9:]
  assert lines[0] == ''
  assert len(lines) == 3 + 5
  # Each film has one of two captions more right than the other side, in R@1 alone: no film differs from another.
  assert lines[3] == '| teacher alone | +50.0 [+50.0, +50.0] | +50.0 [+50.0, +50.0] |'
  uneven = table.markdown(results(), ranks(other=(2, 2, 1, 1)), 50).splitlines()[9:]
  assert uneven[3] == '| teacher alone | +50.0 [+0.0, +100.0] | +50.0 [+0.0, +100.0] |'


def test_a_training_that_is_not_finished_has_no_results(tmp_path):
  for read in (students.read_results, students.read_ranks):
    with pytest.raises(FileNotFoundError):
      read(SIZES['tiny'], tmp_path)
