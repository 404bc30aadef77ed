"""A run, from top to bottom: resume, train an epoch, evaluate, keep the best, stop early, report.

Order within a run: the state and the place in the data are restored as one; an epoch that was trained but not yet
evaluated is evaluated first; a checkpoint is written before an evaluation, and before the next batch is taken. A
request to stop is obeyed between two steps, or in the middle of an evaluation, which is then made again on resuming.

Nothing comes between host and step: all shapes are compiled before the first step, a batch is placed on the devices
while the step before it is computed, and metrics are added up there and fetched once a record.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import Mesh

from dlkd_jax import config as config_lib
from dlkd_jax import files, multihost, sharding
from dlkd_jax.allocation import KEPT_SHARE, available_bytes, free_on_devices
from dlkd_jax.data.batch import Batch, Parcel, pack
from dlkd_jax.data.train_pipeline import TrainPipeline, train_pipeline
from dlkd_jax.models.students import Student, init_parameters
from dlkd_jax.multihost import Stopped, StopRequest, log
from dlkd_jax.retrieval.evaluate import EvaluationResult, Evaluator
from dlkd_jax.retrieval.metrics import TEACHER
from dlkd_jax.training import anchoring, recipe
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from dlkd_jax.training.evaluate_run import final_report, warn_of_chance
from dlkd_jax.training.monitoring import Compilations, MetricWriter, Records, StepTracer
from dlkd_jax.training.online_teacher import OnlineTeacher, load_teacher
from dlkd_jax.training.optimizer import averaged
from dlkd_jax.training.state import Filler, StepFunction, TrainState, create_state, make_train_step

# Of what a device has free, the part that features of the training split may take; the step needs the rest.
DEVICE_SHARE = 0.4


def train(config: ml_collections.ConfigDict, workdir: files.Path, stop: StopRequest | None = None) -> dict[str, float]:
  """Trains to the end, or from where the work directory stopped, and reports.

  Running it again on a finished work directory only reports. In several processes all of them call it alike, with the
  same `workdir`.

  Returns:
    The final metrics by name (`test/fused/SumR`, …).

  Raises:
    Stopped: it was asked to stop, and all that it needs to go on is saved.
    NonFiniteLossError: the loss became NaN or infinite.
    UserError: the configuration is wrong or not that of the run in `workdir`; a checkpoint cannot be written or read.
    FileNotFoundError: the data set was not built.
    OSError: the work directory cannot be written to.
  """
  workdir, stop = files.absolute(workdir), stop or StopRequest()
  config, notes, _ = config_lib.settle(config, workdir, recipe.resolved)
  for note in notes:
    log(f'note: {note}')
  with contextlib.ExitStack() as stack:
    compilations = stack.enter_context(Compilations())
    tracer = stack.enter_context(StepTracer(workdir, config.logging.profile_steps if multihost.is_main() else ()))
    mesh = sharding.make_mesh(model=config.mesh.model)
    config = anchoring.sized(config)
    student = recipe.make_student(config)
    config, source, fitted = anchoring.prepare(config, student, workdir, recipe.open_split(config, 'train'))
    teacher, pipeline = open_teacher(config, mesh, source), open_pipeline(config, mesh, source)
    sizes, per_epoch = recipe.feature_sizes(source), pipeline.steps_per_epoch
    init_key, step_key = keys_of_run(config.seed, mesh)
    optimizer, train_step = make_step(config, student, mesh, per_epoch, teacher or pipeline.resident)
    first = lambda key: anchoring.put(fitted, init_parameters(student, key, *sizes))  # noqa: E731
    state = create_state(first, optimizer, mesh, init_key)
    anchors = None if fitted is None else jax.tree.map(jnp.copy, state.params)  # The steps take the state's buffers.
    validator = recipe.make_evaluator(config, student, mesh, 'val', teacher=True, again=True)
    _describe(config, workdir, mesh, pipeline, state.params)
    checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir)))
    batches = stack.enter_context(PlacedBatches(pipeline, mesh))
    state, progress = _restore_or_start(checkpoints, state, batches, workdir)
    writer = None
    if multihost.is_main():
      writer = stack.enter_context(MetricWriter(workdir, int(state.step), progress.evaluated_epochs * per_epoch))
    if not _finished(config, progress):
      compiling = compile_ahead(train_step, state, pipeline.shapes(), step_key, mesh, validator)
      batches.place_next()  # The first one is read meanwhile.
      for program in compiling:
        program.result()
      batches.waited = 0.0
    every, epochs = config.logging.every_steps, config.training.epochs
    records = Records(writer, compilations, progress, workdir, every=every, per_epoch=per_epoch, epochs=epochs)
    state = fit(
      state,
      train_step,
      step_key,
      batches,
      config=config,
      per_epoch=per_epoch,
      progress=progress,
      validator=functools.partial(validator, teacher=TEACHER in recipe.fused_weights(config)),
      checkpoints=checkpoints,
      records=records,
      tracer=tracer,
      stop=stop,
      rate_start=fitted is not None,
    )
    best = _best_parameters(checkpoints, state, progress)
    options = functools.partial(recipe.make_evaluation_options, mesh=mesh, teacher=True)
    evaluate = validator.again(options(config, keep_scores=True))
    if fitted is not None and progress.best_step > 0:
      config, kept = anchoring.keep(config, workdir, fitted, evaluate, start=anchors, trained=best)
      if not kept:
        best, progress.best_step, progress.best_epoch, progress.best_averaged = anchors, 0, 0, False
        checkpoints.mark(int(state.step), progress)
    elif not len(config.evaluation.weights):
      config = anchoring.weigh(config, workdir, evaluate, best)
    return final_report(config, workdir, student, best, mesh, progress, validator.again(options(config)), stop.noted)


def _best_parameters(checkpoints: Checkpoints, state: TrainState, progress: Progress) -> Any:
  """Returns the parameters that were best on validation, which may be those at hand."""
  if progress.best_sum_r >= 0 and progress.best_step == 0:  # Step 0 is rated where a student starts from anchors.
    log(f'prefer anchors: none of {progress.evaluated_epochs} epochs of training was better on validation')
  if progress.best_sum_r >= 0 and progress.best_step != int(state.step):
    state = checkpoints.restore(progress.best_step, state)[0]
  return averaged(state.opt_state) if progress.best_averaged else state.params


def fit(
  state: TrainState,
  train_step: StepFunction,
  key: jax.Array,
  batches: PlacedBatches,
  *,
  config: ml_collections.ConfigDict,
  per_epoch: int,
  progress: Progress,
  validator: Callable[..., EvaluationResult],
  checkpoints: Checkpoints,
  records: Records,
  tracer: StepTracer,
  stop: StopRequest,
  rate_start: bool = False,
) -> TrainState:
  """Trains until finished: the loop. Its order decides what a run that was stopped finds; do not change it.

  The buffers of `state` are taken over, and `progress` is kept up to date. With `rate_start` what the training begins
  with is evaluated, too: it may be the best. Returns the last state.

  Raises:
    Stopped: it was asked to stop, and saved.
  """
  step = saved = int(state.step)
  warned = False
  if rate_start and step == 0 and progress.best_sum_r < 0:
    saved = -1
  save_every = config.training.checkpoint_every_steps
  while True:
    stopping = stop.agreed(step)
    ends = step == (progress.evaluated_epochs + 1) * per_epoch or saved < 0
    if step != saved and (stopping or ends or (save_every and step % save_every == 0)):
      records.flush()  # Raises where a metric is not finite: such a state is never saved.
      with records.pause('time/checkpoint'):
        progress.iterator = batches.place
        checkpoints.save(step, state, progress)
      saved = step
    if stopping:
      checkpoints.wait()
      raise Stopped(f'at step {step}; the same command goes on from there')
    if ends:
      with records.pause('time/evaluation'):
        try:
          found = _rate(state, step, functools.partial(validator, should_stop=stop.noted), progress)
        except Stopped:
          checkpoints.wait()
          raise
      records.add_evaluation(step, *found)
      warned = warned or warn_of_chance(found[0], progress.evaluated_epochs)
      checkpoints.mark(step, progress)
    if _finished(config, progress):
      return state
    # Nothing moves between devices, or between them and the host, but what is moved by name.
    with jax.transfer_guard('disallow'):
      batch = next(batches)
      step += 1
      tracer.before(step, records)
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, metrics = train_step(state, batch, key)
      batches.place_next()
      tracer.after(step, metrics, records)
      records.add(step, metrics, batches.waited)


def _finished(config: ml_collections.ConfigDict, progress: Progress) -> bool:
  """Whether all epochs are done, or so many passed without a new best, after the least number."""
  done, training = progress.evaluated_epochs, config.training
  stale = done - progress.best_epoch >= training.patience and done >= training.min_epochs
  return done >= training.epochs or stale


def _rate(state: TrainState, step: int, validator: Callable, progress: Progress) -> list[EvaluationResult]:
  """Validates the parameters behind an epoch, and their mean where one is kept, and notes what was found."""
  mean = averaged(state.opt_state) if step else None
  found = [validator(params) for params in ([state.params] if mean is None else [state.params, mean])]
  sums = [result.primary.sum_r for result in found]
  progress.evaluated_epochs += step > 0
  if max(sums) > progress.best_sum_r:
    progress.best_sum_r, progress.best_epoch, progress.best_step = max(sums), progress.evaluated_epochs, step
    progress.best_averaged = sums[0] < max(sums)
  return found


class PlacedBatches:
  """The batches of a run on the devices; the next one is placed while the step at hand is computed."""

  def __init__(self, pipeline: TrainPipeline, mesh: Mesh):
    """Takes the stream of this process's batches, and the devices of all."""
    self._iterator, self._resident, self._mesh, self._ahead = iter(pipeline), pipeline.resident, mesh, None
    self.place = self._iterator.get_state()  # Behind the batches that were taken, not those that are placed ahead.
    self.waited = 0.0  # Seconds, for the stream.

  def __enter__(self) -> PlacedBatches:
    return self

  def __exit__(self, *exception) -> None:
    self._iterator.close()

  def go_to(self, place: dict[str, Any]) -> None:
    """Goes to a place in the stream."""
    self._iterator.set_state(place)
    self.place, self._ahead = place, None

  def place_next(self) -> None:
    """Waits for the next batch and starts to move it to the devices; what stays there is put there before the first."""
    if self._resident is not None:
      self._resident.place(functools.partial(sharding.replicate, mesh=self._mesh))
    start = time.perf_counter()
    batch = next(self._iterator)
    self.waited += time.perf_counter() - start
    parcel = sharding.shard_batch(pack(batch, self._mesh.local_mesh.size), self._mesh)
    self._ahead = parcel, self._iterator.get_state()

  def __next__(self) -> Parcel:
    if self._ahead is None:
      self.place_next()
    (parcel, self.place), self._ahead = self._ahead, None
    return parcel


def open_teacher(config: ml_collections.ConfigDict, mesh: Mesh, source) -> OnlineTeacher | None:
  """Loads the teacher that encodes the pictures of the training split within the step, if any; see `load_teacher`."""
  if not config.teacher.online:
    return None
  teacher = load_teacher(config.teacher, source[0], mesh, recipe.product_dtype(config))
  pictures = f'pictures of {teacher.size}x{teacher.size}, {teacher.micro_batch} at once'
  log(f'teacher inside the step: {teacher.name}, {pictures}')
  return teacher


def open_pipeline(config: ml_collections.ConfigDict, mesh: Mesh, source) -> TrainPipeline:
  """Opens the stream of training batches, this process's share of each."""
  options = recipe.make_pipeline_options(config, mesh.size, config.loss.teacher, pixels=config.teacher.online)
  lengths, room = recipe.lengths_of(config, 'train', source), room_for_features(mesh) if config.data.on_device else 0
  process = jax.process_index(), jax.process_count()
  return train_pipeline(source, options, config.seed, *process, lengths=lengths, room=room)


def room_for_features(mesh: Mesh) -> float:
  """Returns how many bytes of features may stay on each device: what all processes have room for."""
  devices = list(mesh.local_mesh.devices.flat)
  room = available_bytes() * KEPT_SHARE / jax.process_count()
  if devices[0].platform == 'cpu':
    room /= len(devices)
  else:  # They pass through the memory of the process.
    room = min(2 * room, DEVICE_SHARE * free_on_devices(devices))
  return -multihost.all_reduce_max(-room)[0]


def make_step(
  config: ml_collections.ConfigDict,
  student: Student,
  mesh: Mesh,
  per_epoch: int,
  filler: Filler | None = None,
) -> tuple[optax.GradientTransformation, StepFunction]:
  """Makes the optimiser and the jitted step of a configuration, for epochs of so many steps."""
  optimizer, learning_rate = recipe.make_optimizer(config, per_epoch)
  coefficients, options = recipe.make_coefficients(config, per_epoch), recipe.make_objective_options(config)
  return optimizer, make_train_step(student, optimizer, coefficients, learning_rate, options, mesh, filler)


def keys_of_run(seed: int, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
  """Returns the keys of the first parameters and of the steps, on all devices.

  They are of a generator that no environment chooses: draws of another would depend on how a batch is packed and
  spread, and with them the results.
  """
  jax.config.update('jax_threefry_partitionable', True)
  words = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed, impl='threefry2x32'))))
  # Made where they are used: one device's array cannot be put onto those of other processes.
  keys = jax.jit(
    lambda words: jax.random.wrap_key_data(words, impl='threefry2x32'), out_shardings=sharding.replicated(mesh)
  )
  return keys(words[0]), keys(words[1])


def compile_ahead(
  train_step: StepFunction,
  state: TrainState,
  shapes: Sequence[Batch],
  key: jax.Array,
  mesh: Mesh,
  validator: Evaluator | None = None,
) -> list[concurrent.futures.Future]:
  """Compiles the step for all shapes of batches (of all processes together), and what validates, in threads."""

  def abstract(tree: Any, placement=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement or x.sharding), tree)

  def compile_step(shape: Batch) -> None:
    train_step.lower(state, abstract(pack(shape, mesh.size), sharding.rows(mesh)), key).compile()

  state = abstract(state)
  pool = concurrent.futures.ThreadPoolExecutor(len(shapes) + 1, thread_name_prefix='compile')
  programs = [pool.submit(compile_step, shape) for shape in shapes]
  if validator is not None:
    programs.append(pool.submit(validator.compile_ahead, state.params))
  pool.shutdown(wait=False)
  return programs


def _describe(
  config: ml_collections.ConfigDict, workdir: files.Path, mesh: Mesh, pipeline: TrainPipeline, params: Any
) -> None:
  """Logs what a run consists of, and writes `config.json` where it is absent, with `parameters.txt` beside it."""
  several = '' if multihost.alone() else f' of {jax.process_count()} processes'
  log(
    f'{config.data.dataset}: {pipeline.num_videos:,} training videos, {pipeline.steps_per_epoch} steps an epoch; '
    f'{parameter_overview.count_parameters(params):,} parameters; {mesh.size} {jax.default_backend()} device(s)'
    + several
  )
  log(repr(pipeline.plan))
  if pipeline.resident is not None:
    size = f'{pipeline.resident.nbytes / 1e6:,.0f} MB each'
    log(f'all features of the split stay on the device(s): {size} (not so with --config.data.on_device=False)')

  def write() -> None:
    if not (workdir / 'config.json').exists():
      config_lib.write(config, workdir)
    overview = parameter_overview.get_parameter_overview(params, include_stats='sharding')
    files.write_text(workdir / 'parameters.txt', overview + '\n')

  multihost.on_main(write)


def _restore_or_start(
  checkpoints: Checkpoints, state: TrainState, batches: PlacedBatches, workdir: files.Path
) -> tuple[TrainState, Progress]:
  """Restores the newest checkpoint, if there is one: state, place in the data and progress as one."""
  step = checkpoints.newest_whole()
  if step is None:
    return state, Progress(batches.place)
  state, progress = checkpoints.restore(step, state)
  batches.go_to(progress.iterator)
  log(f'resumed from the checkpoint of step {step} in {workdir}')
  best, lost = checkpoints.best_whole(), progress.best_step if progress.best_sum_r >= 0 else None
  if lost != best:
    # The best of the checkpoints that are left is taken for the best so far; that of the progress is lost.
    none = Progress({}, best_epoch=progress.evaluated_epochs)
    left = none if best is None else checkpoints.progress(best)
    progress = dataclasses.replace(left, iterator=progress.iterator, evaluated_epochs=progress.evaluated_epochs)
    instead = 'the next to be evaluated' if best is None else f'that of step {best}'
    log(f'warning: the best checkpoint, of step {lost}, is damaged or gone; {instead} takes its place')
  return state, progress
