"""From a configuration to the objects of a run: student, options, schedules, optimiser.

The only module of the training that knows the names of configuration fields, besides the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import optax

from dlkd_jax import plugins
from dlkd_jax.config_rules import TERM
from dlkd_jax.data.batch import PipelineOptions
from dlkd_jax.losses.total import Term, contrastive, distillation, triplet
from dlkd_jax.models.students import make_student as make_student
from dlkd_jax.models.students import product_dtype
from dlkd_jax.retrieval.evaluate import EvaluationOptions
from dlkd_jax.similarity.common import product_bytes
from dlkd_jax.similarity.max_over_frames import choose_form
from dlkd_jax.training import schedules
from dlkd_jax.training.objective import ObjectiveOptions
from dlkd_jax.training.optimizer import bert_adam

_Options = TypeVar('_Options')


def resolved(config: ml_collections.ConfigDict, platform: str | None = None) -> ml_collections.ConfigDict:
  """Returns a configuration with values in place of 'auto', for a platform, by default the one at hand.

  `model.precision` is bfloat16 on a TPU or a GPU, else float32; `similarity.form` is pallas on a TPU, else blocked.
  """
  platform = platform or jax.default_backend()
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.precision = product_dtype(config, platform).name
    config.similarity.form = choose_form(config.similarity.form, platform)
  return config.lock()


def _strictly(
  kind: type[_Options], group: ml_collections.ConfigDict, without: tuple[str, ...] = (), **more
) -> _Options:
  """Makes options of exactly the fields of a group of the configuration, but for those that go elsewhere, and `more`.

  Raises:
    TypeError: the options have no such field, or one without a value.
  """
  return kind(**{name: value for name, value in group.items() if name not in without}, **more)


def make_terms(config: ml_collections.ConfigDict) -> tuple[Term, ...]:
  """Makes the table of the loss: the terms of DL-DKD++, and those of `config.loss.terms`.

  Raises:
    UserError: the function of a term cannot be imported.
  """
  loss, branches, distilled = config.loss, tuple(config.model.branches), tuple(config.model.distilled)

  def options(*names: str, **more: Any) -> tuple[tuple[str, Any], ...]:
    return (*((name, loss[name]) for name in names), *more.items())

  soft = options('soft_labels', 'random_split', 'stop_target_gradient', 'teacher_temperature', distilled=distilled)
  curves = options('kl_captions', 'temperature', 'teacher_temperature')
  terms = [
    Term('triplet', triplet, loss.triplet_weight, branches, options=options('margin', 'hard_pool')),
    Term('nce', contrastive, loss.nce_weight, branches, options=soft),
    Term('distillation', distillation, loss.distillation_weight, distilled, 'distillation', True, True, curves),
  ]
  for name, entry in loss.terms.items():
    entry = TERM | dict(entry)
    function = plugins.find(entry['function'], {}, f'config.loss.terms.{name}.function')
    own = tuple((option, value) for option, value in entry.items() if option not in TERM)
    of = tuple(entry['branches']) or branches
    reads = entry['needs_teacher'], entry['own_curves'] or entry['needs_teacher']
    terms.append(Term(name, function, entry['weight'], of, name, *reads, own))
  return tuple(terms)


def make_objective_options(config: ml_collections.ConfigDict, platform: str | None = None) -> ObjectiveOptions:
  """Makes the options of the objective for a platform, by default the one at hand."""
  return _strictly(
    ObjectiveOptions,
    resolved(config, platform).similarity,
    terms=make_terms(config),
    micro_batches=config.training.micro_batches,
    product_bytes=product_bytes(platform or jax.default_backend()),
    teacher_dtype=product_dtype(config, platform),
  )


def make_pipeline_options(
  config: ml_collections.ConfigDict, devices: int, teacher: bool, pixels: bool = False
) -> PipelineOptions:
  """Makes the options of the pipeline for so many devices, of all processes, with or without the teacher.

  `pixels` asks for the pictures that the teacher sees, in place of its features of them; evaluation never does.
  """
  more = {'teacher': teacher, 'pixels': pixels, 'shards': devices, 'row_multiple': config.training.micro_batches}
  return _strictly(PipelineOptions, config.data, without=('dataset', 'data_dir', 'max_videos'), **more)


def make_evaluation_options(
  config: ml_collections.ConfigDict, mesh, teacher: bool, keep_scores: bool = False
) -> EvaluationOptions:
  """Makes the options of the evaluation: how branches are fused, whether the teacher is scored, and what is kept."""
  weights = dict(zip(config.model.branches, config.evaluation.weights, strict=True))
  return EvaluationOptions(weights, teacher, keep_scores, product_bytes=None, mesh=mesh)


def make_coefficients(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> Callable[[jax.Array], dict[str, jax.Array]]:
  """Makes the schedule of all loss coefficients: step → name → scalar."""
  s = config.schedules
  table = {
    'alpha': schedules.alpha(s.alpha, steps_per_epoch, s.alpha_start, s.epochs),
    'beta': schedules.beta(s.beta, steps_per_epoch, s.beta_start, s.epochs),
    'distillation': schedules.distillation_weight(s.distillation, steps_per_epoch),
  }
  for name, entry in config.loss.terms.items():
    entry = TERM | dict(entry)
    table[name] = schedules.decay(entry['schedule'], steps_per_epoch, 1.0, 0.0, s.epochs, entry['from_epoch'])
  hard_from = config.loss.hard_negative_start_epoch * steps_per_epoch

  def coefficients(step):
    return {name: schedule(step) for name, schedule in table.items()} | {
      'hard_negatives': jnp.asarray(step >= hard_from)
    }

  return coefficients


def make_optimizer(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Makes the optimiser and its learning-rate schedule, which runs over all epochs of the training."""
  o = config.optimizer
  rate = schedules.warmup_linear(o.learning_rate, max(1, config.training.epochs * steps_per_epoch), o.warmup)
  return bert_adam(rate, o.weight_decay, o.max_norm, config.training.average), rate
