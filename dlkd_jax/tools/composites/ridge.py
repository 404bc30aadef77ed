"""A ridge regression from sentence vectors to frame features: the baseline that a trained student has to beat.

W = argmin Σ‖(x − x̄)W − (y − ȳ)‖² + λ‖W‖². A video scores the largest cosine of its frames with the prediction, both
taken from ȳ; λ is chosen by SumR on validation. Sizes: Q sentences, V videos, S features of a sentence, D of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dlkd_jax.retrieval.metrics import RetrievalMetrics, metrics_from_ranks, rank_own_videos
from dlkd_jax.tools.composites.joining import Composite

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
  predicted = _unit((sentences - ridge.sentence_mean) @ ridge.weights)
  return np.stack([(predicted @ _unit(x - ridge.frame_mean).T).max(1) for x in frames], 1)


def _unit(x: np.ndarray) -> np.ndarray:
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def evaluate(ridge: Ridge, sentences: np.ndarray, frames: np.ndarray, videos: list[Composite]) -> RetrievalMetrics:
  """Ranks composites for the sentences of their clips.

  Args:
    ridge: the regression.
    sentences: `[N, S]` of all clips.
    frames: `[N, F, D]` of all clips.
    videos: the gallery.
  """
  queries = [clip for video in videos for clip in video.clips]
  own = np.repeat(np.arange(len(videos)), [len(video.clips) for video in videos])
  gallery = [frames[video.clips].reshape(-1, frames.shape[-1]) for video in videos]
  return metrics_from_ranks(rank_own_videos(scores(ridge, sentences[queries], gallery), own))


def targets(frames: np.ndarray, videos: list[Composite], moments: bool) -> tuple[list[int], np.ndarray]:
  """Returns the clip of every caption, and the mean features that it is fitted to `[Q, D]`.

  Args:
    frames: `[N, F, D]` of all clips.
    videos: to train on.
    moments: take the mean over the frames of the caption's moment; else over the video, which is all that a student
      is told.
  """
  queries = [clip for video in videos for clip in video.clips]
  means = frames.mean(1)
  if moments:
    return queries, means[queries]
  return queries, np.concatenate([np.tile(means[v.clips].mean(0), (len(v.clips), 1)) for v in videos])


def best(
  sentences: np.ndarray, frames: np.ndarray, videos: dict[str, list[Composite]], moments: bool
) -> tuple[float, RetrievalMetrics]:
  """Fits on train, chooses λ on val, and evaluates on test; see `targets` for `moments`.

  Returns:
    λ and the metrics on test.
  """
  queries, wanted = targets(frames, videos['train'], moments)
  fitted = {penalty: fit(sentences[queries], wanted, penalty) for penalty in PENALTIES}
  chosen = max(PENALTIES, key=lambda x: evaluate(fitted[x], sentences, frames, videos['val']).sum_r)
  return chosen, evaluate(fitted[chosen], sentences, frames, videos['test'])
