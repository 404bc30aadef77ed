"""From a configuration to the objects of a run: student, options, schedules, optimiser.

The only module of the training that knows the names of configuration fields, besides the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.losses.total import Coefficients, LossOptions
from dlkd_jax.models.student import EXPLORATION, INHERITANCE, Student
from dlkd_jax.retrieval.evaluation import EvaluationOptions
from dlkd_jax.similarity.max_over_frames import choose_form
from dlkd_jax.training import schedules
from dlkd_jax.training.objective import ObjectiveOptions
from dlkd_jax.training.optimizer import bert_adam


def product_dtype(config: ml_collections.ConfigDict, platform: str | None = None) -> Any:
  """Returns the type of matrix products: `model.precision`, whose 'auto' is bfloat16 on a TPU or a GPU.

  Args:
    config: the configuration.
    platform: 'cpu', 'gpu' or 'tpu'; by default the one at hand.
  """
  precision = config.model.precision
  if precision == 'auto':
    precision = 'float32' if (platform or jax.default_backend()) == 'cpu' else 'bfloat16'
  return jnp.dtype(precision)


def make_student(config: ml_collections.ConfigDict, platform: str | None = None) -> Student:
  """Makes the student of a configuration for a platform, by default the one at hand."""
  fields = {name: value for name, value in config.model.items() if name != 'precision'}
  return Student(
    max_frames=config.data.max_frames,
    max_words=config.data.max_words,
    dtype=product_dtype(config, platform),
    **fields,
  )


def make_loss_options(config: ml_collections.ConfigDict) -> LossOptions:
  """Makes the weights and variants of the losses."""
  fields = {name: value for name, value in config.loss.items() if name in LossOptions.__dataclass_fields__}
  return LossOptions(**fields)


def make_objective_options(config: ml_collections.ConfigDict, platform: str | None = None) -> ObjectiveOptions:
  """Makes the options of the objective for a platform; the similarity's 'auto' is the kernel on a TPU."""
  return ObjectiveOptions(
    loss=make_loss_options(config),
    form=choose_form(config.similarity.form, platform),
    block_rows=config.similarity.block_rows,
    micro_batches=config.training.micro_batches,
    teacher_dtype=product_dtype(config, platform),
  )


def make_pipeline_options(
  config: ml_collections.ConfigDict, devices: int, teacher: bool, pixels: bool = False
) -> PipelineOptions:
  """Makes the options of the pipeline for so many devices, of all processes, with or without the teacher.

  `pixels` asks for the pictures that the teacher sees, in place of its features of them; evaluation never does.
  """
  fields = {name: value for name, value in config.data.items() if name in PipelineOptions.__dataclass_fields__}
  parts = config.training.micro_batches
  return PipelineOptions(teacher=teacher, pixels=pixels, shards=devices, row_multiple=parts, **fields)


def make_evaluation_options(config: ml_collections.ConfigDict, mesh, teacher: bool) -> EvaluationOptions:
  """Makes the options of the evaluation: how branches are fused, and whether the teacher is scored too."""
  inheritance = config.evaluation.inheritance_weight
  weights = {INHERITANCE: inheritance, EXPLORATION: 1.0 - inheritance}
  return EvaluationOptions(weights=weights, teacher=teacher, mesh=mesh)


def make_coefficients(config: ml_collections.ConfigDict, steps_per_epoch: int) -> Callable[[jax.Array], Coefficients]:
  """Makes the schedule of all loss coefficients: step → `Coefficients`."""
  s = config.schedules
  alpha = schedules.alpha(s.alpha, steps_per_epoch, s.alpha_start, s.epochs)
  beta = schedules.beta(s.beta, steps_per_epoch, s.beta_start, s.epochs)
  distillation = schedules.distillation_weight(s.distillation, steps_per_epoch)
  hard_from = config.loss.hard_negative_start_epoch * steps_per_epoch

  def coefficients(step):
    return Coefficients(alpha(step), beta(step), distillation(step), jnp.asarray(step >= hard_from))

  return coefficients


def make_optimizer(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Makes the optimiser and its learning-rate schedule, which runs over all epochs of the training."""
  o = config.optimizer
  rate = schedules.warmup_linear(o.learning_rate, config.training.epochs * steps_per_epoch, o.warmup)
  return bert_adam(rate, o.weight_decay, o.max_norm), rate
