"""The account of a run: resume, train an epoch, evaluate, keep the best, stop early, report.

Order within a run: the state and the place in the data are restored as one; an epoch that was trained but not yet
evaluated is evaluated first; a checkpoint is written before an evaluation, and before the next batch is taken. A
request to stop is obeyed behind the step at hand, or in the middle of an evaluation, which is then made again on
resuming.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import time

import jax
import ml_collections

from dlkd_jax import config as config_lib
from dlkd_jax import multihost, sharding
from dlkd_jax.data.batch import pack
from dlkd_jax.errors import UserError
from dlkd_jax.multihost import Stopped, StopRequest, log
from dlkd_jax.training import recipe, setup
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from dlkd_jax.training.console import StepWindow, progress_line
from dlkd_jax.training.profiling import StepTracer
from dlkd_jax.training.report import final_report
from dlkd_jax.training.usage import Compilations, memory
from dlkd_jax.training.writers import MetricWriter, NoWriter


class NonFiniteLossError(UserError):
  """The loss became NaN or infinite; the newest checkpoint is from before."""


def train(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, stop: StopRequest | None = None
) -> dict[str, float]:
  """Trains to the end, or from where the work directory stopped, and reports.

  Running it again on a finished work directory only reports. In several processes all of them call it alike.

  Args:
    config: the configuration; see `configs/common.py`.
    workdir: where checkpoints, logs and results go; the same folder for all processes.
    stop: whether to stop early; None never does.

  Returns:
    The final metrics by name (`test/fused/SumR`, …).

  Raises:
    Stopped: it was asked to stop, and all that it needs to go on is saved.
    NonFiniteLossError: the loss became NaN or infinite.
    CheckpointError: a checkpoint could not be written, or none that is there can be read.
    ValueError: the configuration is wrong, or differs from that of the run in `workdir`.
    FileNotFoundError: the data set was not built.
    OSError: the work directory cannot be written to.
  """
  config_lib.validate(config)
  workdir = workdir.absolute()
  stop = stop or StopRequest()
  config, notes, _ = config_lib.settle(config, workdir, recipe.resolved)
  for note in notes:
    log(f'note: {note}')
  with contextlib.ExitStack() as stack:
    compilations = stack.enter_context(Compilations())
    steps = config.logging.profile_steps if multihost.is_main() else ()
    tracer = stack.enter_context(StepTracer(workdir, steps))
    run = _Run(config, workdir, setup.assemble(config), stop)
    multihost.on_main(lambda: config_lib.write_or_compare(config, workdir))
    run.restore_or_start(Checkpoints(workdir))
    stack.callback(run.iterator.close)
    with run.open_writer() as writer:
      run.train(writer, tracer, compilations)
    params = run.best_params()
    return final_report(config, workdir, run.parts.student, params, run.parts.mesh, run.progress, stop.noted)


class _Run:
  """One run: what it consists of, and its loop."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, parts: setup.Parts, stop: StopRequest):
    self.config, self.workdir, self.parts, self.stop = config, workdir, parts, stop
    self.state, self.iterator = parts.state, iter(parts.pipeline)
    self.progress = Progress(self.iterator.get_state())
    self.saved_step: int | None = None
    self.save_seconds = 0.0

  def restore_or_start(self, checkpoints: Checkpoints) -> None:
    """Restores the newest checkpoint, if there is one: state, place in the data and progress as one."""
    self.checkpoints = checkpoints
    step = checkpoints.latest_step
    if step is None:
      return
    self.state, self.progress = checkpoints.restore(step, self.state)
    self.iterator.set_state(self.progress.iterator)
    self.saved_step = step
    log(f'resumed from the checkpoint of step {step} in {self.workdir}')
    if self.progress.best_step != (best := checkpoints.best_step or 0):
      self._forget_best(best)

  def _forget_best(self, step: int) -> None:
    """Takes the best of the checkpoints that are left for the best so far; that of the progress is lost."""
    lost, progress = self.progress.best_step, self.progress
    left = self.checkpoints.progress(step) if step else Progress({}, best_epoch=progress.evaluated_epochs)
    progress.best_sum_r, progress.best_epoch, progress.best_step = left.best_sum_r, left.best_epoch, left.best_step
    instead = f'that of step {step} takes its place' if step else 'the next to be evaluated takes its place'
    log(f'warning: the best checkpoint, of step {lost}, is damaged or gone; {instead}')

  def open_writer(self) -> MetricWriter | NoWriter:
    """Opens the log behind the restored step."""
    if not multihost.is_main():
      return NoWriter()
    evaluated = self.progress.evaluated_epochs * self.parts.steps_per_epoch
    return MetricWriter(self.workdir, int(self.state.step), evaluated)

  def best_params(self):
    """Returns the parameters of the epoch with the best SumR on validation."""
    best = self.progress.best_step
    if best in (0, int(self.state.step)):
      return self.state.params
    return self.checkpoints.restore(best, self.state)[0].params

  @property
  def finished(self) -> bool:
    """Whether all epochs are done, or so many passed without a new best."""
    progress, training = self.progress, self.config.training
    stale = progress.evaluated_epochs - progress.best_epoch
    return progress.evaluated_epochs >= training.epochs or stale >= training.patience

  def train(self, writer: MetricWriter | NoWriter, tracer: StepTracer, compilations: Compilations) -> None:
    """Trains until finished; between epochs, evaluates and saves.

    Raises:
      Stopped: it was asked to stop, and saved.
    """
    step = int(self.state.step)
    while True:
      if self.stop.agreed(step):
        self._leave(step)
      if step and step == (self.progress.evaluated_epochs + 1) * self.parts.steps_per_epoch:
        self._end_epoch(step, writer)
      if self.finished:
        break
      step = self._train_epoch(step, writer, tracer, compilations)

  def _train_epoch(self, step: int, writer, tracer: StepTracer, compilations: Compilations) -> int:
    """Trains to the end of the current epoch, or to where it is asked to stop; returns the step reached."""
    end = (step // self.parts.steps_per_epoch + 1) * self.parts.steps_per_epoch
    every, save_every = self.config.logging.every_steps, self.config.training.checkpoint_every_steps
    window, pending, stopping = StepWindow(), None, False
    while step < end and not stopping:
      # Nothing moves between devices, or between them and the host, but what is moved by name.
      with jax.transfer_guard('disallow'):
        waiting = time.perf_counter()
        batch = sharding.shard_batch(pack(next(self.iterator), self.parts.mesh.local_mesh.size), self.parts.mesh)
        window.waited(time.perf_counter() - waiting)
        with tracer.step(step + 1):
          self.state, metrics = self.parts.train_step(self.state, batch, self.parts.step_key)
      step += 1
      # The metrics of a step are read after the next one was dispatched, so that the device never waits for the host.
      if pending is not None:
        window.add(self._read(pending, step - 1))
      pending = metrics
      window.paused(tracer.after(step, metrics))
      stopping = self.stop.agreed(step)
      logs = step == end or step % every == 0
      saves = save_every and step % save_every == 0 and step < end
      if logs or saves or stopping:
        window.add(self._read(pending, step))
        pending = None
      if logs:
        self._log(step, window.summary() | memory() | compilations.scalars(), writer)
        window = StepWindow()
      if saves and not stopping:
        window.paused(self._save(step))
    return step

  def _leave(self, step: int) -> None:
    """Saves what is not saved yet, and leaves.

    Raises:
      Stopped: always.
    """
    if step and self.saved_step != step:
      self._save(step)
    raise Stopped(f'at step {step}; the same command goes on from there')

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

  def _log(self, step: int, summary: dict[str, float], writer) -> None:
    progress, steps_per_epoch, epochs = self.progress, self.parts.steps_per_epoch, self.config.training.epochs
    validation = 'val SumR -'
    if progress.best_epoch:
      validation = f'val SumR best {progress.best_sum_r:.1f} (epoch {progress.best_epoch})'
    line = progress_line(
      step=step,
      steps_per_epoch=steps_per_epoch,
      epochs=epochs,
      summary=summary,
      seconds_left=(steps_per_epoch * epochs - step) * summary['time/step'],
      validation=validation,
    )
    log(line)
    writer.write(step, summary)

  def _end_epoch(self, step: int, writer) -> None:
    """Saves, evaluates on validation, notes a new best and marks the checkpoint as evaluated.

    Raises:
      Stopped: it was asked to stop meanwhile; the epoch trained is saved, its evaluation is made on resuming.
    """
    if self.saved_step != step:
      self._save(step)
    start = time.perf_counter()
    result = self.parts.validator(self.state.params, should_stop=self.stop.noted)
    progress = self.progress
    progress.evaluated_epochs += 1
    sum_r = result.primary.sum_r
    news = ''
    if sum_r > progress.best_sum_r:
      progress.best_sum_r, progress.best_epoch, progress.best_step = sum_r, progress.evaluated_epochs, step
      news = ', new best'
    seconds = time.perf_counter() - start
    log(f'epoch {progress.evaluated_epochs:3d} | validation SumR {sum_r:.1f}{news} ({seconds:.1f} s)')
    times = {'time/evaluation': seconds}
    if self.save_seconds:
      times['time/checkpoint'] = self.save_seconds
    writer.write(step, result.as_dict('val/') | times)
    self.checkpoints.mark(step, progress)

  def _save(self, step: int) -> float:
    """Saves a checkpoint; returns how many seconds that took."""
    start = time.perf_counter()
    self.progress.iterator = self.iterator.get_state()
    self.checkpoints.save(step, self.state, self.progress)
    self.saved_step, self.save_seconds = step, time.perf_counter() - start
    return self.save_seconds
