"""The paired test against scipy's and against counting every permutation; Holm against its definition."""

import itertools

import numpy as np
import pytest
import scipy.stats

from dlkd_jax.reporting import bootstrap, significance


def test_p_is_the_share_of_all_permutations():
  """Few videos: every choice of sides can be counted."""
  differences = np.array([3.0, -1.0, 2.0, 4.0, 1.0, 2.5, 0.5, -0.5])
  clusters = np.array([0, 0, 1, 2, 2, 3, 4, 5])
  sums = np.bincount(clusters, differences)
  every = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=6)]
  exact = np.mean(np.array(every) >= abs(sums.sum()) - 1e-9)
  p = significance.permutation_p(differences[:, None], clusters, permutations=40_000)
  assert abs(p[0] - exact) < 0.01


def test_p_agrees_with_scipy():
  random = np.random.default_rng(0)
  a = random.normal(0.15, 1.0, 80)
  ours = significance.permutation_p(a[:, None], permutations=20_000)[0]
  found = scipy.stats.permutation_test(
    (a, np.zeros(80)),
    lambda x, y, axis: np.mean(x - y, axis=axis),
    permutation_type='samples',
    n_resamples=20_000,
    rng=np.random.default_rng(1),
  )
  assert abs(ours - found.pvalue) < 0.02


def test_equal_sides_and_far_apart_ones():
  ranks = np.random.default_rng(1).integers(1, 200, 300)
  values = {'a': bootstrap.caption_values(ranks), 'b': bootstrap.caption_values(ranks)}
  values['c'] = bootstrap.caption_values(np.maximum(ranks // 3, 1))
  videos = np.arange(300) // 2
  found = significance.compare(values, [('a', 'b'), ('c', 'a')], videos, permutations=2000, samples=200)
  for comparison in found:
    if comparison.second == 'b':
      assert comparison.difference == 0 and comparison.p == comparison.corrected == 1.0
    elif comparison.metric in ('SumR', 'mAP'):
      assert comparison.interval.low > 0 and comparison.p == 1 / 2001 and comparison.corrected < 0.05
    assert comparison.interval.low <= comparison.difference <= comparison.interval.high
    assert comparison.corrected >= comparison.p


def test_false_findings_are_as_rare_as_promised():
  random = np.random.default_rng(3)
  p = [significance.permutation_p(random.normal(size=(40, 1)), permutations=199, seed=i)[0] for i in range(300)]
  assert np.mean(np.array(p) <= 0.05) < 0.09  # 0.05 expected, standard deviation 0.013.


def test_holm():
  np.testing.assert_allclose(significance.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
  np.testing.assert_allclose(significance.holm([0.5, 0.9]), [1.0, 1.0])
  assert significance.holm([]).shape == (0,)


def test_exchanging_the_sides_changes_the_sign_alone():
  random = np.random.default_rng(4)
  values = {name: bootstrap.caption_values(random.integers(1, 50, 60)) for name in 'ab'}
  one = significance.compare(values, [('a', 'b')], samples=100, permutations=500)
  other = significance.compare(values, [('b', 'a')], samples=100, permutations=500)
  for x, y in zip(one, other, strict=True):
    assert (x.difference, x.p) == (-y.difference, y.p)
    np.testing.assert_allclose(x.interval, [-y.interval.high, -y.interval.low])


def test_other_captions_are_refused():
  values = {'a': bootstrap.caption_values(np.arange(1, 4)), 'b': bootstrap.caption_values(np.arange(1, 5))}
  with pytest.raises(ValueError, match='a has 3 captions and b 4'):
    significance.compare(values, [('a', 'b')])
