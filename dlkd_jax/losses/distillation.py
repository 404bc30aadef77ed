"""Distillation of the teacher's frame curves into the inheritance branch.

Sizes: Q captions, L positions of a row of frames.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from dlkd_jax.losses.masks import MASKED, global_sum


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
