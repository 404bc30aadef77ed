"""Contrastive losses on the dot-product similarities: with one-hot labels, and with evolving soft labels.

Sizes: B videos, Q captions; Q_loc and B_loc are those of one device, and equal Q and B on one device.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlkd_jax.losses.blocks import by_blocks
from dlkd_jax.losses.masks import Pairs, masked_mean, mean_and_count
from dlkd_jax.losses.nce_terms import hard_terms, text_terms, video_terms
from dlkd_jax.losses.split import HardSplit


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

  Args:
    text_dot: `[Q_loc, B]`.
    video_dot: `[Q, B_loc]`.
    text: pairs of the text view.
    video: pairs of the video view.
    axes: mesh axes that the batch is spread over.

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
  lacks rows on one of the two sides. The terms are those of `nce_terms`.

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
