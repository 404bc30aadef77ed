"""Contrastive losses on the dot-product similarities: with one-hot labels, and with evolving soft labels.

The gradients of their terms are in closed form: a gradient at a pair follows from the scores of the pair and from
vectors that reductions over all scores gave, so that no matrix of targets or probabilities is kept for the backward
pass.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dlkd_jax.losses.pairs import MASKED, HardSplit, Pairs, by_blocks, masked_mean, mean_and_count

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
    text_dot, video_dot: `[Q_loc, B]` and `[Q, B_loc]` of the branch.
    text_reference, video_reference: the same of what the soft targets follow: the teacher, or the branch itself.
    text, video: pairs of both views.
    split: the hard rows.
    alpha: share of hard rows and weight of their half, in [0, 1].
    beta: weight of the one-hot part of soft targets, in [0, 1].
    axes: mesh axes that the batch is spread over.

  Returns:
    The loss, and its parts `hard_text`, `hard_video`, `soft_text`, `soft_video`: means, unweighted.
  """
  captions = text_terms(text_dot, text_reference, text, jnp.where(split.captions, 0.0, 1.0 - beta))
  videos = video_terms(video_dot, video_reference, video, jnp.where(split.videos, 0.0, 1.0 - beta))
  hard_text, hard_captions = mean_and_count(captions, split.captions, axes)
  hard_video, hard_videos = mean_and_count(videos, split.videos, axes)
  soft_text, soft_captions = mean_and_count(captions, text.captions & ~split.captions, axes)
  soft_video, soft_videos = mean_and_count(videos, video.videos & ~split.videos, axes)
  hard = jnp.where((hard_captions > 0) & (hard_videos > 0), hard_text + hard_video, 0.0)
  soft = jnp.where((soft_captions > 0) & (soft_videos > 0), soft_text + soft_video, 0.0)
  parts = {'hard_text': hard_text, 'hard_video': hard_video, 'soft_text': soft_text, 'soft_video': soft_video}
  return alpha * hard + (1.0 - alpha) * soft, parts


def _log_sum(scores: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
  """log Σ exp over the masked entries of one axis; about -1e10 where there is none."""
  return jax.nn.logsumexp(jnp.where(mask, scores, MASKED), axis=axis)


def _softmax(scores: jax.Array, mask: jax.Array, log_sum: jax.Array, axis: int) -> jax.Array:
  """Softmax over the masked entries of one axis, 0 elsewhere."""
  return jnp.where(mask, jnp.exp(scores - jnp.expand_dims(log_sum, axis)), 0.0)


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
    return _log_sum(dot, pairs.real, axis), _log_sum(dot, pairs.own, axis)

  log_sum, own_log_sum = by_blocks(sums, dot, pairs, axis=axis)
  return log_sum - own_log_sum, (dot, pairs, log_sum, own_log_sum)


def _hard_backward(axis, residuals, cotangent):
  dot, pairs, log_sum, own_log_sum = residuals
  probabilities, own = _softmax(dot, pairs.real, log_sum, axis), _softmax(dot, pairs.own, own_log_sum, axis)
  return jnp.expand_dims(cotangent, axis) * (probabilities - own), None


hard_terms.defvjp(_hard_forward, _hard_backward)


@jax.custom_vjp
def text_terms(dot: jax.Array, reference: jax.Array, pairs: Pairs, soft: jax.Array) -> jax.Array:
  """Computes the text→video term of each caption q: Σ_v T[q, v]·(logsumexp_v' dot[q, v'] − dot[q, v]).

  T[q, ·] is (1 − soft[q])·one-hot of q's own video + soft[q]·softmax_v reference[q, ·].

  Args:
    dot: `[Q, B]` of the branch.
    reference: `[Q, B]` that the soft targets follow. Gradients flow into it; it may be `dot` itself.
    pairs: which captions and videos are real and belong together.
    soft: `[Q]` weight of the softmax: 0 for a hard row, 1 − beta for others.

  Returns:
    `[Q]` in nats; without meaning, and without gradient, at padded captions.
  """
  return _text_forward(dot, reference, pairs, soft)[0]


def _text_forward(dot, reference, pairs: Pairs, soft):
  log_sum, soft_log_sum, own_gap, soft_gap = by_blocks(_text_sums, (dot, reference), pairs, axis=1)
  terms = (1.0 - soft) * own_gap + soft * soft_gap
  return terms, (dot, reference, pairs, soft, log_sum, soft_log_sum, own_gap, soft_gap)


def _text_sums(scores, pairs: Pairs, _):
  dot, reference = scores
  log_sum, soft_log_sum = (_log_sum(x, pairs.real, 1) for x in scores)
  # Averages, under either part of the targets, of how far the score lies below the logsumexp.
  gap = jnp.where(pairs.real, log_sum[:, None] - dot, 0.0)
  own_gap = jnp.sum(jnp.where(pairs.own, gap, 0.0), axis=1)
  soft_gap = jnp.sum(_softmax(reference, pairs.real, soft_log_sum, 1) * gap, axis=1)
  return log_sum, soft_log_sum, own_gap, soft_gap


def _text_backward(residuals, cotangent):
  dot, reference, pairs, soft, log_sum, soft_log_sum, own_gap, soft_gap = residuals
  probabilities, softmax = _softmax(dot, pairs.real, log_sum, 1), _softmax(reference, pairs.real, soft_log_sum, 1)
  weight = soft[:, None]
  targets = jnp.where(pairs.own, 1.0 - weight, 0.0) + weight * softmax
  gap = jnp.where(pairs.real, log_sum[:, None] - dot, 0.0)
  dot_cotangent = cotangent[:, None] * (probabilities - targets)
  reference_cotangent = (cotangent * soft)[:, None] * softmax * (gap - soft_gap[:, None])
  return dot_cotangent, reference_cotangent, None, cotangent * (soft_gap - own_gap)


text_terms.defvjp(_text_forward, _text_backward)


@jax.custom_vjp
def video_terms(dot: jax.Array, reference: jax.Array, pairs: Pairs, soft: jax.Array) -> jax.Array:
  """Computes the video→text term of each video v: logsumexp_q dot[q, v] − logsumexp_q (dot[q, v] + log(U[v, q] + ε)).

  U[v, ·] is (1 − soft[v])·(1 at the captions of v) + soft[v]·softmax_q reference[·, v]; ε = 1e-12. With
  p = softmax_q dot[·, v] the term is −log(Σ_q p_q U_q + ε), and it is computed so. Arguments are those of `text_terms`,
  with `soft` `[B]`; so is the result, `[B]`.
  """
  return _video_forward(dot, reference, pairs, soft)[0]


def _video_forward(dot, reference, pairs: Pairs, soft):
  log_sum, soft_log_sum, own_mass, soft_mass = by_blocks(_video_sums, (dot, reference), pairs, axis=0)
  mass = (1.0 - soft) * own_mass + soft * soft_mass
  return -jnp.log(mass + TARGET_EPSILON), (dot, reference, pairs, soft, log_sum, soft_log_sum, own_mass, soft_mass)


def _video_sums(scores, pairs: Pairs, _):
  dot, reference = scores
  log_sum, soft_log_sum = (_log_sum(x, pairs.real, 0) for x in scores)
  probabilities = _softmax(dot, pairs.real, log_sum, 0)
  own_mass = jnp.sum(jnp.where(pairs.own, probabilities, 0.0), axis=0)
  soft_mass = jnp.sum(_softmax(reference, pairs.real, soft_log_sum, 0) * probabilities, axis=0)
  return log_sum, soft_log_sum, own_mass, soft_mass


def _video_backward(residuals, cotangent):
  dot, reference, pairs, soft, log_sum, soft_log_sum, own_mass, soft_mass = residuals
  probabilities, softmax = _softmax(dot, pairs.real, log_sum, 0), _softmax(reference, pairs.real, soft_log_sum, 0)
  weight = soft[None, :]
  targets = jnp.where(pairs.own, 1.0 - weight, 0.0) + weight * softmax
  mass = (1.0 - soft) * own_mass + soft * soft_mass
  # The slope of −log(mass + ε), which reaches 1e12; a product of it with probabilities is taken last.
  slope = -cotangent / (mass + TARGET_EPSILON)
  dot_cotangent = probabilities * (targets - mass[None, :]) * slope[None, :]
  reference_cotangent = softmax * (probabilities - soft_mass[None, :]) * (slope * soft)[None, :]
  return dot_cotangent, reference_cotangent, None, slope * (soft_mass - own_mass)


video_terms.defvjp(_video_forward, _video_backward)
