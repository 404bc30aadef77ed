"""Evaluation of a run that was trained before, or of parameters in a file."""

from __future__ import annotations

import pathlib
from collections.abc import Collection

import jax
import ml_collections

from dlkd_jax import config as config_lib
from dlkd_jax import files, multihost, sharding
from dlkd_jax.errors import UserError
from dlkd_jax.models.parameter_files import check_shapes, read_parameters
from dlkd_jax.models.student import init_parameters
from dlkd_jax.multihost import StopRequest, log
from dlkd_jax.training import recipe, splits
from dlkd_jax.training.checkpoints import read_best
from dlkd_jax.training.report import evaluate_split


def evaluate(
  config: ml_collections.ConfigDict | None,
  workdir: pathlib.Path,
  split: str,
  params_file: str | None = None,
  stop: StopRequest | None = None,
  given: Collection[str] | None = None,
) -> dict[str, float]:
  """Evaluates the best checkpoint of a work directory, or a file of parameters, on one split, and prints the table.

  Args:
    config: what to evaluate with. Of a run that is `config.json` in its work directory, in which some fields may be
      set anew (`dlkd_jax.config.for_evaluation`). None: the run's own configuration.
    workdir: the run, or any folder where `params_file` is given. `eval_<split>.json` is written to it, with the name of
      `params_file` in its name where that is given, and with the settings that are not those of the run.
    split: 'train', 'val' or 'test'.
    params_file: a safetensors file of parameters, or None for the best checkpoint.
    stop: whether to stop early; None never does.
    given: the fields of `config` that were asked for by name, see `for_evaluation`.

  Returns:
    The metrics by name.

  Raises:
    FileNotFoundError: there is no checkpoint, no such file or no such data set.
    CheckpointError: every checkpoint is damaged.
    UserError: a field differs from the run's that makes it what it is, or the parameters do not fit the configuration
      and the data set.
    Stopped: it was asked to stop; nothing was written.
  """
  stop = stop or StopRequest()
  config, suffix = _configuration(config, workdir, params_file, given)
  mesh, student = sharding.make_mesh(model=config.mesh.model), recipe.make_student(config)
  sizes = splits.feature_sizes(splits.open_split(config, split))
  like = jax.eval_shape(lambda: init_parameters(student, jax.random.key(0), sizes.frames, sizes.tokens))
  if params_file is not None:
    params, origin = read_parameters(pathlib.Path(params_file), like, config.model.heads), params_file
    report = workdir / f'eval_{split}_{pathlib.Path(params_file).stem}{suffix}.json'
  else:
    params, step = read_best(workdir)
    check_shapes(params, like, f'the checkpoint of step {step} in {workdir}')
    origin, report = f'checkpoint of step {step} in {workdir}', workdir / f'eval_{split}{suffix}.json'
  params = jax.device_put(jax.device_get(params), sharding.replicated(mesh))
  metrics, text, _ = evaluate_split(config, student, params, mesh, split, stop.noted)
  log(f'{origin}\n{text}')
  multihost.on_main(lambda: files.write_json(report, metrics))
  return metrics


def _configuration(
  config: ml_collections.ConfigDict | None,
  workdir: pathlib.Path,
  params_file: str | None,
  given: Collection[str] | None,
) -> tuple[ml_collections.ConfigDict, str]:
  """Returns the configuration to evaluate with, and what tells its results from those under the run's own."""
  if config is not None:
    config_lib.validate(config)
  if params_file is not None and not (workdir / 'config.json').exists():
    if config is None:
      raise UserError(f'{workdir} holds no run whose settings to take; give those of {params_file} with --config')
    return recipe.resolved(config), ''
  found = config_lib.for_evaluation(config, workdir, given, recipe.resolved)
  for note in found.notes:
    log(f'note: {note}')
  return found.config, found.suffix
