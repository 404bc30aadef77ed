"""Ranks and metrics against plain counting, the authors' numbers, and their stated properties; the final table."""

import types

import numpy as np
import pytest

from dlkd_jax import tables
from dlkd_jax.retrieval import metrics as m
from tests.options import WEIGHTS
from tests.paths import golden
from tests.retrieval.worlds import in_release_order


def _loop_rank(row, own):
  """Counts by hand; never sorts."""
  rank = 1
  for column, score in enumerate(row):
    if column != own and score >= row[own]:
      rank += 1
  return rank


def _random(captions=37, videos=23, seed=0, levels=None):
  rng = np.random.default_rng(seed)
  scores = rng.standard_normal((captions, videos)).astype(np.float32)
  if levels:  # Few distinct values, so that there are many ties.
    scores = np.round(scores * levels).astype(np.float32)
  return scores, rng.integers(videos, size=captions)


@pytest.mark.parametrize('levels', [None, 1, 3])
def test_ranks_agree_with_counting(levels):
  scores, own = _random(levels=levels)
  expected = [_loop_rank(row, column) for row, column in zip(scores, own, strict=True)]
  np.testing.assert_array_equal(m.rank_own_videos(scores, own), expected)


def test_metrics_agree_with_plain_formulas():
  ranks = np.array([1, 1, 3, 7, 12, 250])
  found = m.metrics_from_ranks(ranks)
  assert found.r1 == pytest.approx(100 * 2 / 6)
  assert found.r5 == pytest.approx(50.0)
  assert found.r10 == pytest.approx(100 * 4 / 6)
  assert found.r100 == pytest.approx(100 * 5 / 6)
  assert found.sum_r == pytest.approx(100 * (2 + 3 + 4 + 5) / 6)
  assert found.median_rank == 5.0
  assert found.mean_rank == pytest.approx(274 / 6)
  assert found.mean_ap == pytest.approx(sum(1 / r for r in ranks) / 6)
  assert found.as_dict('val/')['val/SumR'] == found.sum_r
  assert len(found.as_dict()) == 8


def test_agrees_with_the_authors_metrics():
  data = np.load(golden('metrics.npz'), allow_pickle=False)
  found = m.metrics_from_ranks(m.rank_own_videos(data['scores'], data['ground_truth']))
  np.testing.assert_allclose(in_release_order(found), data['metrics'], rtol=1e-12)


def test_a_constant_scorer_ranks_last():
  ranks = m.rank_own_videos(np.zeros((4, 9), np.float32), np.array([0, 3, 8, 8]))
  np.testing.assert_array_equal(ranks, 9)


@pytest.mark.parametrize('levels', [None, 1])
def test_the_order_of_the_gallery_does_not_matter(levels):
  scores, own = _random(levels=levels)
  order = np.random.default_rng(5).permutation(scores.shape[1])
  moved = np.argsort(order)[own]
  np.testing.assert_array_equal(m.rank_own_videos(scores, own), m.rank_own_videos(scores[:, order], moved))


@pytest.mark.parametrize('row_block', [1, 5, 36, 37, 1000])
def test_the_row_block_does_not_matter(monkeypatch, row_block):
  scores, own = _random(levels=2)
  pair = {'inheritance': scores, 'exploration': scores[::-1].copy()}
  expected = m.rank_fused(pair, WEIGHTS, own)
  monkeypatch.setattr(m, '_ROW_BLOCK_BYTES', 4 * scores.shape[1] * row_block)
  np.testing.assert_array_equal(m.rank_fused(pair, WEIGHTS, own), expected)


def test_fusion_is_the_weighted_sum():
  a, own = _random(seed=1)
  b, _ = _random(seed=2)
  pair = {'inheritance': a, 'exploration': b, 'teacher': np.full_like(a, np.nan)}
  np.testing.assert_array_equal(m.rank_fused(pair, WEIGHTS, own), m.rank_own_videos(0.7 * a + 0.3 * b, own))
  np.testing.assert_array_equal(a, _random(seed=1)[0])  # The inputs were not written to.


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_named(monkeypatch, bad):
  scores, own = _random()
  scores[30, 4] = bad
  monkeypatch.setattr(m, '_ROW_BLOCK_BYTES', 4 * scores.shape[1] * 8)
  with pytest.raises(ValueError, match='caption 30 and video 4'):
    m.rank_own_videos(scores, own)


def test_bad_shapes_and_columns_are_named():
  scores, own = _random()
  with pytest.raises(ValueError, match='37 captions'):
    m.rank_own_videos(scores, own[:-1])
  with pytest.raises(ValueError, match='caption 0 names column 23'):
    m.rank_own_videos(scores, np.full_like(own, 23))
  with pytest.raises(ValueError, match='share one shape'):
    m.rank_fused({'a': scores, 'b': scores[:, 1:]}, {'a': 1.0, 'b': 1.0}, own)
  with pytest.raises(ValueError, match='weights are for'):
    m.rank_fused({'a': scores}, {'b': 1.0}, own)
  with pytest.raises(ValueError, match='at least one rank'):
    m.metrics_from_ranks(np.array([], int))
  with pytest.raises(ValueError, match='counted from 1'):
    m.metrics_from_ranks(np.array([0, 1]))


@pytest.mark.parametrize('videos', [1, 7, 150, 1334])
def test_chance_is_the_mean_over_all_ranks(videos):
  expected = m.metrics_from_ranks(np.arange(1, videos + 1))
  for name, value in m.chance_metrics(videos).as_dict().items():
    assert value == pytest.approx(expected.as_dict()[name]), name


_METRICS = {
  'inheritance': m.metrics_from_ranks(np.array([1, 2, 30, 900])),
  'fused': m.RetrievalMetrics(3.14, 11.5, 19.2, 70.1, 45.0, 120.25, 0.0812),
  'teacher': m.metrics_from_ranks(np.array([4, 5, 6])),
  'another': m.metrics_from_ranks(np.array([1])),
}


@pytest.mark.parametrize(('videos', 'sum_r', 'found'), [(303, 47.9, True), (303, 66.6, False), (1334, 14, False)])
def test_branches_at_chance_are_found(videos, sum_r, found):
  """Of galleries of 303 and 1,334 videos, where chance has 38.3 and 8.7."""
  values = {'good': 300.0, 'branch': sum_r, 'teacher': 0.0, 'fused': 0.0}
  rated = {name: types.SimpleNamespace(sum_r=value) for name, value in values.items()}
  weak = m.at_chance(rated, videos)
  assert weak == ({'branch': m.chance_metrics(videos).sum_r} if found else {})
  assert m.at_chance({'b': m.chance_metrics(videos)}, videos)


def test_text_is_aligned_and_complete():
  lines = tables.as_text(m.table_rows(_METRICS, 1334)).split('\n')
  assert lines[0].split() == ['R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'MedR', 'MeanR', 'mAP']
  labels = ['teacher alone', 'inheritance', 'another', 'fused', 'chance']
  assert [line[:13].strip() for line in lines[2:]] == labels
  assert len({len(line) for line in lines}) == 1
  fused = next(line for line in lines if line.startswith('fused'))
  assert fused.split()[1:] == ['3.1', '11.5', '19.2', '70.1', '103.9', '45.0', '120.2', '0.0812']


def test_markdown_has_one_cell_a_column():
  lines = tables.as_markdown(m.table_rows(_METRICS, 1334)).split('\n')
  assert {line.count('|') for line in lines} == {10}
  assert lines[0].split(' | ')[1] == 'R@1'
  assert lines[-1].startswith('| chance | 0.1 | 0.4 | 0.7 | 7.5 | 8.7 | 667.5 | 667.5 |')


def test_an_empty_gallery_has_no_chance():
  with pytest.raises(ValueError, match='at least one video'):
    m.table_rows(_METRICS, 0)
