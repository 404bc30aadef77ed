"""Contrastive terms of captions and videos with their gradients in closed form, so that no target matrix is kept.

A gradient at a pair follows from the scores of the pair and from vectors that reductions over all scores gave. The
backward pass keeps the matrices of scores that came in, and those vectors. Sizes: B videos, Q captions, N either.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dlkd_jax.losses.blocks import by_blocks
from dlkd_jax.losses.masks import Pairs, masked_logsumexp, masked_softmax

# Inside the logarithm of the video→text targets, as in the release.
TARGET_EPSILON = 1e-12


def text_terms(
  dot: jax.Array,
  reference: jax.Array,
  pairs: Pairs,
  hard_rows: jax.Array,
  beta: jax.Array,
) -> jax.Array:
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


def video_terms(
  dot: jax.Array,
  reference: jax.Array,
  pairs: Pairs,
  hard_rows: jax.Array,
  beta: jax.Array,
) -> jax.Array:
  """Computes the video→text term of each video v: logsumexp_q dot[q, v] − logsumexp_q (dot[q, v] + log(U[v, q] + ε)).

  U[v, ·] marks the captions of v with 1 for a hard row, and is beta·those + (1 − beta)·softmax_q reference[·, v]
  otherwise; ε = 1e-12. With p = softmax_q dot[·, v] the term is −log(Σ_q p_q U_q + ε), and it is computed so.

  Args:
    dot: `[Q, B]` of the branch.
    reference: `[Q, B]` that the soft targets follow. Gradients flow into it; it may be `dot` itself.
    pairs: which captions and videos are real and belong together.
    hard_rows: `[B]` bool, videos with one-hot targets.
    beta: scalar weight of the captions' own part, in [0, 1]. May be traced.

  Returns:
    `[B]` in nats; without meaning, and without gradient, at padded videos.
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
