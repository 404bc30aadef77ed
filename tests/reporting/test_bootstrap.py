"""Bootstrap intervals against numpy's own resampling, scipy's, and what must hold."""

import numpy as np
import pytest
import scipy.stats

from dlkd_jax.reporting import bootstrap
from dlkd_jax.retrieval.metrics import metrics_from_ranks


@pytest.fixture
def ranks():
  return np.random.default_rng(0).geometric(0.05, 400)


@pytest.mark.parametrize('clustered', [False, True])
def test_metrics_of_each_sample_are_those_of_the_repeated_captions(ranks, clustered):
  """The plain way: repeat each caption as often as it was drawn, and evaluate."""
  clusters = np.arange(400) // 3 if clustered else None
  values = bootstrap.caption_values(ranks)
  (counts,) = bootstrap.sample_counts(400, clusters, 7, seed=3)
  medians = bootstrap.resampled_medians(ranks, counts)
  for sample in range(7):
    plain = metrics_from_ranks(np.repeat(ranks, counts[sample].astype(int))).as_dict()
    assert plain['median_rank'] == medians[sample]
    for name, each in values.items():
      mean = bootstrap.resampled_means(each[:, None], counts)[sample, 0]
      np.testing.assert_allclose(mean, plain[name], rtol=1e-12)


def test_videos_are_drawn_whole():
  clusters = np.array([5, 5, 9, 9, 9, 2])
  for counts in bootstrap.sample_counts(6, clusters, 50):
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 2] == counts[:, 3]).all()
    np.testing.assert_array_equal(counts[:, [0, 2, 5]].sum(axis=1), 3)  # Three videos in each sample.


def test_caption_draws_keep_the_size():
  for counts in bootstrap.sample_counts(30, None, 20):
    np.testing.assert_array_equal(counts.sum(axis=1), 30)


def test_intervals_agree_with_scipy(ranks):
  ours = bootstrap.rank_intervals({'fused': ranks}, samples=20_000)['fused']
  for name, statistic in (('R@10', lambda x: 100 * np.mean(x <= 10)), ('mAP', lambda x: np.mean(1 / x))):
    found = scipy.stats.bootstrap(
      (ranks,), statistic, n_resamples=20_000, method='percentile', vectorized=False, rng=np.random.default_rng(1)
    ).confidence_interval
    scale = found.high - found.low
    assert abs(ours[name].low - found.low) < 0.05 * scale and abs(ours[name].high - found.high) < 0.05 * scale


def test_interval_of_a_mean_is_the_normal_one():
  values = np.random.default_rng(2).normal(3.0, 2.0, 5000)
  (interval,) = bootstrap.mean_intervals(values[:, None], samples=4000)
  error = 1.96 * values.std() / np.sqrt(5000)
  np.testing.assert_allclose(interval, [values.mean() - error, values.mean() + error], atol=0.1 * error)


def test_it_covers_the_truth_as_often_as_it_says():
  random, covered = np.random.default_rng(4), 0
  for seed in range(200):
    hits = random.random(150) < 0.3
    (interval,) = bootstrap.mean_intervals(hits[:, None], samples=400, seed=seed)
    covered += interval.low <= 0.3 <= interval.high
  assert 180 <= covered <= 198  # 190 expected, standard deviation 3.


def test_clusters_widen_the_interval_of_captions_that_go_together():
  per_video = np.random.default_rng(5).random(100) < 0.5
  values = np.repeat(per_video, 4)[:, None].astype(float)
  (alone,) = bootstrap.mean_intervals(values)
  (together,) = bootstrap.mean_intervals(values, np.repeat(np.arange(100), 4))
  ratio = (together.high - together.low) / (alone.high - alone.low)
  assert 1.7 < ratio < 2.3  # Four equal captions count as one: twice as wide.


def test_the_same_seed_gives_the_same_and_a_constant_no_width(ranks):
  once, again = (bootstrap.rank_intervals({'a': ranks}, samples=50) for _ in range(2))
  assert once == again
  assert bootstrap.mean_intervals(np.full((9, 1), 4.0))[0] == (4.0, 4.0)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='at least one caption'):
    next(bootstrap.sample_counts(0))
  with pytest.raises(ValueError, match='one cluster for each'):
    next(bootstrap.sample_counts(3, np.arange(2)))
  with pytest.raises(ValueError, match='between 0 and 1'):
    bootstrap.percentiles(np.zeros((3, 1)), 95)
