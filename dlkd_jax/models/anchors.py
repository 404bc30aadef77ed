"""Closed-form retrieval: linear maps of sentences and frames into one space, from which an anchored student starts.

Everything here is numpy in float64, a function of arrays alone, and takes seconds on a CPU. Two anchors are fitted:

- `exploration`: a ridge regression of sentences onto the frames of their own videos in a whitened space, where frames
  that fit a sentence are weighted by expectation and maximisation. Needs pairs, and no teacher.
- `inheritance`: linear distillation; sentences are mapped onto the teacher's sentences, frames onto its frames. Needs
  a teacher, and no pairs.

Either also gives the vector of every caption as predicted without the captions of its own video (`Anchor.held_out`), in
closed form: what is trained on top of an anchor must see the anchor as wrong as it is on new captions.

Sizes: V videos with F frames in all, N captions, Dq features of a sentence, Dv of a frame, d of the common space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

SMOOTHING = 1.0  # Standard deviation of the smoothing in time, in frames.
KEPT = 0.25  # Share of a video's mean in the target of a caption; the rest is of the frames that fit it.
SHARPNESS = 0.05  # Temperature of the weights of the frames, in cosine.
FRAME_RIDGE = 1.0  # Ridge of the map of student frames onto those of the teacher.
TEACHER_FLOOR = 0.1  # Floor of the eigenvalues in the teacher's metric, as a share of the largest.
_TEMPERATURES = np.geomspace(0.02, 5.0, 25)  # Of z-scores, for the likelihood of a ranking.
_TINY = 1e-12


class Corpus(NamedTuple):
  """Videos with their captions.

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


class Settings(NamedTuple):
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
    return unit(smoothed((frames - self.frame_mean) @ self.frame_map, counts))


def unit(rows: np.ndarray) -> np.ndarray:
  """Returns rows of length 1; rows of zeros stay."""
  return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), _TINY)


def time_weights(deviation: float = SMOOTHING) -> np.ndarray:
  """Returns the weights `[2r + 1]` of the frames −r … r around one: a Gaussian, cut at four deviations, of sum 1."""
  reach = np.arange(-int(4 * deviation + 0.5), int(4 * deviation + 0.5) + 1)
  weights = np.exp(-0.5 * (reach / deviation) ** 2)
  return weights / weights.sum()


def smoothed(frames: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Smooths `[F, D]` in time within each video; beyond its ends the first and the last frame go on."""
  ends, weights = np.cumsum(counts), time_weights()
  index, reach = np.arange(len(frames)), len(weights) // 2
  first, last = np.repeat(ends - counts, counts), np.repeat(ends - 1, counts)
  return sum(w * frames[np.clip(index + k - reach, first, last)] for k, w in enumerate(weights))


def means(frames: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns `[V, D]`, the mean of each video's frames."""
  return np.add.reduceat(frames, np.cumsum(counts) - counts) / counts[:, None]


def covariance(rows: np.ndarray) -> np.ndarray:
  """Returns `[D, D]`, divided by the number of rows."""
  rows = rows - rows.mean(axis=0)
  return rows.T @ rows / len(rows)


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


def _centred_sentences(sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
  """Returns centred rows of a mean square length of 1, so that one ridge suits all data; the mean; the scale."""
  mean = sentences.mean(axis=0)
  rows = sentences - mean
  scale = 1.0 / np.sqrt(max(np.mean(np.sum(rows**2, axis=1)), _TINY))
  return rows * scale, mean, float(scale)


def exploration(corpus: Corpus, settings: Settings) -> Anchor:
  """Fits the anchor that learns from pairs alone; see the module's docstring."""
  inputs, mean, scale = _centred_sentences(corpus.sentences)
  frame_mean = corpus.frames.mean(axis=0)
  frames = smoothed(corpus.frames - frame_mean, corpus.counts)
  # The means of videos tell what differs between them; where they are few, all frames fill the directions they lack.
  between, all_frames = covariance(means(frames, corpus.counts)), covariance(frames)
  mixed = between / max(np.trace(between), _TINY) + all_frames / max(np.trace(all_frames), _TINY)
  frame_map = whitening(mixed, settings.floor, size=settings.size)
  frames = frames @ frame_map
  solver = ridge_solver(inputs, settings.ridge)
  targets = first = means(frames, corpus.counts)[corpus.owners]
  for _ in range(settings.rounds):
    predicted = leave_video_out(inputs, solver, targets, corpus.owners)
    targets = weighted_targets(predicted, frames, corpus.counts, corpus.owners, first)
  held_out = leave_video_out(inputs, solver, targets, corpus.owners)
  return Anchor(mean, scale, solver @ targets, frame_mean, frame_map, held_out)


def inheritance(corpus: Corpus, settings: Settings) -> Anchor:
  """Fits the anchor that learns from the teacher alone; see the module's docstring.

  Raises:
    ValueError: the corpus has no teacher.
  """
  if corpus.teacher_frames is None or corpus.teacher_sentences is None:
    raise ValueError('the corpus has no features of a teacher; fit the exploration anchor alone.')
  inputs, mean, scale = _centred_sentences(corpus.sentences)
  texts, _, _ = _centred_sentences(corpus.teacher_sentences)
  frame_mean = corpus.frames.mean(axis=0)
  frames = smoothed(corpus.frames - frame_mean, corpus.counts)
  taught = smoothed(corpus.teacher_frames - corpus.teacher_frames.mean(axis=0), corpus.counts)
  metric = whitening(covariance(taught), TEACHER_FLOOR, settings.power, settings.size)
  same = frames.shape == taught.shape and np.allclose(frames, taught)
  frame_map = metric if same else ridge_solver(frames, FRAME_RIDGE) @ (taught @ metric)
  solver, targets = ridge_solver(inputs, settings.ridge), texts @ metric
  held_out = leave_video_out(inputs, solver, targets, corpus.owners)
  return Anchor(mean, scale, solver @ targets, frame_mean, frame_map, held_out)


def scores(anchor: Anchor, corpus: Corpus) -> np.ndarray:
  """Returns `[N, V]`, for every caption and video of a corpus the largest cosine over the video's frames."""
  frames = anchor.video_frames(corpus.frames, corpus.counts)
  return _largest(anchor.queries(corpus.sentences) @ frames.T, corpus.counts)


def _largest(products: np.ndarray, counts: np.ndarray) -> np.ndarray:
  return np.maximum.reduceat(products, np.cumsum(counts) - counts, axis=1)


def standardised(scores: np.ndarray) -> np.ndarray:
  """Returns scores `[N, V]` with mean 0 and deviation 1 over the videos, for each caption."""
  return (scores - scores.mean(axis=1, keepdims=True)) / (scores.std(axis=1, keepdims=True) + 1e-9)


def surprise(scores: np.ndarray, owners: np.ndarray) -> np.ndarray:
  """Returns `[N]`, −log softmax of each caption's own video over the gallery, at the temperature of the least mean.

  Smoother than ranks, which few captions decide by chance.

  Args:
    scores: `[N, V]`, of any scale.
    owners: `[N]` own video of each caption.
  """
  logits, best = standardised(scores), None
  for temperature in _TEMPERATURES:
    scaled = logits / temperature
    top = scaled.max(axis=1)
    losses = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top - scaled[np.arange(len(owners)), owners]
    if best is None or losses.mean() < best.mean():
      best = losses
  return best


def simplest_of_the_best(losses: np.ndarray, owners: np.ndarray) -> int:
  """Chooses among candidates by the rule of one standard error.

  Args:
    losses: `[C, N]` of each candidate on every caption, the simplest candidate first.
    owners: `[N]` video of each caption; captions of one video are not taken for independent.

  Returns:
    The first candidate whose mean loss lies above that of the best by no more than one standard error of the paired
    difference.
  """
  best = int(np.argmin(losses.mean(axis=1)))
  for candidate in range(best):
    difference = losses[candidate] - losses[best]
    sums = np.array([np.sum(difference[own] - difference.mean()) for own in groups(owners)])
    if difference.mean() <= np.sqrt(np.sum(sums**2)) / len(difference):
      return candidate
  return best


class Choice(NamedTuple):
  """What was chosen on held-out videos.

  Attributes:
    anchors: branch → anchor, fitted on the training.
    settings: branch → what it was fitted with.
    weights: branch → weight of its cosine in the fused score; they add up to 1.
    blend: the same, with 'teacher', for a search that has it, too; empty without a teacher.
    losses: branch, 'fused', 'teacher' or 'blend' → mean surprise on the held-out captions, in nats.
  """

  anchors: dict[str, Anchor]
  settings: dict[str, Settings]
  weights: dict[str, float]
  blend: dict[str, float]
  losses: dict[str, float]


FITS = {'inheritance': inheritance, 'exploration': exploration}
# Of each branch, field → values to try, the simplest first; one field after another, the others as they stand.
_CANDIDATES = {
  'inheritance': {'ridge': (30.0, 10.0, 3.0, 1.0), 'power': (0.0, 0.25, 0.5)},
  'exploration': {'floor': (0.15, 0.05, 0.015), 'rounds': (0, 1, 3), 'ridge': (30.0, 10.0, 3.0)},
}


def choose(training: Mapping[str, Corpus], held_out: Corpus, size: int, taught: Corpus | None = None) -> Choice:
  """Fits the anchors of branches with the settings, and weights, that rank held-out captions best.

  Args:
    training: branch, one of `FITS` → what it is fitted on.
    held_out: other videos, the gallery of their own captions.
    size: d at most.
    taught: the held-out videos with a teacher, where a search may have it.
  """
  anchors, settings, found = {}, {}, {}
  for branch in training:
    tried: dict[Settings, tuple[Anchor, np.ndarray]] = {}

    def attempt(each: Settings, branch: str = branch, tried: dict = tried) -> np.ndarray:
      if each not in tried:
        anchor = FITS[branch](training[branch], each)
        tried[each] = anchor, scores(anchor, held_out)
      return surprise(tried[each][1], held_out.owners)

    now = Settings(size=size)
    for field, values in _CANDIDATES[branch].items():
      candidates = [now._replace(**{field: value}) for value in values]
      now = candidates[simplest_of_the_best(np.stack([attempt(each) for each in candidates]), held_out.owners)]
    settings[branch], (anchors[branch], found[branch]) = now, tried[now]
  losses = {branch: float(surprise(each, held_out.owners).mean()) for branch, each in found.items()}
  weights, losses['fused'] = _weights(found, held_out.owners)
  blend = {}
  if taught is not None:
    products = unit(taught.teacher_sentences) @ unit(taught.teacher_frames).T
    pair = {
      'student': sum(weights[n] * each for n, each in found.items()),
      'teacher': _largest(products, taught.counts),
    }
    losses['teacher'] = float(surprise(pair['teacher'], held_out.owners).mean())
    shares, losses['blend'] = _weights(pair, held_out.owners)
    blend = {n: round(shares['student'] * w, 4) for n, w in weights.items()} | {'teacher': shares['teacher']}
  return Choice(anchors, settings, weights, blend, losses)


def _weights(found: dict[str, np.ndarray], owners: np.ndarray) -> tuple[dict[str, float], float]:
  """Returns the weights of cosines `[N, V]` a branch that rank best, and the mean surprise of their sum.

  Shares are of standardised scores; a search has no gallery to standardise over, so each is divided by the mean
  deviation of the branch's cosines over the videos.
  """
  names = [*found]
  shares = [(1.0,)] if len(names) == 1 else [(k / 10, 1 - k / 10) for k in range(11)]
  summed = {s: sum(w * standardised(found[n]) for n, w in zip(names, s, strict=True)) for s in shares}
  losses = {s: float(surprise(each, owners).mean()) for s, each in summed.items()}
  best = min(shares, key=losses.get)
  raw = {n: w / float(found[n].std(axis=1).mean()) for n, w in zip(names, best, strict=True)}
  return {n: round(w / sum(raw.values()), 4) for n, w in raw.items()}, losses[best]
