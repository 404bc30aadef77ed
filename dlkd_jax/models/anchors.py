"""Closed-form retrieval: linear maps of sentences and frames into one space, from which an anchored student starts.

Everything here is numpy, a function of arrays alone, and takes seconds on a CPU; frames may be float32, all else is
float64. Two anchors are fitted:

- `exploration`: a ridge regression of sentences onto the frames of their own videos in a whitened space, where frames
  that fit a sentence are weighted by expectation and maximisation. Needs pairs, and no teacher.
- `inheritance`: linear distillation; sentences are mapped onto the teacher's sentences, frames onto its frames. Needs
  a teacher, and no pairs.

`teacher_exploration` and `teacher_inheritance` are the same with the teacher's own sentences and frames in place of the
student's. The latter is the teacher itself, centred, in its metric; it needs neither pairs nor a fit.

Every anchor also gives the vector of every caption as predicted without the captions of its own video
(`Anchor.held_out`), in closed form: what is trained on top of an anchor must see the anchor as wrong as it is on new
captions.

Sizes: V videos with F frames in all, N captions, Dq features of a sentence, Dv of a frame, d of the common space.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from dlkd_jax.vectors import unit

SMOOTHING = 1.0  # Standard deviation of the smoothing in time, in frames.
KEPT = 0.25  # Share of a video's mean in the target of a caption; the rest is of the frames that fit it.
SHARPNESS = 0.05  # Temperature of the weights of the frames, in cosine.
FRAME_RIDGE = 1.0  # Ridge of the map of student frames onto those of the teacher.
TEACHER_FLOOR = 0.1  # Floor of the eigenvalues in the teacher's metric, as a share of the largest.
_TINY = 1e-12
TEACHER = 'teacher_'  # The beginning of the names of branches that see the teacher's features.


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
  """Videos with their captions, and what the fits on them share, made once.

  Attributes:
    frames: `[F, Dv]`, video after video.
    counts: `[V]` frames of each video, at least 1.
    sentences: `[N, Dq]`, the captions in any order.
    owners: `[N]` video of each caption.
    teacher_frames: `[F, Dt]` of the same frames; None without a teacher.
    teacher_sentences: `[N, Dt]`; None without a teacher.
  """

  frames: np.ndarray
  counts: np.ndarray
  sentences: np.ndarray
  owners: np.ndarray
  teacher_frames: np.ndarray | None = None
  teacher_sentences: np.ndarray | None = None

  def of(self, videos: np.ndarray) -> Corpus:
    """Returns some of the videos, in the order given, with their captions."""
    starts = np.cumsum(self.counts) - self.counts
    rows = np.concatenate([np.arange(starts[v], starts[v] + self.counts[v]) for v in videos])
    place = np.full(len(self.counts), -1)
    place[videos] = np.arange(len(videos))
    kept = np.flatnonzero(place[self.owners] >= 0)
    some = lambda array, index: None if array is None else array[index]  # noqa: E731
    return Corpus(
      self.frames[rows],
      self.counts[videos],
      self.sentences[kept],
      place[self.owners[kept]],
      some(self.teacher_frames, rows),
      some(self.teacher_sentences, kept),
    )

  def joined(self, other: Corpus) -> Corpus:
    """Returns the videos of both, with their captions."""
    both = lambda x, y: None if x is None or y is None else np.concatenate([x, y])  # noqa: E731
    return Corpus(
      both(self.frames, other.frames),
      both(self.counts, other.counts),
      both(self.sentences, other.sentences),
      both(self.owners, other.owners + len(self.counts)),
      both(self.teacher_frames, other.teacher_frames),
      both(self.teacher_sentences, other.teacher_sentences),
    )

  @functools.cached_property
  def as_taught(self) -> Corpus:
    """The same with the teacher's features in place of the student's.

    Raises:
      ValueError: there is no teacher.
    """
    if self.teacher_frames is None or self.teacher_sentences is None:
      raise ValueError('the corpus has no features of a teacher; fit the exploration anchor alone.')
    texts = self.teacher_sentences
    return Corpus(self.teacher_frames, self.counts, texts, self.owners, self.teacher_frames, texts)

  @functools.cached_property
  def inputs(self) -> tuple[np.ndarray, np.ndarray, float]:
    """Centred sentences of a mean square length of 1, so that one ridge suits all data; the mean; the scale."""
    mean = self.sentences.mean(axis=0)
    rows = self.sentences - mean
    scale = 1.0 / np.sqrt(max(np.mean(np.sum(rows**2, axis=1)), _TINY))
    return rows * scale, mean, float(scale)

  @functools.cached_property
  def smooth(self) -> tuple[np.ndarray, np.ndarray]:
    """Centred frames, smoothed in time, and the mean."""
    mean = self.frames.mean(axis=0)
    return smoothed(self.frames - mean, self.counts), mean

  @functools.cached_property
  def covariance(self) -> np.ndarray:
    """Of all smoothed frames, `[Dv, Dv]`."""
    return covariance(self.smooth[0])

  @functools.cached_property
  def mixed_covariance(self) -> np.ndarray:
    """That of the videos' means and that of all frames, each divided by its trace, added.

    The means of videos tell what differs between them; where they are few, all frames fill the directions they lack.
    """
    between = covariance(means(self.smooth[0], self.counts))
    return sum(each / max(np.trace(each), _TINY) for each in (between, self.covariance))

  @functools.cached_property
  def frame_regression(self) -> np.ndarray | None:
    """`[Dv, Dt]`, the ridge regression of the student's frames onto the teacher's; None where they are the same."""
    frames, taught = self.smooth[0], self.as_taught.smooth[0]
    if frames.shape == taught.shape and np.allclose(frames, taught):
      return None
    products, targets = (frames.T @ x for x in (frames, taught))
    return np.linalg.solve(products.astype(float) + FRAME_RIDGE * np.eye(frames.shape[1]), targets.astype(float))


class AnchorSettings(NamedTuple):
  """What is chosen for a data set.

  Attributes:
    ridge: of the maps of sentences, whose mean square length is 1.
    floor: of the eigenvalues of the whitened space, as a share of the largest.
    rounds: of expectation and maximisation; 0: the mean of a video's frames is the target of its captions.
    power: of the whitening of the teacher's space, 0 to 1.
    size: d at most.
  """

  ridge: float = 10.0
  floor: float = 0.05
  rounds: int = 1
  power: float = 0.25
  size: int = 256


class Anchor(NamedTuple):
  """A pair of linear maps: a sentence s goes to (s − mean)·scale·map, a frame x to (x − mean)·map, then to length 1.

  Attributes:
    sentence_mean: `[Dq]`.
    sentence_scale: brings centred sentences of the training to a mean square length of 1.
    sentence_map: `[Dq, d]`.
    frame_mean: `[Dv]`.
    frame_map: `[Dv, d]`.
    held_out: `[N, d]`, of every caption of the training, predicted without its own video's captions; not of length 1.
  """

  sentence_mean: np.ndarray
  sentence_scale: float
  sentence_map: np.ndarray
  frame_mean: np.ndarray
  frame_map: np.ndarray
  held_out: np.ndarray

  def queries(self, sentences: np.ndarray) -> np.ndarray:
    """Maps `[N, Dq]` to unit rows `[N, d]`."""
    return unit((sentences - self.sentence_mean) * self.sentence_scale @ self.sentence_map)

  def video_frames(self, frames: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Maps `[F, Dv]` to unit rows `[F, d]`, smoothed in time within each video."""
    mean, matrix = (x.astype(frames.dtype) for x in (self.frame_mean, self.frame_map))
    return unit(smoothed((frames - mean) @ matrix, counts))


def time_weights(deviation: float = SMOOTHING) -> np.ndarray:
  """Returns the weights `[2r + 1]` of the frames −r … r around one: a Gaussian, cut at four deviations, of sum 1."""
  reach = np.arange(-int(4 * deviation + 0.5), int(4 * deviation + 0.5) + 1)
  weights = np.exp(-0.5 * (reach / deviation) ** 2)
  return weights / weights.sum()


def smoothed(frames: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Smooths `[F, D]` in time within each video; beyond its ends the first and the last frame go on."""
  ends, weights = np.cumsum(counts), time_weights()
  index, reach, weights = np.arange(len(frames)), len(weights) // 2, weights.astype(frames.dtype)
  first, last = np.repeat(ends - counts, counts), np.repeat(ends - 1, counts)
  return sum(w * frames[np.clip(index + k - reach, first, last)] for k, w in enumerate(weights))


def means(frames: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns `[V, D]`, the mean of each video's frames."""
  return np.add.reduceat(frames, np.cumsum(counts) - counts) / counts[:, None]


def covariance(rows: np.ndarray) -> np.ndarray:
  """Returns `[D, D]`, divided by the number of rows."""
  rows = rows - rows.mean(axis=0)
  return (rows.T @ rows / len(rows)).astype(float)


def whitening(covariances: np.ndarray, floor: float, power: float = 1.0, size: int | None = None) -> np.ndarray:
  """Returns `[D, d]`: the eigenvectors e_i of the largest eigenvalues l_i, times (l_i + floor·l_1)^(−power/2)."""
  values, vectors = np.linalg.eigh(covariances)
  values, vectors = np.maximum(values[::-1], 0.0)[:size], vectors[:, ::-1][:, :size]
  return vectors * (values + floor * values[0] + _TINY) ** (-power / 2)


def ridge_solver(inputs: np.ndarray, ridge: float) -> np.ndarray:
  """Returns M `[D, N]`, so that M·Y is the ridge regression of targets Y `[N, d]` on `inputs` `[N, D]`."""
  return np.linalg.solve(inputs.T @ inputs + ridge * np.eye(inputs.shape[1]), inputs.T)


def leave_video_out(inputs: np.ndarray, solver: np.ndarray, targets: np.ndarray, owners: np.ndarray) -> np.ndarray:
  """Predicts every caption by the regression on the captions of all other videos, without fitting it again.

  With B the captions of a video and H = S·M, the error of the held-out prediction is (I − H_BB)⁻¹ (Y_B − (H·Y)_B).

  Args:
    inputs: S `[N, D]`.
    solver: M `[D, N]`, of these inputs.
    targets: Y `[N, d]`.
    owners: `[N]` video of each caption.
  """
  found, predicted = np.empty_like(targets), inputs @ (solver @ targets)
  for own in groups(owners):
    block = np.eye(len(own)) - inputs[own] @ solver[:, own]
    found[own] = targets[own] - np.linalg.solve(block, targets[own] - predicted[own])
  return found


def groups(owners: np.ndarray) -> list[np.ndarray]:
  """Returns the captions of each video that has any, in the order of the videos."""
  order = np.argsort(owners, kind='stable')
  return np.split(order, np.flatnonzero(np.diff(owners[order])) + 1) if len(order) else []


def weighted_targets(
  queries: np.ndarray, frames: np.ndarray, counts: np.ndarray, owners: np.ndarray, first: np.ndarray
) -> np.ndarray:
  """Returns `[N, d]` targets: KEPT·first + (1 − KEPT)·Σ_i w_i x_i, w the softmax of cos(query, x_i) / SHARPNESS.

  Args:
    queries: `[N, d]`.
    frames: x `[F, d]`.
    counts: `[V]` frames of each video.
    owners: `[N]` video of each caption; the sums go over its frames.
    first: `[N, d]` targets to begin with.
  """
  starts, found, queries, directions = np.cumsum(counts) - counts, np.empty_like(first), unit(queries), unit(frames)
  for own in groups(owners):
    video = owners[own[0]]
    rows = slice(starts[video], starts[video] + counts[video])
    logits = queries[own] @ directions[rows].T / SHARPNESS
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    found[own] = KEPT * first[own] + (1.0 - KEPT) * (weights @ frames[rows])
  return found


@functools.lru_cache(maxsize=5)  # Settings are tried on five folds, most of them with one floor.
def whitened(corpus: Corpus, floor: float, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the smoothed frames of a corpus in its whitened space, `[F, d]`, and the map there, `[Dv, d]`."""
  frame_map = whitening(corpus.mixed_covariance, floor, size=size)
  return corpus.smooth[0] @ frame_map.astype(corpus.frames.dtype), frame_map


def exploration(corpus: Corpus, settings: AnchorSettings) -> Anchor:
  """Fits the anchor that learns from pairs alone; see the module's docstring."""
  inputs, mean, scale = corpus.inputs
  frames, frame_map = whitened(corpus, settings.floor, settings.size)
  solver = ridge_solver(inputs, settings.ridge)
  targets = first = means(frames, corpus.counts)[corpus.owners].astype(float)
  for _ in range(settings.rounds):
    predicted = leave_video_out(inputs, solver, targets, corpus.owners)
    targets = weighted_targets(predicted, frames, corpus.counts, corpus.owners, first)
  held_out = leave_video_out(inputs, solver, targets, corpus.owners)
  return Anchor(mean, scale, solver @ targets, corpus.smooth[1], frame_map, held_out)


def inheritance(corpus: Corpus, settings: AnchorSettings) -> Anchor:
  """Fits the anchor that learns from the teacher alone; see the module's docstring.

  Raises:
    ValueError: the corpus has no teacher.
  """
  taught = corpus.as_taught
  inputs, mean, scale = corpus.inputs
  metric = whitening(taught.covariance, TEACHER_FLOOR, settings.power, settings.size)
  frame_map = metric if corpus.frame_regression is None else corpus.frame_regression @ metric
  if corpus.sentences is corpus.teacher_sentences:  # The teacher needs no regression onto itself.
    return Anchor(mean, scale, metric, corpus.smooth[1], frame_map, inputs @ metric)
  solver, targets = ridge_solver(inputs, settings.ridge), taught.inputs[0] @ metric
  held_out = leave_video_out(inputs, solver, targets, corpus.owners)
  return Anchor(mean, scale, solver @ targets, corpus.smooth[1], frame_map, held_out)


_FITS = {'inheritance': inheritance, 'exploration': exploration}
BRANCHES = (*_FITS, *(TEACHER + name for name in _FITS))


def seen_by(branch: str, corpus: Corpus) -> Corpus:
  """Returns a corpus with the features that a branch sees as those of the student."""
  return corpus.as_taught if branch.startswith(TEACHER) else corpus


def fit(branch: str, corpus: Corpus, settings: AnchorSettings) -> Anchor:
  """Fits the anchor of a branch, one of `BRANCHES`.

  Raises:
    ValueError: it needs a teacher, and the corpus has none.
  """
  return _FITS[branch.removeprefix(TEACHER)](seen_by(branch, corpus), settings)


def scores(branch: str, anchor: Anchor, corpus: Corpus) -> np.ndarray:
  """Returns `[N, V]`, for every caption and video of a corpus the largest cosine over the video's frames."""
  corpus = seen_by(branch, corpus)
  frames = anchor.video_frames(corpus.frames, corpus.counts)
  products = anchor.queries(corpus.sentences).astype(frames.dtype) @ frames.T
  return np.maximum.reduceat(products, np.cumsum(corpus.counts) - corpus.counts, axis=1)
