"""From a batch to the objective: student, similarities of both branches and of the teacher, total loss."""

from __future__ import annotations

from typing import Any

import jax

from dlkd_jax.data.batch import Batch
from dlkd_jax.losses.total import Coefficients, LossOptions, total_loss
from dlkd_jax.models.student import Student
from dlkd_jax.similarity.max_over_frames import max_frame_similarity


def compute_objective(
  params: Any,
  student: Student,
  batch: Batch,
  *,
  coefficients: Coefficients,
  key: jax.Array,
  options: LossOptions,
  deterministic: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the training objective of one batch.

  Args:
    params: parameters of the student.
    student: the module.
    batch: the batch; without teacher arrays, training goes without distillation.
    coefficients: scheduled scalars of this step.
    key: typed PRNG key of this step: dropout and the draws of the losses.
    options: weights and variants of the losses.
    deterministic: no dropout.

  Returns:
    The scalar to minimise, and every part of it by name.
  """
  dropout_key, loss_key = jax.random.split(key)
  frames, queries = student.apply(
    {'params': params},
    batch.student_frames,
    batch.frame_mask,
    batch.student_tokens,
    batch.token_mask,
    deterministic=deterministic,
    rngs={'dropout': dropout_key},
  )
  distils = batch.teacher_frames is not None
  labels = batch.labels if distils else None
  branches = {
    name: max_frame_similarity(queries[name], frames[name], batch.frame_mask, labels) for name in student.branch_names
  }
  teacher = None
  if distils:
    teacher = max_frame_similarity(batch.teacher_text, batch.teacher_frames, batch.frame_mask, batch.labels)
  return total_loss(
    branches,
    teacher,
    labels=batch.labels,
    caption_mask=batch.caption_mask,
    video_mask=batch.video_mask,
    frame_mask=batch.frame_mask,
    coefficients=coefficients,
    key=loss_key,
    options=options,
  )
