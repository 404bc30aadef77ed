"""A ridge regression from sentence vectors to frame features: the baseline that a trained student has to beat.

W = argmin Σ‖(x − x̄)W − (y − ȳ)‖² + λ‖W‖². A video scores the largest cosine of its frames with the prediction, both
taken from ȳ; λ is chosen by SumR on validation. Sizes: Q sentences, V videos, S features of a sentence, D of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dlkd_jax.retrieval.metrics import metrics_from_ranks, rank_own_videos
from dlkd_jax.tools.composites.joining import Composite
from dlkd_jax.vectors import unit

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Ridge(NamedTuple):
  """A fitted regression: weights `[S, D]`, means `[S]` and `[D]`."""

  weights: np.ndarray
  sentence_mean: np.ndarray
  frame_mean: np.ndarray


def fit(sentences: np.ndarray, targets: np.ndarray, penalty: float) -> Ridge:
  """Fits sentence vectors `[Q, S]` to targets `[Q, D]`, in float64."""
  x_mean, y_mean = sentences.mean(0, dtype=np.float64), targets.mean(0, dtype=np.float64)
  x, y = sentences - x_mean, targets - y_mean
  return Ridge(np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y), x_mean, y_mean)


def scores(ridge: Ridge, sentences: np.ndarray, frames: list[np.ndarray]) -> np.ndarray:
  """Returns for sentences `[Q, S]` and videos of `[frames, D]` the largest cosine over the frames, `[Q, V]`."""
  predicted = unit((sentences - ridge.sentence_mean) @ ridge.weights)
  return np.stack([(predicted @ unit(x - ridge.frame_mean).T).max(1) for x in frames], 1)


def owners(videos: list[Composite]) -> np.ndarray:
  """Returns the number of the video of each sentence, video after video."""
  return np.repeat(np.arange(len(videos)), [len(video.clips) for video in videos])


def rank(ridge: Ridge, sentences: np.ndarray, frames: list[np.ndarray], videos: list[Composite]) -> np.ndarray:
  """Ranks composites for the sentences of their clips; returns the rank of each one's own, in the order of `owners`.

  Args:
    ridge: the regression.
    sentences: `[N, S]` of all clips.
    frames: `[n, D]` of each clip.
    videos: the gallery.
  """
  queries = [clip for video in videos for clip in video.clips]
  gallery = [np.concatenate([frames[clip] for clip in video.clips]) for video in videos]
  return rank_own_videos(scores(ridge, sentences[queries], gallery), owners(videos))


def targets(frames: list[np.ndarray], videos: list[Composite], moments: bool) -> tuple[list[int], np.ndarray]:
  """Returns the clip of every caption, and the mean features that it is fitted to `[Q, D]`.

  Args:
    frames: `[n, D]` of each clip.
    videos: to train on.
    moments: take the mean over the frames of the caption's moment; else over the video, which is all that a student
      is told.
  """
  queries = [clip for video in videos for clip in video.clips]
  means = np.stack([rows.mean(0) for rows in frames])
  if moments:
    return queries, means[queries]
  return queries, np.concatenate([np.tile(means[v.clips].mean(0), (len(v.clips), 1)) for v in videos])


def best(
  sentences: np.ndarray, frames: list[np.ndarray], videos: dict[str, list[Composite]], moments: bool
) -> tuple[float, np.ndarray]:
  """Fits on train, chooses λ on val, and ranks test; see `targets` for `moments`.

  Returns:
    λ and the ranks on test, as of `rank`.
  """
  queries, wanted = targets(frames, videos['train'], moments)
  fitted = {penalty: fit(sentences[queries], wanted, penalty) for penalty in PENALTIES}
  sums = {x: metrics_from_ranks(rank(fitted[x], sentences, frames, videos['val'])).sum_r for x in PENALTIES}
  chosen = max(PENALTIES, key=sums.get)
  return chosen, rank(fitted[chosen], sentences, frames, videos['test'])
