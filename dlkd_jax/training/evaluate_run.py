"""Evaluation of parameters on splits: at the end of a run, of a run that was trained before, or of those in a file."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from dlkd_jax import config as config_lib
from dlkd_jax import files, multihost, sharding, tables
from dlkd_jax.errors import UserError
from dlkd_jax.models.parameter_files import check_shapes, read_parameters
from dlkd_jax.models.students import Student, init_parameters
from dlkd_jax.multihost import StopRequest, log
from dlkd_jax.retrieval import metrics as metrics_lib
from dlkd_jax.retrieval.evaluate import EvaluationResult, Evaluator
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import Progress, read_best

_WARM_EPOCHS = 8  # A branch that learns is above chance by then.


def evaluate(
  config: ml_collections.ConfigDict | None,
  workdir: files.Path,
  split: str,
  params_file: str | None = None,
  stop: StopRequest | None = None,
  given: Collection[str] | None = None,
) -> dict[str, float]:
  """Evaluates the best checkpoint of a work directory, or a file of parameters, on one split, and prints the table.

  Args:
    config: what to evaluate with: in that of the run some fields may be set anew, those of `given` (see
      `dlkd_jax.config.for_evaluation`). None: the run's own.
    workdir: the run, or any folder where `params_file` is given. `eval_<split>.json` is written to it, with the name of
      `params_file` and the settings that are not those of the run in its name.
    split: 'train', 'val' or 'test'.
    params_file: a safetensors file of parameters, in place of the best checkpoint.
    stop: whether to stop early.
    given: the fields of `config` that were asked for by name.

  Returns:
    The metrics by name.

  Raises:
    FileNotFoundError: there is no checkpoint, no such file or no such data set.
    UserError: a field differs from the run's that makes it what it is, the parameters do not fit the configuration and
      the data set, or every checkpoint is damaged.
    Stopped: it was asked to stop; nothing was written.
  """
  stop = stop or StopRequest()
  config, suffix = _configuration(config, workdir, params_file, given)
  mesh, student = sharding.make_mesh(model=config.mesh.model), recipe.make_student(config)
  sizes = recipe.feature_sizes(recipe.open_split(config, split))
  like = jax.eval_shape(lambda: init_parameters(student, jax.random.key(0), *sizes))
  if params_file is not None:
    params, origin = read_parameters(pathlib.Path(params_file), like, config.model.heads), params_file
    report = workdir / f'eval_{split}_{pathlib.Path(params_file).stem}{suffix}.json'
  else:
    params, step = read_best(workdir)
    check_shapes(params, like, f'the checkpoint of step {step} in {workdir}')
    origin, report = f'checkpoint of step {step} in {workdir}', workdir / f'eval_{split}{suffix}.json'
  params = jax.device_put(jax.device_get(params), sharding.replicated(mesh))
  evaluator = recipe.make_evaluator(config, student, mesh, split, teacher=True)
  result, text, _ = evaluate_split(evaluator, params, config.data.dataset, split, stop.noted)
  metrics = result.as_dict(f'{split}/')
  log(f'{origin}\n{text}')
  multihost.on_main(lambda: files.write_json(report, metrics))
  return metrics


def _configuration(
  config: ml_collections.ConfigDict | None,
  workdir: files.Path,
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


def evaluate_split(
  evaluator: Evaluator, params: Any, dataset: str, split: str, should_stop: Callable[[], bool] | None = None
) -> tuple[EvaluationResult, str, str]:
  """Evaluates parameters on a split, the teacher alone beside them: what was found, as a text table and in Markdown."""
  result = evaluator(params, should_stop)
  videos = len(result.video_ids)
  heading = f'{dataset}, {split}: {len(result.caption_ids):,} captions, {videos:,} videos'
  rows = metrics_lib.table_rows(result.metrics, videos)
  return result, f'{heading}\n{tables.as_text(rows)}', f'{heading}\n\n{tables.as_markdown(rows)}'


def warn_of_chance(result: EvaluationResult, epochs: int) -> bool:
  """Says, and returns, whether a branch alone ranks validation as chance does though some epochs went by."""
  weak = metrics_lib.at_chance(result.metrics, len(result.video_ids)) if epochs >= _WARM_EPOCHS else {}
  for name, chance in weak.items():
    log(
      f'warning: after {epochs} epochs the branch {name} alone is at chance on validation (SumR '
      f'{result.metrics[name].sum_r:.1f}, chance {chance:.1f}). Hard negatives from the first epoch on do this on many '
      'data sets: train anew with an argument of the recipe, as --config=FILE:uniform_negatives or FILE:plus, or '
      'FILE:anchored where captions are few.'
    )
  return bool(weak)


def final_report(
  config: ml_collections.ConfigDict,
  workdir: files.Path,
  student: Student,
  params: Any,
  mesh: Mesh,
  progress: Progress,
  validator: Evaluator,
  should_stop: Callable[[], bool] | None = None,
) -> dict[str, float]:
  """Evaluates the best parameters on validation and test, as far as the data set has these splits.

  Prints the tables and writes `results.json`, `results.md`, and `ranks.npz`: `<split>/<scorer>`, the rank of each
  caption's own video, in the order of the captions' ids, and `<split>/video`, the number of that video. Where
  `should_stop` returns true, Stopped is raised and nothing written. Returns the metrics of the splits by name.
  """
  best = f'epoch {progress.best_epoch} of {progress.evaluated_epochs}, chosen by SumR on validation'
  metrics, ranks, markdown = {}, {}, [f'# Results\n\nParameters of {best}.']
  log(f'\nFinal results, {best}')
  for split in recipe.names(config, ('val', 'test')):
    # What was read of validation is there already.
    evaluator = validator if split == 'val' else recipe.make_evaluator(config, student, mesh, split, teacher=True)
    found, text, table = evaluate_split(evaluator, params, config.data.dataset, split, should_stop)
    metrics, order = metrics | found.as_dict(f'{split}/'), np.argsort(found.caption_ids)
    ranks |= {f'{split}/{name}': x[order] for name, x in (found.ranks | {'video': found.own_columns}).items()}
    markdown.append(table)
    log(f'\n{text}')
  record = {'best_epoch': progress.best_epoch, 'epochs': progress.evaluated_epochs, 'metrics': metrics}

  def write() -> None:
    files.write_text(workdir / 'results.md', '\n\n'.join(markdown) + '\n')
    with files.replacing(workdir / 'ranks.npz') as temporary, temporary.open('wb') as content:
      np.savez_compressed(content, **ranks)
    files.write_json(workdir / 'results.json', record)

  multihost.on_main(write)
  return metrics
