"""A run that was trained: its configuration, its best parameters, and what it logged."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from dlkd_jax import sharding
from dlkd_jax.gallery import runs
from dlkd_jax.models.parameter_files import check_shapes
from dlkd_jax.models.students import Student, init_parameters
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import Checkpoints, read_best


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """A run, opened for evaluation.

  Attributes:
    name: what to call it beside others.
    workdir: its folder.
    config: its configuration.
    student: the module.
    params: those of the best epoch by SumR on validation, on all devices of `mesh`.
    mesh: devices to evaluate on.
    step: that the parameters are of.
    epoch: the same, in epochs from 1; 0 where no epoch was rated.
    epochs: that were trained.
  """

  name: str
  workdir: pathlib.Path
  config: ml_collections.ConfigDict
  student: Student
  params: Any
  mesh: Mesh
  step: int
  epoch: int
  epochs: int


def open_run(workdir: pathlib.Path, name: str, split: str, data_dir: str | None = None) -> TrainedRun:
  """Opens the best checkpoint of a run; changes nothing in its folder.

  Args:
    workdir: of the run.
    name: what to call it.
    split: that will be evaluated; tells the sizes of the features.
    data_dir: where its data set lies now; None: where it lay.

  Raises:
    FileNotFoundError: there is no run, no checkpoint or no data set.
    CheckpointError: every checkpoint is damaged.
    ValueError: the checkpoint does not fit the configuration and the data set.
  """
  config = runs.read_config(workdir, data_dir)
  mesh, student = sharding.make_mesh(model=config.mesh.model), recipe.make_student(config)
  sizes = recipe.feature_sizes(recipe.open_split(config, split))
  params, step = read_best(workdir)
  like = jax.eval_shape(lambda: init_parameters(student, jax.random.key(0), sizes.frames, sizes.tokens))
  check_shapes(params, like, f'the checkpoint of step {step} in {workdir}')
  checkpoints = Checkpoints(workdir, read_only=True)
  best, newest = (checkpoints.progress(x) for x in (step, checkpoints.newest_whole() or step))
  params = jax.device_put(jax.device_get(params), sharding.replicated(mesh))
  return TrainedRun(name, workdir, config, student, params, mesh, step, best.best_epoch, newest.evaluated_epochs)
