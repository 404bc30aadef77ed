"""The whole objective: a table of weighted terms, each computed for its branches.

A term is a function `(inputs, branch, key, **options) → (loss, parts)` that sees all of `LossInputs` and returns a
scalar, the same on all devices, and a dictionary of what to log of it. Those of DL-DKD++ are `contrastive` and
`distillation`, and `triplet` of `dlkd_jax.losses.triplet`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Layout
from dlkd_jax.losses import nce
from dlkd_jax.losses.pairs import MASKED, Pairs, global_sum, split


@flax.struct.dataclass
class BranchView:
  """What a branch of the student, or the teacher, makes of a batch, as one device sees it.

  A device has its own captions against all videos, the *text view*, and all captions against its own videos, the
  *video view*; on one device both are the whole batch.

  Attributes:
    text_cosine, text_dot: `[Q_loc, B]`, own captions × all videos.
    video_cosine, video_dot: `[Q, B_loc]`, all captions × own videos.
    own_curve: `[Q, L]`, cosine of each caption with the row of frames that holds its own video; None unless a term of
      this branch reads it. Without meaning for captions whose video is on another device.
    own_mask: `[Q, L]` bool, which positions of it are frames of the caption's own video.
    queries: `[Q, H]`, vectors of all captions.
    own_queries: `[Q_loc, H]`, of the device's own.
    frames: `[R, L, H]`, vectors of the device's own videos.
    layout: where the videos lie in these.
  """

  text_cosine: jax.Array
  text_dot: jax.Array
  video_cosine: jax.Array
  video_dot: jax.Array
  own_curve: jax.Array | None = None
  own_mask: jax.Array | None = None
  queries: jax.Array | None = None
  own_queries: jax.Array | None = None
  frames: jax.Array | None = None
  layout: Layout | None = None


@flax.struct.dataclass
class LossInputs:
  """What a term sees.

  Attributes:
    branches: branch → what it makes of the batch, in the order of the configuration.
    teacher: what the teacher makes of it, without gradients; None where there is none.
    text: pairs of the text view.
    video: pairs of the video view. On one device it is the same as `text`.
    coefficients: scheduled scalars of this step by name; traced, so that their change never compiles anything.
    key: typed PRNG key of draws that branches share, the same on all devices.
    axes: mesh axes that the batch is spread over; sums and means over the batch add up over them.
  """

  branches: Mapping[str, BranchView]
  teacher: BranchView | None
  text: Pairs
  video: Pairs
  coefficients: Mapping[str, jax.Array]
  key: jax.Array
  axes: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


class Term(NamedTuple):
  """A term of the objective.

  Attributes:
    name: it is logged as `<branch>/<name>`.
    function: `(inputs, branch, key, **options) → (loss, parts)`. The key is the branch's; fold something of the term in
      before drawing from it.
    weight: of the term; with 0 it is not computed.
    branches: that it is computed for.
    schedule: name of the coefficient that it is multiplied by, too; None: none.
    needs_teacher: it reads own curves of branch and teacher, and is left out where there is no teacher.
    own_curves: it reads those of the branch, with a teacher or without.
    options: further arguments of the function, as pairs.
  """

  name: str
  function: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
  weight: float
  branches: tuple[str, ...]
  schedule: str | None = None
  needs_teacher: bool = False
  own_curves: bool = False
  options: tuple[tuple[str, Any], ...] = ()


def total_loss(inputs: LossInputs, terms: Sequence[Term], key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Sums the terms of all branches, exactly over a batch spread over devices.

  Call it inside `shard_map` with `check_vma` on, and differentiate from outside. The typed PRNG key of all draws, the
  same on all devices, takes the place of that of the inputs.

  Returns:
    The total, and every term as it enters it (`total`, `<branch>/<term>`) with its unweighted parts below it.
  """
  shared, *keys = jax.random.split(key, 1 + len(inputs.branches))
  inputs = inputs.replace(key=shared)
  weighted, parts = {}, {}
  for branch, branch_key in zip(inputs.branches, keys, strict=True):
    for term in terms:
      if branch not in term.branches or term.weight == 0.0 or (term.needs_teacher and inputs.teacher is None):
        continue
      loss, detail = term.function(inputs, branch, branch_key, **dict(term.options))
      scale = term.weight * (1.0 if term.schedule is None else inputs.coefficients[term.schedule])
      weighted[f'{branch}/{term.name}'] = scale * loss
      parts |= {f'{branch}/{term.name}/{name}': value for name, value in detail.items()}
  total = jnp.sum(jnp.stack([*weighted.values(), jnp.zeros(())]))
  return total, {'total': total} | weighted | parts


def cosine_contrastive(inputs: LossInputs, branch: str, key: jax.Array, *, temperature: float):
  """The contrastive loss with hard labels on cosines divided by a temperature."""
  del key
  view = inputs.branches[branch]
  text, video = view.text_cosine / temperature, view.video_cosine / temperature
  return nce.hard_nce(text, video, inputs.text, inputs.video, inputs.axes)


def contrastive(
  inputs: LossInputs,
  branch: str,
  key: jax.Array,
  *,
  soft_labels: bool,
  random_split: bool,
  distilled: tuple[str, ...],
  stop_target_gradient: bool,
  teacher_temperature: float | None,
):
  """The contrastive loss on dot products, with soft alignment (DL-DKD++) or hard labels (DL-DKD).

  Soft targets follow the teacher's dot products, divided by its temperature, in the `distilled` branches, where there
  is a teacher; else the branch's own, without a gradient through them where `stop_target_gradient` (the release has
  it). The rows that keep hard labels are the first of the batch, or with `random_split` any.
  """
  del key
  view, text, video, axes = inputs.branches[branch], inputs.text, inputs.video, inputs.axes
  if not soft_labels:
    return nce.hard_nce(view.text_dot, view.video_dot, text, video, axes)
  alpha, beta = inputs.coefficients['alpha'], inputs.coefficients['beta']
  references = view.text_dot, view.video_dot
  if inputs.teacher is not None and branch in distilled:
    followed = inputs.teacher.text_dot, inputs.teacher.video_dot
    references = tuple(jax.lax.stop_gradient(x) / (teacher_temperature or 1.0) for x in followed)
  elif stop_target_gradient:
    references = jax.lax.stop_gradient(references)
  hard = split(text, video, alpha, inputs.key if random_split else None, axes)
  return nce.soft_nce(view.text_dot, view.video_dot, *references, text, video, hard, alpha, beta, axes)


def distillation(
  inputs: LossInputs,
  branch: str,
  key: jax.Array,
  *,
  kl_captions: float | None,
  temperature: float,
  teacher_temperature: float | None,
):
  """The divergence of the frame curves of branch and teacher; see `frame_curve_kl`.

  It is summed over the captions of the batch; with `kl_captions` it is the mean over captions times this number, which
  equals the sum at that many captions and does not grow with the batch.

  Raises:
    UserError: the branch's vectors are not of the frames that the teacher sees.
  """
  del key
  teacher, view = inputs.teacher, inputs.branches[branch]
  if view.own_curve.shape != teacher.own_curve.shape:
    raise UserError(
      f'the branch {branch!r} has no vector for each frame, so that it cannot follow the frame curves of the teacher; '
      'take it out of config.model.distilled'
    )
  mask = view.own_mask & inputs.video.captions[:, None]
  temperatures = {'temperature': temperature, 'teacher_temperature': teacher_temperature}
  curves = jax.lax.stop_gradient(teacher.own_curve), view.own_curve
  divergence = global_sum(frame_curve_kl(*curves, mask, **temperatures), inputs.axes)
  if kl_captions is not None:
    captions = global_sum(jnp.sum(inputs.text.captions), inputs.axes)
    divergence = divergence * (kl_captions / jnp.maximum(captions, 1))
  return divergence, {'kl': divergence}


def frame_curve_kl(
  teacher: jax.Array,
  student: jax.Array,
  mask: jax.Array,
  *,
  temperature: float,
  teacher_temperature: float | None = None,
) -> jax.Array:
  """Computes Σ_q KL(P_q ‖ S_q) of the frame distributions of each caption's own video (DL-DKD, knowledge distillation).

  P = softmax over the video's real frames of the teacher's cosines / temperature, S the same of the student's.

  Args:
    teacher: `[Q, L]` cosines of each caption with the row of frames that holds its own video.
    student: `[Q, L]`, the branch's.
    mask: `[Q, L]` bool, real frames of each real caption's own video. A caption without any, whose video is on another
      device, adds nothing.
    temperature: divides both curves, in cosine.
    teacher_temperature: divides the teacher's curve instead, where given.

  Returns:
    The divergence in nats, summed over frames and over captions.
  """
  chex.assert_equal_shape([teacher, student, mask])
  divisors = teacher_temperature or temperature, temperature
  log_p, log_s = (
    jax.nn.log_softmax(jnp.where(mask, curve / divisor, MASKED), axis=1)
    for curve, divisor in zip((teacher, student), divisors, strict=True)
  )
  return jnp.sum(jnp.where(mask, jnp.exp(log_p) * (log_p - log_s), 0.0))
