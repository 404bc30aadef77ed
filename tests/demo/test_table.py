"""The table: means and spreads of the seeds, chance and the teacher beside them."""

import pytest

from dlkd_jax.demo import students, table


def test_rows():
  scorers = {'distilled': ('fused', 'inheritance', 'exploration', 'teacher'), 'no_teacher': ('fused',)}
  scorers['single'] = ('inheritance', 'teacher')
  results = {
    kind: [
      {f'test/{scorer}/{name}': 10.0 + seed for scorer in scorers[kind] for name in table.COLUMNS} for seed in (0, 2)
    ]
    for kind in students.KINDS
  }
  lines = table.markdown(results, 50).splitlines()
  assert lines[2].startswith('| chance | 2.0 | 10.0 |')
  assert lines[3] == '| teacher alone | 10.0 | 10.0 | 10.0 | 10.0 |'
  assert lines[4] == '| student, fused | 11.0 ± 1.4 | 11.0 ± 1.4 | 11.0 ± 1.4 | 11.0 ± 1.4 |'
  assert len(lines) == 9
  one = {kind: seeds[:1] for kind, seeds in results.items()}
  assert '±' not in table.markdown(one, 50)


def test_a_training_that_is_not_finished_has_no_results(tmp_path):
  from dlkd_jax.demo.settings import SIZES

  with pytest.raises(FileNotFoundError):
    students.read_results(SIZES['tiny'], tmp_path)
