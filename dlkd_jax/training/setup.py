"""What a run consists of, built from its configuration; nothing is written yet."""

from __future__ import annotations

import dataclasses

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from dlkd_jax import sharding
from dlkd_jax.data.sources import open_lengths
from dlkd_jax.data.train_pipeline import TrainPipeline, train_pipeline
from dlkd_jax.files import expand
from dlkd_jax.models.student import Student, init_parameters
from dlkd_jax.multihost import log
from dlkd_jax.retrieval.evaluate import Evaluator
from dlkd_jax.training import recipe, splits
from dlkd_jax.training.online_teacher import OnlineTeacher, load_clip_teacher
from dlkd_jax.training.state import StepFunction, TrainState, create_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Parts:
  """The parts of a run.

  Attributes:
    mesh: the devices of all processes.
    pipeline: the stream of batches, this process's share of each.
    student: the module.
    state: the training state of step 0, in buffers that the first step takes over.
    train_step: the jitted step.
    step_key: key of the run that every step folds its number into.
    validator: evaluates parameters on the validation split.
  """

  mesh: Mesh
  pipeline: TrainPipeline
  student: Student
  state: TrainState
  train_step: StepFunction
  step_key: jax.Array
  validator: Evaluator

  @property
  def steps_per_epoch(self) -> int:
    """Batches in an epoch."""
    return self.pipeline.steps_per_epoch


def assemble(config: ml_collections.ConfigDict) -> Parts:
  """Builds the parts of a run over the devices of all processes, and says what they are.

  Raises:
    ValueError: the configuration is wrong, or does not suit the data set, the teacher's model or the devices.
    FileNotFoundError: the data set was not built, or there is no such model.
  """
  mesh = sharding.make_mesh(model=config.mesh.model)
  online = config.teacher.online
  source = splits.open_split(config, 'train')
  teacher = _load_teacher(config, mesh, source) if online else None
  options = recipe.make_pipeline_options(config, mesh.size, config.loss.teacher, pixels=online)
  lengths = open_lengths(config.data.data_dir, config.data.dataset, 'train')
  lengths = None if lengths is None else lengths.first(len(source))
  processes = jax.process_count()
  pipeline = train_pipeline(source, options, config.seed, jax.process_index(), processes, lengths=lengths)
  student = recipe.make_student(config)
  optimizer, learning_rate = recipe.make_optimizer(config, pipeline.steps_per_epoch)
  init_key, step_key = keys_of_run(config.seed)
  # Made where it is used: one device's array cannot be put onto those of other processes.
  words = np.asarray(jax.random.key_data(step_key))
  whole = sharding.replicated(mesh)
  step_key = jax.jit(lambda: jax.random.wrap_key_data(words, impl='threefry2x32'), out_shardings=whole)()
  sizes = splits.feature_sizes(source)
  state = create_state(lambda: init_parameters(student, init_key, sizes.frames, sizes.tokens), optimizer, mesh)
  train_step = make_train_step(
    student,
    optimizer,
    recipe.make_coefficients(config, pipeline.steps_per_epoch),
    learning_rate,
    recipe.make_objective_options(config),
    mesh,
    teacher,
  )
  parameters = sum(x.size for x in jax.tree.leaves(state.params))
  log(
    f'{config.data.dataset}: {len(source):,} training videos, {pipeline.steps_per_epoch} steps an epoch; '
    f'{parameters:,} parameters; {mesh.size} {jax.default_backend()} device(s)'
    + (f' of {processes} processes' if processes > 1 else '')
  )
  log(repr(pipeline.plan))
  validator = splits.make_evaluator(config, student, mesh, 'val', again=True)
  return Parts(mesh, pipeline, student, state, train_step, step_key, validator)


def keys_of_run(seed: int) -> tuple[jax.Array, jax.Array]:
  """Returns the keys of the first parameters and of the steps, of a generator that no environment chooses.

  Draws of another would depend on how a batch is packed and spread, and with them the results.
  """
  jax.config.update('jax_threefry_partitionable', True)
  init_key, step_key = jax.random.split(jax.random.key(seed, impl='threefry2x32'))
  return init_key, step_key


def _load_teacher(config: ml_collections.ConfigDict, mesh: Mesh, source) -> OnlineTeacher:
  """Loads the teacher that encodes the pictures of the training split, onto all devices."""
  folder, at_once = expand(config.teacher.clip), config.teacher.micro_batch
  teacher = load_clip_teacher(folder, source[0], mesh, recipe.product_dtype(config), at_once)
  log(f'teacher inside the step: {folder}, pictures of {teacher.size}x{teacher.size}, {teacher.micro_batch} at once')
  return teacher
