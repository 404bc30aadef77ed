"""Distillation of the teacher's frame curves into the inheritance branch.

Sizes: Q captions, L frames.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from dlkd_jax.losses.masks import MASKED

TEMPERATURE = 0.2


def frame_curve_kl(
  teacher_curve: jax.Array,
  student_curve: jax.Array,
  frame_mask: jax.Array,
  caption_mask: jax.Array,
  *,
  temperature: float = TEMPERATURE,
  teacher_temperature: float | None = None,
) -> jax.Array:
  """Computes Σ_q KL(P_q ‖ S_q) of the frame distributions of each caption's own video.

  P = softmax over the video's real frames of the teacher's cosines / temperature, S the same of the student's.

  Args:
    teacher_curve: `[Q, L]` cosines of each caption with the frames of its own video, the teacher's.
    student_curve: `[Q, L]`, the inheritance branch's.
    frame_mask: `[Q, L]` bool, real frames of each caption's own video.
    caption_mask: `[Q]` bool, real captions.
    temperature: divides both curves, in cosine.
    teacher_temperature: divides the teacher's curve instead, where given.

  Returns:
    The divergence in nats, summed over frames and over captions; divide it by the captions for the mean.
  """
  chex.assert_equal_shape([teacher_curve, student_curve, frame_mask])
  mask = frame_mask & caption_mask[:, None]

  def log_probabilities(curve, divisor):
    return jax.nn.log_softmax(jnp.where(mask, curve / divisor, MASKED), axis=1)

  teacher = log_probabilities(teacher_curve, teacher_temperature or temperature)
  student = log_probabilities(student_curve, temperature)
  return jnp.sum(jnp.where(mask, jnp.exp(teacher) * (teacher - student), 0.0))
