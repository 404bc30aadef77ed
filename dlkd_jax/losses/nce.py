"""Contrastive losses on the dot-product similarities: with one-hot labels, and with evolving soft labels.

`plain_soft_nce` is the formula as it stands. What training uses, `soft_nce`, computes the same from terms whose
gradients are in closed form: a gradient at a pair follows from the scores of the pair and from vectors that reductions
over all scores gave, so that no matrix of targets or probabilities is kept for the backward pass.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dlkd_jax.losses.pairs import (
  MASKED,
  HardSplit,
  Pairs,
  by_blocks,
  masked_logsumexp,
  masked_mean,
  masked_softmax,
  mean_and_count,
)

# Inside the logarithm of the video→text targets, as in the release.
TARGET_EPSILON = 1e-12


def hard_nce(
  text_dot: jax.Array,
  video_dot: jax.Array,
  text: Pairs,
  video: Pairs,
  axes: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the contrastive loss with hard labels (DL-DKD).

  text→video: mean_q [logsumexp_v dot[q, ·] − dot[q, y(q)]];
  video→text: mean_v [logsumexp_q dot[·, v] − logsumexp over v's own captions].

  Returns:
    The loss, and its parts `text_to_video` and `video_to_text`.
  """
  text_to_video = masked_mean(hard_terms(text_dot, text, 1), text.captions, axes)
  # A video without a caption has no term.
  has_caption = by_blocks(lambda _, pairs, __: jnp.any(pairs.own, axis=0), video_dot, video, axis=0)
  video_to_text = masked_mean(hard_terms(video_dot, video, 0), has_caption, axes)
  parts = {'text_to_video': text_to_video, 'video_to_text': video_to_text}
  return text_to_video + video_to_text, parts


def plain_soft_nce(
  dot: jax.Array,
  reference: jax.Array,
  pairs: Pairs,
  split: HardSplit,
  alpha: jax.Array,
  beta: jax.Array,
) -> jax.Array:
  """Computes `soft_nce` of a whole batch on one device as the formulas stand (DL-DKD++, evolving soft labels).

  Differentiating it keeps every matrix of targets and probabilities; it is what tests compare with.

  Args:
    dot: `[Q, B]` of the branch.
    reference: `[Q, B]` that the soft targets follow.
    pairs: which captions and videos are real and belong together.
    split: the hard rows.
    alpha: share of hard rows.
    beta: weight of the one-hot part of soft targets.
  """
  one_hot = pairs.own.astype(jnp.float32)
  scores, references = (jnp.where(pairs.real, x, MASKED) for x in (dot, reference))

  soft = beta * one_hot + (1.0 - beta) * jax.nn.softmax(references, axis=1)
  targets = jnp.where(split.captions[:, None], one_hot, soft)
  of_captions = -jnp.sum(jnp.where(pairs.real, targets * jax.nn.log_softmax(scores, axis=1), 0.0), axis=1)

  soft = beta * one_hot + (1.0 - beta) * jax.nn.softmax(references, axis=0)
  targets = jnp.where(pairs.real, jnp.where(split.videos[None, :], one_hot, soft), 0.0)
  weighted = jax.nn.logsumexp(scores + jnp.log(targets + TARGET_EPSILON), axis=0)
  of_videos = jax.nn.logsumexp(scores, axis=0) - weighted

  halves = []
  for captions, videos in (
    (split.captions, split.videos),
    (pairs.captions & ~split.captions, pairs.videos & ~split.videos),
  ):
    half = masked_mean(of_captions, captions) + masked_mean(of_videos, videos)
    halves.append(jnp.where(jnp.any(captions) & jnp.any(videos), half, 0.0))
  return alpha * halves[0] + (1.0 - alpha) * halves[1]


def soft_nce(
  text_dot: jax.Array,
  video_dot: jax.Array,
  text_reference: jax.Array,
  video_reference: jax.Array,
  text: Pairs,
  video: Pairs,
  split: HardSplit,
  alpha: jax.Array,
  beta: jax.Array,
  axes: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the contrastive loss with soft alignment (DL-DKD++, evolving soft labels).

  loss = alpha·(means of the terms over hard rows) + (1 − alpha)·(means over soft rows), where either half is 0 if it
  lacks rows on one of the two sides. The terms are those of `text_terms` and `video_terms`.

  Args:
    text_dot: `[Q_loc, B]` of the branch.
    video_dot: `[Q, B_loc]` of the branch.
    text_reference: `[Q_loc, B]` similarities that the soft targets follow: the teacher's, or the branch's own.
    video_reference: `[Q, B_loc]`, the same.
    text: pairs of the text view.
    video: pairs of the video view.
    split: the hard rows.
    alpha: share of hard rows and weight of their half, in [0, 1]. May be traced.
    beta: weight of the one-hot part of soft targets, in [0, 1]. May be traced.
    axes: mesh axes that the batch is spread over.

  Returns:
    The loss, and its parts `hard_text`, `hard_video`, `soft_text`, `soft_video`: means, unweighted.
  """
  captions = text_terms(text_dot, text_reference, text, split.captions, beta)
  videos = video_terms(video_dot, video_reference, video, split.videos, beta)
  hard_text, hard_captions = mean_and_count(captions, split.captions, axes)
  hard_video, hard_videos = mean_and_count(videos, split.videos, axes)
  soft_text, soft_captions = mean_and_count(captions, text.captions & ~split.captions, axes)
  soft_video, soft_videos = mean_and_count(videos, video.videos & ~split.videos, axes)
  hard = jnp.where((hard_captions > 0) & (hard_videos > 0), hard_text + hard_video, 0.0)
  soft = jnp.where((soft_captions > 0) & (soft_videos > 0), soft_text + soft_video, 0.0)
  parts = {'hard_text': hard_text, 'hard_video': hard_video, 'soft_text': soft_text, 'soft_video': soft_video}
  return alpha * hard + (1.0 - alpha) * soft, parts


def text_terms(dot: jax.Array, reference: jax.Array, pairs: Pairs, hard_rows: jax.Array, beta: jax.Array) -> jax.Array:
  """Computes the text→video term of each caption q: Σ_v T[q, v]·(logsumexp_v' dot[q, v'] − dot[q, v]).

  T[q, ·] is one-hot of q's own video for a hard row, and beta·one-hot + (1 − beta)·softmax_v reference[q, ·] otherwise.

  Args:
    dot: `[Q, B]` of the branch.
    reference: `[Q, B]` that the soft targets follow. Gradients flow into it; it may be `dot` itself.
    pairs: which captions and videos are real and belong together.
    hard_rows: `[Q]` bool, captions with one-hot targets.
    beta: scalar weight of the one-hot part, in [0, 1]. May be traced.

  Returns:
    `[Q]` in nats; without meaning, and without gradient, at padded captions.
  """
  return _text_terms(dot, reference, pairs, jnp.where(hard_rows, 0.0, 1.0 - beta))


def video_terms(dot: jax.Array, reference: jax.Array, pairs: Pairs, hard_rows: jax.Array, beta: jax.Array) -> jax.Array:
  """Computes the video→text term of each video v: logsumexp_q dot[q, v] − logsumexp_q (dot[q, v] + log(U[v, q] + ε)).

  U[v, ·] marks the captions of v with 1 for a hard row, and is beta·those + (1 − beta)·softmax_q reference[·, v]
  otherwise; ε = 1e-12. With p = softmax_q dot[·, v] the term is −log(Σ_q p_q U_q + ε), and it is computed so.

  Arguments are those of `text_terms`, with `hard_rows` `[B]`; so is the result, `[B]`.
  """
  return _video_terms(dot, reference, pairs, jnp.where(hard_rows, 0.0, 1.0 - beta))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def hard_terms(dot: jax.Array, pairs: Pairs, axis: int) -> jax.Array:
  """Computes logsumexp over all real pairs of an entry − logsumexp over its own ones.

  Args:
    dot: `[Q, B]`.
    pairs: which captions and videos are real and belong together.
    axis: 1 gives the text→video term of each caption, `[Q]`, 0 the video→text term of each video, `[B]`.

  Returns:
    `[N]` in nats; without meaning where there is no own pair.
  """
  return _hard_forward(dot, pairs, axis)[0]


def _hard_forward(dot, pairs, axis):
  def sums(dot, pairs, _):
    return masked_logsumexp(dot, pairs.real, axis), masked_logsumexp(dot, pairs.own, axis)

  log_sum, own_log_sum = by_blocks(sums, dot, pairs, axis=axis)
  return log_sum - own_log_sum, (dot, pairs, log_sum, own_log_sum)


def _hard_backward(axis, residuals, cotangent):
  dot, pairs, log_sum, own_log_sum = residuals
  probabilities = masked_softmax(dot, pairs.real, log_sum, axis)
  own = masked_softmax(dot, pairs.own, own_log_sum, axis)
  return jnp.expand_dims(cotangent, axis) * (probabilities - own), None


hard_terms.defvjp(_hard_forward, _hard_backward)


@jax.custom_vjp
def _text_terms(dot, reference, pairs: Pairs, soft):
  """The terms with `soft` `[Q]`, the weight of the softmax in each row's targets."""
  return _text_forward(dot, reference, pairs, soft)[0]


def _text_forward(dot, reference, pairs: Pairs, soft):
  log_sum, soft_log_sum, own_gap, soft_gap = by_blocks(_text_sums, (dot, reference), pairs, axis=1)
  terms = (1.0 - soft) * own_gap + soft * soft_gap
  return terms, (dot, reference, pairs, soft, log_sum, soft_log_sum, own_gap, soft_gap)


def _text_sums(scores, pairs: Pairs, _):
  dot, reference = scores
  log_sum, soft_log_sum = (masked_logsumexp(x, pairs.real, 1) for x in scores)
  # Averages, under either part of the targets, of how far the score lies below the logsumexp.
  gap = jnp.where(pairs.real, log_sum[:, None] - dot, 0.0)
  own_gap = jnp.sum(jnp.where(pairs.own, gap, 0.0), axis=1)
  soft_gap = jnp.sum(masked_softmax(reference, pairs.real, soft_log_sum, 1) * gap, axis=1)
  return log_sum, soft_log_sum, own_gap, soft_gap


def _text_backward(residuals, cotangent):
  dot, reference, pairs, soft, log_sum, soft_log_sum, own_gap, soft_gap = residuals
  probabilities = masked_softmax(dot, pairs.real, log_sum, 1)
  softmax = masked_softmax(reference, pairs.real, soft_log_sum, 1)
  weight = soft[:, None]
  targets = jnp.where(pairs.own, 1.0 - weight, 0.0) + weight * softmax
  gap = jnp.where(pairs.real, log_sum[:, None] - dot, 0.0)
  dot_cotangent = cotangent[:, None] * (probabilities - targets)
  reference_cotangent = (cotangent * soft)[:, None] * softmax * (gap - soft_gap[:, None])
  return dot_cotangent, reference_cotangent, None, cotangent * (soft_gap - own_gap)


_text_terms.defvjp(_text_forward, _text_backward)


@jax.custom_vjp
def _video_terms(dot, reference, pairs: Pairs, soft):
  """The terms with `soft` `[B]`, the weight of the softmax in each column's targets."""
  return _video_forward(dot, reference, pairs, soft)[0]


def _video_forward(dot, reference, pairs: Pairs, soft):
  log_sum, soft_log_sum, own_mass, soft_mass = by_blocks(_video_sums, (dot, reference), pairs, axis=0)
  mass = (1.0 - soft) * own_mass + soft * soft_mass
  residuals = dot, reference, pairs, soft, log_sum, soft_log_sum, own_mass, soft_mass
  return -jnp.log(mass + TARGET_EPSILON), residuals


def _video_sums(scores, pairs: Pairs, _):
  dot, reference = scores
  log_sum, soft_log_sum = (masked_logsumexp(x, pairs.real, 0) for x in scores)
  probabilities = masked_softmax(dot, pairs.real, log_sum, 0)
  own_mass = jnp.sum(jnp.where(pairs.own, probabilities, 0.0), axis=0)
  soft_mass = jnp.sum(masked_softmax(reference, pairs.real, soft_log_sum, 0) * probabilities, axis=0)
  return log_sum, soft_log_sum, own_mass, soft_mass


def _video_backward(residuals, cotangent):
  dot, reference, pairs, soft, log_sum, soft_log_sum, own_mass, soft_mass = residuals
  probabilities = masked_softmax(dot, pairs.real, log_sum, 0)
  softmax = masked_softmax(reference, pairs.real, soft_log_sum, 0)
  weight = soft[None, :]
  targets = jnp.where(pairs.own, 1.0 - weight, 0.0) + weight * softmax
  mass = (1.0 - soft) * own_mass + soft * soft_mass
  # The slope of −log(mass + ε), which reaches 1e12; a product of it with probabilities is taken last.
  slope = -cotangent / (mass + TARGET_EPSILON)
  dot_cotangent = probabilities * (targets - mass[None, :]) * slope[None, :]
  reference_cotangent = softmax * (probabilities - soft_mass[None, :]) * (slope * soft)[None, :]
  return dot_cotangent, reference_cotangent, None, slope * (soft_mass - own_mass)


_video_terms.defvjp(_video_forward, _video_backward)
