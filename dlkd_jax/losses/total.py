"""The whole objective of DL-DKD++: the weighted sum of all losses of both branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import chex
import flax.struct
import jax
import jax.numpy as jnp

from dlkd_jax.losses import nce
from dlkd_jax.losses.pairs import MASKED, HardSplit, Pairs, global_sum, split_at_random, split_by_position
from dlkd_jax.losses.triplet import triplet_loss

TEMPERATURE = 0.2


@flax.struct.dataclass
class BranchScores:
  """Similarities of captions and videos under one branch of the student.

  Attributes:
    text_cosine: `[Q_loc, B]`, own captions × all videos.
    text_dot: `[Q_loc, B]`.
    video_cosine: `[Q, B_loc]`, all captions × own videos.
    video_dot: `[Q, B_loc]`.
    own_curve: `[Q, L]`, cosine of each caption with the row of frames that holds its own video, or None where nothing
      is distilled into the branch. Rows of captions whose video is on another device are not read.
  """

  text_cosine: jax.Array
  text_dot: jax.Array
  video_cosine: jax.Array
  video_dot: jax.Array
  own_curve: jax.Array | None = None


@flax.struct.dataclass
class TeacherScores:
  """Similarities under the teacher; see `BranchScores`."""

  text_dot: jax.Array
  video_dot: jax.Array
  own_curve: jax.Array


@dataclasses.dataclass(frozen=True)
class LossOptions:
  """What the objective is made of.

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

  margin: float
  hard_pool: int
  nce_weight: float
  distillation_weight: float
  soft_labels: bool
  random_split: bool
  stop_target_gradient: bool
  kl_captions: float | None
  temperature: float
  teacher_temperature: float | None


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
  branches: Mapping[str, BranchScores],
  teacher: TeacherScores | None,
  *,
  text: Pairs,
  video: Pairs,
  own_mask: jax.Array | None,
  coefficients: Coefficients,
  key: jax.Array,
  options: LossOptions,
  axes: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes trip_I + trip_E + 0.04·(nce_I + nce_E) + 0.1·w·kl, exactly over a batch spread over devices.

  Without a teacher there is no kl, and the inheritance branch's soft targets follow its own similarities, as the
  exploration branch's do. text→video losses are computed in the text view, video→text ones and the divergence in the
  video view; sums and counts are added up over the devices, so that all of them get the same result. Call it inside
  `shard_map` with `check_vma` on, and differentiate from outside.

  Args:
    branches: scores of each branch, inheritance first; that one has own-video curves where there is a teacher.
    teacher: scores under the teacher, with own-video curves, or None.
    text: pairs of the text view.
    video: pairs of the video view. On one device it is the same as `text`.
    own_mask: `[Q, L]` bool, real frames of each caption's own video; all false where that is on another device. Unused
      without a teacher.
    coefficients: scheduled scalars of this step, the same on all devices.
    key: typed PRNG key of the negatives and of the random split, the same on all devices.
    options: weights and variants.
    axes: mesh axes that the batch is spread over; none on one device.

  Returns:
    The total, and every term as it enters the total (`<branch>/triplet`, `<branch>/nce`, `distillation`, `total`)
    with its unweighted parts below it.

  Raises:
    ValueError: there is a teacher, and its own-video curves, the inheritance branch's or own_mask are missing.
  """
  split_key, *keys = jax.random.split(key, 1 + len(branches))
  if options.random_split:
    split = split_at_random(text, video, coefficients.alpha, split_key, axes)
  else:
    split = split_by_position(text, video, coefficients.alpha, axes)

  terms, parts = {}, {}
  for index, (name, scores) in enumerate(branches.items()):
    terms[f'{name}/triplet'], detail = triplet_loss(
      scores.text_cosine,
      scores.video_cosine,
      text,
      video,
      keys[index],
      margin=options.margin,
      hard_pool=options.hard_pool,
      hard_negatives=coefficients.hard_negatives,
      axes=axes,
    )
    parts |= {f'{name}/triplet/{k}': v for k, v in detail.items()}
    followed = teacher if index == 0 else None
    contrastive, detail = _contrastive(scores, followed, text, video, split, coefficients, options, axes)
    terms[f'{name}/nce'] = options.nce_weight * contrastive
    parts |= {f'{name}/nce/{k}': v for k, v in detail.items()}

  if teacher is not None:
    divergence = _divergence(teacher, next(iter(branches.values())), own_mask, text, video, options, axes)
    parts['distillation/kl'] = divergence
    terms['distillation'] = options.distillation_weight * coefficients.distillation * divergence
  total = jnp.sum(jnp.stack(list(terms.values())))
  return total, {'total': total} | terms | parts


def _contrastive(
  scores: BranchScores,
  teacher: TeacherScores | None,
  text: Pairs,
  video: Pairs,
  split: HardSplit,
  coefficients: Coefficients,
  options: LossOptions,
  axes: tuple[str, ...],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the unweighted contrastive loss of a branch, whose soft targets follow the teacher, or else itself."""
  if not options.soft_labels:
    return nce.hard_nce(scores.text_dot, scores.video_dot, text, video, axes)
  references = scores.text_dot, scores.video_dot
  if teacher is not None:
    divisor = options.teacher_temperature or 1.0
    references = tuple(jax.lax.stop_gradient(x) / divisor for x in (teacher.text_dot, teacher.video_dot))
  elif options.stop_target_gradient:
    references = jax.lax.stop_gradient(references)
  alpha, beta = coefficients.alpha, coefficients.beta
  return nce.soft_nce(scores.text_dot, scores.video_dot, *references, text, video, split, alpha, beta, axes)


def _divergence(
  teacher: TeacherScores,
  student: BranchScores,
  own_mask: jax.Array | None,
  text: Pairs,
  video: Pairs,
  options: LossOptions,
  axes: tuple[str, ...],
) -> jax.Array:
  """Returns the frame-curve divergence, summed over captions or as the rescaled mean."""
  given = {'teacher.own_curve': teacher.own_curve, 'own_curve of the first branch': student.own_curve}
  if missing := [name for name, array in (given | {'own_mask': own_mask}).items() if array is None]:
    raise ValueError(f'distillation needs {", ".join(missing)}; give them, or no teacher.')
  divergence = frame_curve_kl(
    jax.lax.stop_gradient(teacher.own_curve),
    student.own_curve,
    own_mask,
    video.captions,
    temperature=options.temperature,
    teacher_temperature=options.teacher_temperature,
    axes=axes,
  )
  if options.kl_captions is None:
    return divergence
  captions = global_sum(jnp.sum(text.captions), axes)
  return divergence * (options.kl_captions / jnp.maximum(captions, 1))


def frame_curve_kl(
  teacher_curve: jax.Array,
  student_curve: jax.Array,
  own_mask: jax.Array,
  caption_mask: jax.Array,
  *,
  temperature: float,
  teacher_temperature: float | None = None,
  axes: tuple[str, ...] = (),
) -> jax.Array:
  """Computes Σ_q KL(P_q ‖ S_q) of the frame distributions of each caption's own video (DL-DKD, knowledge distillation).

  P = softmax over the video's real frames of the teacher's cosines / temperature, S the same of the student's.

  Args:
    teacher_curve: `[Q, L]` cosines of each caption with the row of frames that holds its own video, the teacher's.
    student_curve: `[Q, L]`, the inheritance branch's.
    own_mask: `[Q, L]` bool, real frames of each caption's own video. A caption without any adds nothing: its video is
      on another device.
    caption_mask: `[Q]` bool, real captions.
    temperature: divides both curves, in cosine.
    teacher_temperature: divides the teacher's curve instead, where given.
    axes: mesh axes that the videos are spread over.

  Returns:
    The divergence in nats, summed over frames and over captions; divide it by the captions for the mean.

  Raises:
    AssertionError: the curves and masks disagree in shape.
  """
  chex.assert_equal_shape([teacher_curve, student_curve, own_mask])
  chex.assert_equal_shape_prefix([own_mask, caption_mask], 1)
  mask = own_mask & caption_mask[:, None]

  def log_probabilities(curve, divisor):
    return jax.nn.log_softmax(jnp.where(mask, curve / divisor, MASKED), axis=1)

  teacher = log_probabilities(teacher_curve, teacher_temperature or temperature)
  student = log_probabilities(student_curve, temperature)
  return global_sum(jnp.sum(jnp.where(mask, jnp.exp(teacher) * (teacher - student), 0.0)), axes)
