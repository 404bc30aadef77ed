"""The whole objective of DL-DKD++: the weighted sum of all losses of both branches.

Sizes: B videos, Q captions, L frames, H hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp

from dlkd_jax.losses import nce
from dlkd_jax.losses.distillation import TEMPERATURE, frame_curve_kl
from dlkd_jax.losses.masks import make_pairs
from dlkd_jax.losses.triplet import triplet_loss
from dlkd_jax.similarity.max_over_frames import FrameSimilarity


@dataclasses.dataclass(frozen=True)
class LossOptions:
  """What the objective is made of; the defaults are the paper's recipe as its authors released it.

  Attributes:
    margin: of the triplet loss, in cosine.
    hard_pool: best-scoring wrong videos among which the triplet's negative is drawn.
    nce_weight: weight of each branch's contrastive loss.
    distillation_weight: weight of the frame-curve divergence, times the scheduled w.
    soft_labels: soft alignment (DL-DKD++); False gives the hard labels of DL-DKD.
    random_split: draw the rows that keep hard labels at random; False takes the first of the batch.
    stop_target_gradient: no gradient through the soft targets of the exploration branch.
    kl_captions: None sums the divergence over the captions of the batch; a number takes the mean over captions times
      this number, which equals the sum at that many captions and does not grow with the batch.
    temperature: of the frame distributions, in cosine.
    teacher_temperature: divides the teacher's dot products where soft targets follow them, and replaces `temperature`
      for its curve; None leaves both as the release has them.
  """

  margin: float = 0.1
  hard_pool: int = 20
  nce_weight: float = 0.04
  distillation_weight: float = 0.1
  soft_labels: bool = True
  random_split: bool = False
  stop_target_gradient: bool = False
  kl_captions: float | None = None
  temperature: float = TEMPERATURE
  teacher_temperature: float | None = None


@flax.struct.dataclass
class Coefficients:
  """Scheduled scalars of one step; traced, so that their change never compiles anything.

  Attributes:
    alpha: share of hard labels.
    beta: weight of the one-hot part of soft labels.
    distillation: w, weight of the distillation.
    hard_negatives: whether the triplet's negatives are hard yet.
  """

  alpha: jax.Array
  beta: jax.Array
  distillation: jax.Array
  hard_negatives: jax.Array


def total_loss(
  branches: Mapping[str, FrameSimilarity],
  teacher: FrameSimilarity | None,
  *,
  labels: jax.Array,
  caption_mask: jax.Array,
  video_mask: jax.Array,
  frame_mask: jax.Array,
  coefficients: Coefficients,
  key: jax.Array,
  options: LossOptions,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes trip_I + trip_E + 0.04·(nce_I + nce_E) + 0.1·w·kl.

  Without a teacher there is no kl, and the inheritance branch's soft targets follow its own similarities, as the
  exploration branch's do.

  Args:
    branches: similarities of each branch, inheritance first; with own-video curves where there is a teacher.
    teacher: similarities under the teacher, with own-video curves, or None.
    labels: `[Q]` int32, own video of each caption.
    caption_mask: `[Q]` bool, real captions.
    video_mask: `[B]` bool, real videos.
    frame_mask: `[B, L]` bool, real frames.
    coefficients: scheduled scalars of this step.
    key: typed PRNG key of the negatives and of the random split.
    options: weights and variants.

  Returns:
    The total, and every term as it enters the total (`<branch>/triplet`, `<branch>/nce`, `distillation`, `total`)
    with its unweighted parts below it.
  """
  pairs = make_pairs(labels, caption_mask, video_mask)
  split_key, *keys = jax.random.split(key, 1 + len(branches))
  if options.random_split:
    split = nce.split_at_random(pairs, coefficients.alpha, split_key)
  else:
    split = nce.split_by_position(pairs, coefficients.alpha)

  terms, parts = {}, {}
  for index, (name, similarity) in enumerate(branches.items()):
    terms[f'{name}/triplet'], detail = triplet_loss(
      similarity.cosine,
      pairs,
      keys[index],
      margin=options.margin,
      hard_pool=options.hard_pool,
      hard_negatives=coefficients.hard_negatives,
    )
    parts |= {f'{name}/triplet/{k}': v for k, v in detail.items()}
    if options.soft_labels:
      reference = _reference(similarity, teacher if index == 0 else None, options)
      contrastive, detail = nce.soft_nce(similarity.dot, reference, pairs, split, coefficients.alpha, coefficients.beta)
    else:
      contrastive, detail = nce.hard_nce(similarity.dot, pairs)
    terms[f'{name}/nce'] = options.nce_weight * contrastive
    parts |= {f'{name}/nce/{k}': v for k, v in detail.items()}

  if teacher is not None:
    divergence = _divergence(teacher, next(iter(branches.values())), frame_mask, pairs, options)
    parts['distillation/kl'] = divergence
    terms['distillation'] = options.distillation_weight * coefficients.distillation * divergence
  total = jnp.sum(jnp.stack(list(terms.values())))
  return total, {'total': total} | terms | parts


def _reference(similarity: FrameSimilarity, teacher: FrameSimilarity | None, options: LossOptions) -> jax.Array:
  """Returns the `[Q, B]` similarities that the soft targets of a branch follow."""
  if teacher is not None:
    return jax.lax.stop_gradient(teacher.dot) / (options.teacher_temperature or 1.0)
  if options.stop_target_gradient:
    return jax.lax.stop_gradient(similarity.dot)
  return similarity.dot


def _divergence(teacher, student, frame_mask, pairs, options: LossOptions) -> jax.Array:
  """Returns the frame-curve divergence, summed over captions or as the rescaled mean."""
  divergence = frame_curve_kl(
    jax.lax.stop_gradient(teacher.own_curve),
    student.own_curve,
    frame_mask[pairs.labels],
    pairs.captions,
    temperature=options.temperature,
    teacher_temperature=options.teacher_temperature,
  )
  if options.kl_captions is None:
    return divergence
  captions = jnp.maximum(jnp.sum(pairs.captions), 1)
  return divergence * (options.kl_captions / captions)
