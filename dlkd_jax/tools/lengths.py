"""Lengths of records like those of the real data sets, for benchmarks and plans without them.

These are models, not the data sets: numbers drawn from simple distributions whose means and limits are near published
ones. A benchmark that uses them says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlkd_jax.data.sources import Lengths

TVR_VIDEOS, ACTIVITYNET_VIDEOS = 17_435, 9_043


def tvr_like(videos: int = TVR_VIDEOS, seed: int = 0) -> Lengths:
  """Returns lengths like TVR's: frames normal(50, 15) from 1 to 128, 5 captions a video, about 13 words each."""
  rng = np.random.default_rng(seed)
  frames = np.clip(np.rint(rng.normal(50, 15, videos)), 1, 128).astype(np.int64)
  captions = np.full(videos, 5)
  return Lengths(frames, frames, captions, _words(rng, int(captions.sum())))


def activitynet_like(videos: int = ACTIVITYNET_VIDEOS, seed: int = 0) -> Lengths:
  """Returns lengths like ActivityNet's: frames gamma of mean 120, a third above 128; about 3.7 captions a video."""
  rng = np.random.default_rng(seed)
  frames = np.clip(np.rint(rng.gamma(3, 40, videos)), 4, 1024).astype(np.int64)
  captions = np.clip(np.rint(rng.normal(3.7, 1.5, videos)), 1, 20).astype(np.int64)
  return Lengths(frames, frames, captions, _words(rng, int(captions.sum())))


def full(videos: int = TVR_VIDEOS, seed: int = 0) -> Lengths:
  """Returns the longest that TVR's recipe takes: 128 frames, 5 captions of 30 words, nothing to gain by packing."""
  del seed
  frames = np.full(videos, 128)
  captions = np.full(videos, 5)
  return Lengths(frames, frames, captions, np.full(5 * videos, 30))


def _words(rng: np.random.Generator, captions: int) -> np.ndarray:
  return np.clip(np.rint(rng.gamma(9, 13 / 9, captions)), 3, 60).astype(np.int64)


MODELS: dict[str, Callable[..., Lengths]] = {'tvr': tvr_like, 'activitynet': activitynet_like, 'full': full}
# Feature sizes Dv, Dq, Dt of each.
SIZES: dict[str, tuple[int, int, int]] = {
  'tvr': (3072, 768, 512),
  'activitynet': (1024, 1024, 512),
  'full': (3072, 768, 512),
}
