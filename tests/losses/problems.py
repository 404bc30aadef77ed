"""Random loss problems of static shape with any number of real rows, and the losses as plain float64 loops.

A problem has Q = 12 captions, B = 7 videos and L = 5 frames, of which some are padding. The loops see real rows only,
so agreement with them shows at once that a loss is right and that padding does not matter.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.losses.pairs import Pairs
from dlkd_jax.losses.total import BranchView, LossInputs
from dlkd_jax.losses.triplet import triplet

Q, B, L = 12, 7, 5


def make_pairs(labels, captions, videos, *, video_ids=None, caption_ordinals=None, video_ordinals=None):
  """Pairs of one view; by default a column is its video's index, and what is real is numbered in its order here."""

  def numbers(mask):
    return jnp.where(mask, jnp.cumsum(jnp.asarray(mask, jnp.int32)) - 1, -1)

  captions, videos = jnp.asarray(captions), jnp.asarray(videos)
  ids = jnp.arange(len(videos)) if video_ids is None else video_ids
  ordinals = (
    numbers(mask) if given is None else given
    for given, mask in ((caption_ordinals, captions), (video_ordinals, videos))
  )
  labels, ids, *ordinals = (jnp.asarray(x, jnp.int32) for x in (labels, ids, *ordinals))
  return Pairs(labels, captions, videos, ids, *ordinals)


def triplet_loss(text, video, text_pairs, video_pairs, key, hard_negatives=True, **options):
  """The triplet term of one branch with these cosines."""
  branches = {'one': BranchView(text, None, video, None)}
  inputs = LossInputs(branches, None, text_pairs, video_pairs, {'hard_negatives': hard_negatives}, key)
  return triplet(inputs, 'one', key, **options)


@dataclasses.dataclass
class Problem:
  """Similarities and masks; `own[q]` is the video of a real caption."""

  captions: int
  videos: int
  labels: np.ndarray
  caption_mask: np.ndarray
  video_mask: np.ndarray
  frame_mask: np.ndarray
  cosine: np.ndarray
  dot: np.ndarray
  teacher_cosine: np.ndarray
  teacher_dot: np.ndarray
  curve: np.ndarray
  teacher_curve: np.ndarray

  @property
  def pairs(self):
    return make_pairs(self.labels, self.caption_mask, self.video_mask)

  @property
  def own_mask(self):
    """`[Q, L]`, real frames of the own video of each real caption."""
    return self.frame_mask[self.labels] & self.caption_mask[:, None]

  @property
  def own(self):
    return self.labels[: self.captions]

  def real(self, matrix):
    """The real rows and columns of a `[Q, B]` matrix, in float64."""
    return np.asarray(matrix, np.float64)[: self.captions, : self.videos]


def make_problem(captions, videos, seed=0):
  """Makes a problem with so many real captions and videos; what stands at padding is extreme."""
  rng = np.random.default_rng(seed)
  labels = np.zeros(Q, np.int32)
  labels[:captions] = np.sort(rng.integers(0, max(videos, 1), captions))
  caption_mask, video_mask = np.arange(Q) < captions, np.arange(B) < videos
  real = caption_mask[:, None] & video_mask
  frame_mask = (np.arange(L) < rng.integers(1, L + 1, B)[:, None]) & video_mask[:, None]

  def matrix(scale):
    # A padded video scores -1e10 under any query; a padded caption has some finite vector, so some finite score.
    return np.where(real, scale * rng.standard_normal((Q, B)), np.where(video_mask, 50.0, -1e10)).astype(np.float32)

  def curve():
    return np.tanh(rng.standard_normal((Q, L))).astype(np.float32)

  matrices = matrix(0.3), matrix(2.0), matrix(0.3), matrix(2.0)
  return Problem(captions, videos, labels, caption_mask, video_mask, frame_mask, *matrices, curve(), curve())


def lse(values):
  values = list(values)
  top = max(values)
  return top + math.log(sum(math.exp(v - top) for v in values))


def softmax(values):
  values = list(values)
  total = lse(values)
  return [math.exp(v - total) for v in values]


def mean(values):
  values = list(values)
  return sum(values) / len(values) if values else 0.0


def triplet_hardest(cosine, own, margin):
  """Both directions with the hardest negatives (a pool of one)."""
  captions, videos = cosine.shape
  text = []
  for q in range(captions):
    wrong = [cosine[q, v] for v in range(videos) if v != own[q]]
    if wrong:
      text.append(max(0.0, margin + max(wrong) - cosine[q, own[q]]))
  video = []
  for v in range(videos):
    mine = [cosine[q, v] for q in range(captions) if own[q] == v]
    wrong = [cosine[q, v] for q in range(captions) if own[q] != v]
    if mine and wrong:
      video.append(max(0.0, margin + max(wrong) - mean(mine)))
  return mean(text), mean(video)


def hard_nce(dot, own):
  captions, videos = dot.shape
  text = [lse(dot[q]) - dot[q, own[q]] for q in range(captions)]
  video = []
  for v in range(videos):
    mine = [dot[q, v] for q in range(captions) if own[q] == v]
    if mine:
      video.append(lse(dot[:, v]) - lse(mine))
  return mean(text), mean(video)


def soft_nce(dot, reference, own, hard_captions, hard_videos, alpha, beta):
  """`hard_captions`, `hard_videos`: sets of rows that keep one-hot targets."""
  captions, videos = dot.shape
  text, video = {}, {}
  for q in range(captions):
    soft = softmax(reference[q])
    total = lse(dot[q])
    text[q] = 0.0
    for v in range(videos):
      target = float(v == own[q])
      if q not in hard_captions:
        target = beta * target + (1.0 - beta) * soft[v]
      text[q] += target * (total - dot[q, v])
  for v in range(videos):
    soft = softmax(reference[:, v])
    weighted = []
    for q in range(captions):
      target = float(v == own[q])
      if v not in hard_videos:
        target = beta * target + (1.0 - beta) * soft[q]
      weighted.append(dot[q, v] + math.log(target + 1e-12))
    video[v] = lse(dot[:, v]) - lse(weighted)
  soft_captions, soft_videos = set(text) - set(hard_captions), set(video) - set(hard_videos)
  hard = soft = 0.0
  if hard_captions and hard_videos:
    hard = mean(text[q] for q in hard_captions) + mean(video[v] for v in hard_videos)
  if soft_captions and soft_videos:
    soft = mean(text[q] for q in soft_captions) + mean(video[v] for v in soft_videos)
  return alpha * hard + (1.0 - alpha) * soft


def plain_soft_nce(dot, reference, pairs, split, alpha, beta):
  """The same as arrays, `[Q, B]`; differentiating it keeps every matrix of targets and probabilities."""
  one_hot = pairs.own.astype(jnp.float32)
  scores, references = (jnp.where(pairs.real, x, -1e10) for x in (dot, reference))
  terms = []
  for axis, hard in ((1, split.captions[:, None]), (0, split.videos[None])):
    targets = jnp.where(hard, one_hot, beta * one_hot + (1.0 - beta) * jax.nn.softmax(references, axis=axis))
    targets = jnp.where(pairs.real, targets, 0.0)
    if axis:
      terms.append(-jnp.sum(jnp.where(pairs.real, targets * jax.nn.log_softmax(scores, axis=1), 0.0), axis=1))
    else:
      weighted = jax.nn.logsumexp(scores + jnp.log(targets + 1e-12), axis=0)
      terms.append(jax.nn.logsumexp(scores, axis=0) - weighted)
  total = 0.0
  for share, *rows in (
    (alpha, split.captions, split.videos),
    (1.0 - alpha, pairs.captions & ~split.captions, pairs.videos & ~split.videos),
  ):
    means = [jnp.sum(jnp.where(at, x, 0.0)) / jnp.maximum(at.sum(), 1) for x, at in zip(terms, rows, strict=True)]
    total += share * jnp.where(rows[0].any() & rows[1].any(), sum(means), 0.0)
  return total


def kl(problem, teacher_curve=None, curve=None, temperature=0.2, teacher_temperature=None):
  teacher_curve = problem.teacher_curve if teacher_curve is None else teacher_curve
  curve = problem.curve if curve is None else curve
  total = 0.0
  for q in range(problem.captions):
    frames = [l for l in range(L) if problem.frame_mask[problem.labels[q], l]]
    p = softmax(float(teacher_curve[q, l]) / (teacher_temperature or temperature) for l in frames)
    s = softmax(float(curve[q, l]) / temperature for l in frames)
    total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, s, strict=True))
  return total


def numerical_gradient(function, x, step=1e-6):
  """Central differences of a float64 function at x."""
  x = np.array(x, np.float64)
  gradient = np.zeros_like(x)
  for index in np.ndindex(x.shape):
    saved = x[index]
    x[index] = saved + step
    up = function(x)
    x[index] = saved - step
    down = function(x)
    x[index] = saved
    gradient[index] = (up - down) / (2 * step)
  return gradient
