"""Triplet ranking loss on the cosine similarities, in both directions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dlkd_jax.losses.pairs import MASKED, Pairs, below, by_blocks, masked_mean, random_bits
from dlkd_jax.losses.total import LossInputs

_NO_ORDINAL = jnp.iinfo(jnp.int32).max


def triplet(inputs: LossInputs, branch: str, key: jax.Array, *, margin: float, hard_pool: int):
  """Computes the triplet loss of one branch (DL-DKD++, the ranking loss).

  text→video: mean over q of max(0, margin + cos[q, n] − cos[q, y(q)]), n drawn uniformly from the `hard_pool`
  best-scoring wrong videos. video→text: mean over v of max(0, margin + best wrong caption − mean of v's own captions).
  Until `hard_negatives` is scheduled, both kinds of negatives are drawn uniformly among all wrong ones. Draws follow
  the ordinals of captions and videos, whatever the layout of the batch.

  Args:
    inputs: of the batch.
    branch: whose loss it is.
    key: of the draws.
    margin: of the hinge, in cosine.
    hard_pool: number of best-scoring wrong videos to draw from; 1 takes the best.

  Returns:
    The loss, and its parts `text_to_video` and `video_to_text`. A direction without any wrong pair is 0.
  """
  view, text, video = inputs.branches[branch], inputs.text, inputs.video
  text_key, video_key = jax.random.split(key)
  bits = random_bits(text_key, text.caption_ordinals), random_bits(video_key, video.video_ordinals)

  def draw_videos(cosine, pairs, bits):
    own, wrong = (jnp.sum(mask, axis=1) for mask in (pairs.own, pairs.wrong))
    pool = min(hard_pool, cosine.shape[1])
    best = jax.lax.top_k(jnp.where(pairs.wrong, cosine, MASKED), pool)[1]
    drawn = below(bits, jnp.minimum(wrong, pool))
    hard = pairs.video_ordinals[jnp.take_along_axis(best, drawn[:, None], axis=1)[:, 0]]
    easy = _draw_wrong(pairs.video_ordinals[None, :], pairs, bits, own, wrong, axis=1)
    return hard, easy, own, wrong

  def draw_captions(cosine, pairs, bits):
    own, wrong = (jnp.sum(mask, axis=0) for mask in (pairs.own, pairs.wrong))
    hard = pairs.caption_ordinals[jnp.argmax(jnp.where(pairs.wrong, cosine, MASKED), axis=0)]
    easy = _draw_wrong(pairs.caption_ordinals[:, None], pairs, bits, own, wrong, axis=0)
    return hard, easy, own, wrong

  means = []
  for cosine, pairs, draw, axis in (
    (view.text_cosine, text, draw_videos, 1),
    (view.video_cosine, video, draw_captions, 0),
  ):
    # Only the choice of the negatives is used: no gradient.
    hard, easy, own, wrong = by_blocks(draw, jax.lax.stop_gradient(cosine), pairs, bits[1 - axis], axis=axis)
    negatives = jnp.where(inputs.coefficients['hard_negatives'], hard, easy)
    gaps = _gaps(cosine, pairs, negatives, own, axis)
    means.append(masked_mean(jax.nn.relu(margin + gaps), (own > 0) & (wrong > 0), inputs.axes))
  text_to_video, video_to_text = means
  return text_to_video + video_to_text, {'text_to_video': text_to_video, 'video_to_text': video_to_text}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _gaps(cosine, pairs: Pairs, negatives, own, axis: int):
  """Computes how far the negative of each entry, of ordinals `[N]`, lies above the mean of its `own` `[N]` pairs.

  Its backward pass keeps no matrix, and compares ordinals at every pair rather than scatter at the chosen ones.
  """
  return _gaps_forward(cosine, pairs, negatives, own, axis)[0]


def _gaps_forward(cosine, pairs, negatives, own, axis):
  def gaps(cosine, pairs, vectors):
    return jnp.sum(_weights(pairs, *vectors, axis) * jnp.where(pairs.real, cosine, 0.0), axis=axis)

  return by_blocks(gaps, cosine, pairs, (negatives, own), axis=axis), (pairs, negatives, own)


def _gaps_backward(axis, residuals, cotangent):
  return jnp.expand_dims(cotangent, axis) * _weights(*residuals, axis), None, None, None


_gaps.defvjp(_gaps_forward, _gaps_backward)


def _weights(pairs: Pairs, negatives, own, axis: int):
  """`[Q, B]` float32: 1 at the negative of each entry, −1/n at its n own pairs, 0 elsewhere."""
  candidates = pairs.video_ordinals[None, :] if axis else pairs.caption_ordinals[:, None]
  chosen = candidates == jnp.expand_dims(negatives, axis)
  share = jnp.expand_dims(-1.0 / jnp.maximum(own, 1), axis)
  return jnp.where(pairs.own, share, jnp.where(pairs.real & chosen, 1.0, 0.0))


def _draw_wrong(candidates, pairs: Pairs, bits, own, wrong, axis: int) -> jax.Array:
  """Draws a wrong candidate uniformly for each row (axis 1) or column (axis 0); returns their ordinals `[N]`.

  Args:
    candidates: `[1, B]` or `[Q, 1]` int32, ordinals of the candidates. The view holds all real ones of the batch, so
      that theirs are 0, 1, … without gaps, and those of an entry's own candidates are consecutive.
    pairs: pairs of the view.
    bits: `[N]` uint32, random.
    own: `[N]` own candidates of each entry.
    wrong: `[N]` wrong ones.
    axis: along which the candidates lie.
  """
  first = jnp.min(jnp.where(pairs.own, candidates, _NO_ORDINAL), axis=axis)
  drawn = below(bits, wrong)
  # Counts over the wrong ones alone: from the own ones on, they lie further by their number.
  return jnp.where(drawn >= first, drawn + own, drawn)
