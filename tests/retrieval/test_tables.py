"""The final table, as text and as Markdown."""

import numpy as np
import pytest

from dlkd_jax.retrieval.metrics import RetrievalMetrics, metrics_from_ranks
from dlkd_jax.retrieval.tables import markdown_table, text_table

_METRICS = {
  'inheritance': metrics_from_ranks(np.array([1, 2, 30, 900])),
  'fused': RetrievalMetrics(3.14, 11.5, 19.2, 70.1, 45.0, 120.25, 0.0812),
  'teacher': metrics_from_ranks(np.array([4, 5, 6])),
  'another': metrics_from_ranks(np.array([1])),
}


def test_text_is_aligned_and_complete():
  lines = text_table(_METRICS, 1334).split('\n')
  assert lines[0].split() == ['R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'MedR', 'MeanR', 'mAP']
  labels = ['teacher alone', 'inheritance', 'fused', 'another', 'chance']
  assert [line[:13].strip() for line in lines[2:]] == labels
  assert len({len(line) for line in lines}) == 1
  fused = next(line for line in lines if line.startswith('fused'))
  assert fused.split()[1:] == ['3.1', '11.5', '19.2', '70.1', '103.9', '45.0', '120.2', '0.0812']


def test_markdown_has_one_cell_a_column():
  lines = markdown_table(_METRICS, 1334).split('\n')
  assert {line.count('|') for line in lines} == {10}
  assert lines[0].split(' | ')[1] == 'R@1'
  assert lines[-1].startswith('| chance | 0.1 | 0.4 | 0.7 | 7.5 | 8.7 | 667.5 | 667.5 |')


def test_an_empty_gallery_has_no_chance():
  with pytest.raises(ValueError, match='at least one video'):
    text_table(_METRICS, 0)
