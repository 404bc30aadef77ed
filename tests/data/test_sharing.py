"""Shards get as many videos as each other, and as much work."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from dlkd_jax.data.sharing import share


@hypothesis.given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_video_goes_to_one_shard_within_its_places(videos, shards, seed):
  loads = np.random.default_rng(seed).integers(0, 50, (videos, 3))
  found = share(loads, shards)
  assert found.shape == (videos,) and np.array_equal(found, share(loads, shards))
  if videos:
    assert found.min() >= 0 and found.max() < shards
    assert np.bincount(found).max() <= -(-videos // shards)


def test_shares_are_balanced_in_every_resource():
  rng = np.random.default_rng(0)
  loads = np.stack([rng.integers(5, 128, 512), rng.integers(20, 90, 512), rng.integers(1, 8, 512)], axis=1)
  found = share(loads, 16)
  for resource in loads.T:
    held = np.bincount(found, resource)
    assert held.max() < 1.03 * held.mean()


def test_large_loads_do_not_overflow():
  found = share(np.full((6, 2), 2**40), 3)
  assert np.bincount(found).tolist() == [2, 2, 2]
