"""From a configuration to the objects of a run: splits of its data set, student, options, optimiser, evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from dlkd_jax import config as config_lib
from dlkd_jax import plugins
from dlkd_jax.config_fields import TERM
from dlkd_jax.data.batch import PipelineOptions
from dlkd_jax.data.evaluation_blocks import EvaluationSplit
from dlkd_jax.data.sources import Lengths, open_lengths, open_source, split_names
from dlkd_jax.data.taught import WithTeacher
from dlkd_jax.losses.total import Term, contrastive, distillation
from dlkd_jax.losses.triplet import triplet
from dlkd_jax.models.students import Student, product_dtype, teacher_features
from dlkd_jax.models.students import make_student as make_student
from dlkd_jax.retrieval import metrics
from dlkd_jax.retrieval.evaluate import EvaluationOptions, Evaluator, encoders_of
from dlkd_jax.retrieval.metrics import TEACHER
from dlkd_jax.similarity.common import product_bytes
from dlkd_jax.similarity.max_over_frames import choose_form
from dlkd_jax.training import optimizer as optimizer_lib
from dlkd_jax.training.objective import ObjectiveOptions

# Fields of `config.data` that the pipeline does not take.
_ELSEWHERE = 'dataset', 'data_dir', 'max_videos', 'on_device'


def resolved(config: ml_collections.ConfigDict, platform: str | None = None) -> ml_collections.ConfigDict:
  """Returns a configuration with values in place of 'auto', for a platform, by default the one at hand.

  `model.precision` is bfloat16 on a TPU or a GPU, else float32; `similarity.form` is pallas on a TPU, else blocked.
  """
  platform = platform or jax.default_backend()
  form = choose_form(config.similarity.form, platform)
  values = {'model.precision': product_dtype(config, platform).name, 'similarity.form': form}
  return config_lib.with_values(config, values)


def make_terms(config: ml_collections.ConfigDict) -> tuple[Term, ...]:
  """Makes the table of the loss: the terms of DL-DKD++, and those of `config.loss.terms`, which are imported."""
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
  return ObjectiveOptions(
    **resolved(config, platform).similarity,
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
  fields = {name: x for name, x in config.data.items() if name not in _ELSEWHERE}
  parts = config.training.micro_batches
  return PipelineOptions(**fields, teacher=teacher, pixels=pixels, shards=devices, row_multiple=parts)


def make_evaluation_options(
  config: ml_collections.ConfigDict, mesh, teacher: bool = False, keep_scores: bool = False
) -> EvaluationOptions:
  """Makes the options of the evaluation; the teacher is scored where it is part of the fused score, too."""
  weights = fused_weights(config)
  return EvaluationOptions(weights, teacher or TEACHER in weights, keep_scores, product_bytes=None, mesh=mesh)


def fused_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
  """Returns scorer → weight in the fused score."""
  return metrics.fused_weights(config.model.branches, config.evaluation.weights)


def make_coefficients(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> Callable[[jax.Array], dict[str, jax.Array]]:
  """Makes the schedule of all loss coefficients: step → name → scalar."""
  s, hard_from = config.schedules, config.loss.hard_negative_start_epoch * steps_per_epoch
  decay = functools.partial(optimizer_lib.decay, steps_per_epoch=steps_per_epoch)
  table = {
    'alpha': decay(s.alpha, start=s.alpha_start, end=0.0, epochs=s.epochs),
    # Down to 0.5, or to 0 where it starts below.
    'beta': decay(s.beta, start=s.beta_start, end=0.5 if s.beta_start >= 0.5 else 0.0, epochs=s.epochs),
    # Linear: max(1 − 0.01e, 0.05), whatever the length of the other curves.
    'distillation': decay(s.distillation, start=1.0, end=0.05 if s.distillation == 'linear' else 0.0, epochs=95),
    'hard_negatives': lambda step: jnp.asarray(step >= hard_from),
  }
  for name, entry in config.loss.terms.items():
    entry = TERM | dict(entry)
    table[name] = decay(entry['schedule'], start=1.0, end=0.0, epochs=s.epochs, from_epoch=entry['from_epoch'])
  return lambda step: {name: schedule(step) for name, schedule in table.items()}


def make_optimizer(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Makes the optimiser and its learning-rate schedule, which runs over all epochs of the training."""
  o = config.optimizer
  rate = optimizer_lib.warmup_linear(o.learning_rate, max(1, config.training.epochs * steps_per_epoch), o.warmup)
  return optimizer_lib.bert_adam(rate, o.weight_decay, o.max_norm, config.training.average), rate


class FeatureSizes(NamedTuple):
  """Feature sizes of a data set: Dv of student frames and Dq of student tokens."""

  frames: int
  tokens: int


def open_split(config: ml_collections.ConfigDict, split: str, taught: bool = True):
  """Opens a split of the configured data set, cut to `config.data.max_videos` where that is set.

  Where the student sees the teacher's features, they stand behind its own (`dlkd_jax.data.taught`), unless `taught` is
  False.

  Raises:
    FileNotFoundError: the data set was not built; the message says how.
  """
  source = open_source(config.data.data_dir, config.data.dataset, split)
  source = source if config.data.max_videos is None else source.first(config.data.max_videos)
  return WithTeacher(source) if taught and teacher_features(config) else source


def lengths_of(config: ml_collections.ConfigDict, split: str, source) -> Lengths | None:
  """Returns the lengths of the records of an opened split, or None where the data set was built without them."""
  lengths = open_lengths(config.data.data_dir, config.data.dataset, split)
  return None if lengths is None else lengths.first(len(source))


def names(config: ml_collections.ConfigDict, wanted: Sequence[str]) -> list[str]:
  """Returns which of the wanted splits the configured data set has."""
  there = split_names(config.data.data_dir, config.data.dataset)
  return [split for split in wanted if split in there]


def feature_sizes(source) -> FeatureSizes:
  """Reads the feature sizes off the first record of a source."""
  record = source[0]
  return FeatureSizes(record['student_frames'].shape[-1], record['student_tokens'].shape[-1])


def make_evaluator(
  config: ml_collections.ConfigDict,
  student: Student,
  mesh: Mesh,
  split: str,
  *,
  teacher: bool = False,
  keep_scores: bool = False,
  again: bool = False,
) -> Evaluator:
  """Makes what evaluates a student's parameters on a split, over the devices of all processes.

  With `teacher` it is scored alone, too, where its features exist; with `keep_scores` results have all score matrices;
  where this is called `again`, the split stays in memory, where it fits.
  """
  source, options = open_split(config, split), make_evaluation_options(config, mesh, teacher, keep_scores)
  processes, devices = len({device.process_index for device in mesh.devices.flat}), mesh.local_mesh.size
  blocks = EvaluationSplit(
    source,
    make_pipeline_options(config, mesh.size, options.teacher),
    # Blocks divide over this process's devices.
    -(-config.evaluation.block_captions // devices) * devices,
    -(-config.evaluation.block_videos // devices) * devices,
    lengths=lengths_of(config, split, source),
    process=jax.process_index() if processes > 1 else 0,
    processes=processes,
    keep=again,
  )
  return Evaluator(encoders_of(student), blocks, options)
