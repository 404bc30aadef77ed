"""The account of a run: resume, train an epoch, evaluate, keep the best, stop early, report.

Order within a run: the state and the place in the data are restored as one; an epoch that was trained but not yet
evaluated is evaluated first; a checkpoint is written before the next batch is taken.
"""

from __future__ import annotations

import math
import pathlib
import time

import jax
import ml_collections

from dlkd_jax import config as config_lib
from dlkd_jax import sharding
from dlkd_jax.data.input_pipeline import train_pipeline
from dlkd_jax.models.student import init_parameters
from dlkd_jax.training import recipe, splits
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from dlkd_jax.training.console import StepWindow, progress_line
from dlkd_jax.training.report import final_report
from dlkd_jax.training.state import create_state, make_train_step
from dlkd_jax.training.writers import MetricWriter


class NonFiniteLossError(RuntimeError):
  """The loss became NaN or infinite; the newest checkpoint is from before."""


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
  """Trains to the end, or from where the work directory stopped, and reports.

  Running it again on a finished work directory only reports.

  Args:
    config: the configuration; see `configs/common.py`.
    workdir: where checkpoints, logs and results go.

  Returns:
    The final metrics by name (`test/fused/SumR`, …).

  Raises:
    NonFiniteLossError: the loss became NaN or infinite.
    ValueError: the configuration is wrong, or differs from that of the run in `workdir`.
    FileNotFoundError: the data set was not built.
  """
  config_lib.validate(config)
  workdir = workdir.expanduser().absolute()
  run = _Run(config, workdir)
  config_lib.write_or_compare(config, workdir)
  with Checkpoints(workdir) as checkpoints:
    run.restore_or_start(checkpoints)
    with MetricWriter(workdir, int(run.state.step)) as writer:
      run.train(checkpoints, writer)
    params = run.best_params(checkpoints)
    return final_report(config, workdir, run.student, params, run.mesh, run.progress)


class _Run:
  """One run: what it consists of, and its loop."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    self.config, self.workdir = config, workdir
    self.mesh = sharding.make_mesh()
    source = splits.open_split(config, 'train')
    options = recipe.make_pipeline_options(config, self.mesh.size, config.loss.teacher)
    self.pipeline = train_pipeline(source, options, config.seed)
    self.steps_per_epoch = self.pipeline.steps_per_epoch
    self.total_steps = self.steps_per_epoch * config.training.epochs

    self.student = recipe.make_student(config)
    self.optimizer, learning_rate = recipe.make_optimizer(config, self.steps_per_epoch)
    init_key, self.step_key = jax.random.split(jax.random.key(config.seed))
    sizes = splits.feature_sizes(source)
    self.state = create_state(
      lambda: init_parameters(self.student, init_key, sizes.frames, sizes.tokens), self.optimizer, self.mesh
    )
    self.train_step = make_train_step(
      self.student,
      self.optimizer,
      recipe.make_coefficients(config, self.steps_per_epoch),
      learning_rate,
      recipe.make_loss_options(config),
      self.mesh,
    )
    self.validator = splits.SplitEvaluator(config, self.student, self.mesh, 'val')
    self.iterator = iter(self.pipeline)
    self.progress = Progress(self.iterator.get_state())
    parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
    print(
      f'{config.data.dataset}: {len(source):,} training videos, {self.steps_per_epoch} steps an epoch; '
      f'{parameters:,} parameters; {self.mesh.size} {jax.default_backend()} device(s)',
      flush=True,
    )

  def restore_or_start(self, checkpoints: Checkpoints) -> None:
    """Restores the newest checkpoint, if there is one: state, place in the data and progress as one."""
    step = checkpoints.latest_step
    if step is None:
      return
    self.state, self.progress = checkpoints.restore(step, self.state)
    self.iterator.set_state(self.progress.iterator)
    print(f'resumed from the checkpoint of step {step} in {self.workdir}', flush=True)

  def best_params(self, checkpoints: Checkpoints):
    """Returns the parameters of the epoch with the best SumR on validation."""
    best = checkpoints.best_step
    if best is None or best == int(self.state.step):
      return self.state.params
    return checkpoints.restore(best, self.state)[0].params

  @property
  def finished(self) -> bool:
    """Whether all epochs are done, or so many passed without a new best."""
    progress, training = self.progress, self.config.training
    stale = progress.evaluated_epochs - progress.best_epoch
    return progress.evaluated_epochs >= training.epochs or stale >= training.patience

  def train(self, checkpoints: Checkpoints, writer: MetricWriter) -> None:
    """Trains until finished; between epochs, evaluates and saves."""
    step = int(self.state.step)
    while True:
      if step and step == (self.progress.evaluated_epochs + 1) * self.steps_per_epoch:
        self._end_epoch(step, checkpoints, writer)
      if self.finished:
        break
      step = self._train_epoch(step, checkpoints, writer)
    self.iterator.close()

  def _train_epoch(self, step: int, checkpoints: Checkpoints, writer: MetricWriter) -> int:
    """Trains to the end of the current epoch; returns the step reached."""
    end = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
    every, save_every = self.config.logging.every_steps, self.config.training.checkpoint_every_steps
    window, pending = StepWindow(), None
    while step < end:
      waiting = time.perf_counter()
      batch = sharding.shard_batch(next(self.iterator), self.mesh)
      window.waited(time.perf_counter() - waiting)
      self.state, metrics = self.train_step(self.state, batch, self.step_key)
      step += 1
      # The metrics of a step are read after the next one was dispatched, so that the device never waits for the host.
      if pending is not None:
        window.add(self._read(pending, step - 1))
      pending = metrics
      saves = save_every and step % save_every == 0 and step < end
      if step == end or step % every == 0 or saves:
        window.add(self._read(pending, step))
        pending = None
      if step == end or step % every == 0:
        self._log(step, window.summary(), writer)
        window = StepWindow()
      if saves:
        self._save(step, checkpoints)
    return step

  def _read(self, metrics, step: int) -> dict[str, float]:
    """Fetches the metrics of a step.

    Raises:
      NonFiniteLossError: a part of the loss is NaN or infinite.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    odd = [name for name, value in values.items() if not math.isfinite(value)]
    if odd:
      raise NonFiniteLossError(
        f'step {step}: {", ".join(odd)} became NaN or infinite. The newest checkpoint in {self.workdir} is from '
        'before; look for extreme values in the features, or lower config.optimizer.learning_rate and start anew.'
      )
    return values

  def _log(self, step: int, summary: dict[str, float], writer: MetricWriter) -> None:
    progress = self.progress
    validation = 'val SumR -'
    if progress.best_epoch:
      validation = f'val SumR best {progress.best_sum_r:.1f} (epoch {progress.best_epoch})'
    left = (self.total_steps - step) / summary['time/steps_per_second']
    line = progress_line(
      step=step,
      steps_per_epoch=self.steps_per_epoch,
      epochs=self.config.training.epochs,
      summary=summary,
      seconds_left=left,
      validation=validation,
    )
    print(line, flush=True)
    writer.write(step, summary)

  def _end_epoch(self, step: int, checkpoints: Checkpoints, writer: MetricWriter) -> None:
    """Evaluates on validation, notes a new best, saves."""
    start = time.perf_counter()
    result = self.validator(self.state.params)
    progress = self.progress
    progress.evaluated_epochs += 1
    sum_r = result.primary.sum_r
    news = ''
    if sum_r > progress.best_sum_r:
      progress.best_sum_r, progress.best_epoch, progress.best_step = sum_r, progress.evaluated_epochs, step
      news = ', new best'
    seconds = time.perf_counter() - start
    print(f'epoch {progress.evaluated_epochs:3d} | validation SumR {sum_r:.1f}{news} ({seconds:.1f} s)', flush=True)
    writer.write(step, result.as_dict('val/') | {'time/evaluation': seconds})
    self._save(step, checkpoints)

  def _save(self, step: int, checkpoints: Checkpoints) -> None:
    self.progress.iterator = self.iterator.get_state()
    checkpoints.save(step, self.state, self.progress)
