"""What a run records: progress lines, JSON lines, TensorBoard, memory, compilations, and traces of steps."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.multihost import log
from dlkd_jax.retrieval.evaluate import EvaluationResult
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training.checkpoints import Progress

# tensorboardX imports PyTorch where it is installed, for the sake of its tensors, which takes seconds and memory. A
# module that is None in `sys.modules` is one that cannot be imported.
_hidden = sys.modules.setdefault('torch', None) is None
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.summary import scalar as scalar_summary  # noqa: E402

if _hidden:
  del sys.modules['torch']

_EVALUATED = 'val/'  # Names of what validation found begin so.
_COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'
_MIB = 2.0**20
_SHORT = {'triplet': 'trip', 'distillation': 'kl'}  # Terms of the loss on the console.
_UPLOAD_SECONDS = 10.0


class NonFiniteLossError(UserError):
  """The loss became NaN or infinite; the newest checkpoint is from before."""


class Records:
  """The records of the steps of a run: every so many steps the means of their metrics, on the console and in the log.

  Metrics are added up on the devices. They are fetched once the next step was dispatched, so that the devices have work
  while the host writes.
  """

  def __init__(
    self,
    writer: MetricWriter | None,
    compilations: Compilations,
    progress: Progress,
    workdir: pathlib.Path,
    *,
    every: int,
    per_epoch: int,
    epochs: int,
  ):
    """There is a record `every` so many steps, and at the end of an epoch of `per_epoch` steps."""
    self._writer, self._compilations, self._progress, self._workdir = writer, compilations, progress, workdir
    self._every, self._per_epoch, self._epochs = every, per_epoch, epochs
    self._sum: metrics_lib.StepMetrics | None = None
    self._newest: metrics_lib.StepMetrics | None = None
    self._first = self._step = 0  # Of the steps added up.
    self._start, self._waited, self._waited_before = time.perf_counter(), 0.0, 0.0
    self._pauses: dict[str, float] = {}

  def add(self, step: int, metrics: metrics_lib.StepMetrics, waited: float) -> None:
    """Adds a step that was dispatched; `waited` are all seconds so far in which the loop waited for data.

    Raises:
      NonFiniteLossError: a metric of an earlier step is NaN or infinite.
    """
    if self._sum is not None and self._due(self._step):
      self.flush()
    # The host is one step ahead and no more: batches would pile up on the devices.
    jax.block_until_ready(self._newest)
    self._sum = metrics if self._sum is None else metrics_lib.merge(self._sum, metrics)
    self._first, self._step = (step if self._newest is None else self._first), step
    self._newest, self._waited = metrics, waited

  def _due(self, step: int) -> bool:
    return step % self._every == 0 or step % self._per_epoch == 0

  def flush(self) -> None:
    """Waits for the steps so far and checks that their metrics are finite; records them if it is time to.

    Raises:
      NonFiniteLossError: one is NaN or infinite.
    """
    if self._sum is None:
      return
    means = metrics_lib.fetch(self._sum)
    if odd := [name for name, value in means.items() if not math.isfinite(value)]:
      steps = f'step {self._step}' if self._first == self._step else f'steps {self._first} to {self._step}'
      raise NonFiniteLossError(
        f'{steps}: {", ".join(odd)} became NaN or infinite. The newest checkpoint in {self._workdir} is from '
        'before; look for extreme values in the features, or lower config.optimizer.learning_rate and start anew.'
      )
    if not self._due(self._step):
      return
    now, steps = time.perf_counter(), self._step - self._first + 1
    seconds = max(now - self._start, 1e-9) / steps
    wait = (self._waited - self._waited_before) / steps
    summary = means | {'time/steps_per_second': 1 / seconds, 'time/step': seconds, 'time/data_wait': wait}
    log(progress_line(self._step, self._per_epoch, self._epochs, summary, self._progress))
    self._write(self._step, summary | memory() | self._compilations.scalars())
    self._sum = self._newest = None
    self._start, self._waited_before = now, self._waited

  @contextlib.contextmanager
  def pause(self, name: str) -> Iterator[None]:
    """Leaves time out of that of the steps, and keeps it by name for the record of the next evaluation."""
    start = time.perf_counter()
    yield
    self._pauses[name] = time.perf_counter() - start
    self._start += self._pauses[name]

  def add_evaluation(self, step: int, result: EvaluationResult, averaged: EvaluationResult | None = None) -> None:
    """Records an evaluation, which progress knows of already, and that of the averaged parameters, if they are kept."""
    progress = self._progress
    found = f'validation SumR {result.primary.sum_r:.1f}'
    scalars = result.as_dict(_EVALUATED) | self._pauses
    if averaged is not None:
      found += f', averaged parameters {averaged.primary.sum_r:.1f}'
      scalars |= averaged.as_dict(f'{_EVALUATED}averaged_')
    news = ', new best' if progress.best_step == step else ''
    log(f'epoch {progress.evaluated_epochs:3d} | {found}{news} ({self._pauses["time/evaluation"]:.1f} s)')
    self._write(step, scalars)
    self._pauses = {}

  def _write(self, step: int, scalars: Mapping[str, float]) -> None:
    if self._writer is not None:
      self._writer.write(step, scalars)


def progress_line(step: int, per_epoch: int, epochs: int, summary: Mapping[str, float], progress: Progress) -> str:
  """Renders a progress line: epoch, step, losses, steps/s, data wait, time left and validation SumR."""
  losses = [f'loss {summary["loss/total"]:.4f}']
  for name, value in summary.items():
    if name.startswith('loss/') and name.count('/') == 2:
      _, branch, term = name.split('/')
      losses.append(f'{_SHORT.get(term, term)}_{branch[0].upper()} {value:.3f}')
  validation = '-'
  if progress.best_epoch:
    validation = f'best {progress.best_sum_r:.1f} (epoch {progress.best_epoch})'
  share = 100.0 * summary['time/data_wait'] / summary['time/step']
  left = tqdm.format_interval((per_epoch * epochs - step) * summary['time/step'])
  return (
    f'epoch {(step - 1) // per_epoch + 1:3d}/{epochs} | step {step}/{epochs * per_epoch} | {" ".join(losses)} | '
    f'{1 / summary["time/step"]:.2f} steps/s, data wait {share:.1f}% | left {left} | val SumR {validation}'
  )


class MetricWriter:
  """Writes scalars by step to `workdir/metrics.jsonl` and to TensorBoard files in `workdir/tensorboard`.

  On resuming, records of steps, and of evaluations, that will be made again are dropped, so that each appears once.
  All is handed to the system at once: what a killed run wrote is there, and a full disk is noticed where it happens.
  """

  def __init__(self, workdir: files.Path, resumed_step: int = 0, evaluated_step: int | None = None):
    """Opens both behind the step that the run goes on from, and the newest one that was evaluated (None: the same).

    Raises:
      OSError: the files cannot be read or written.
    """
    self._path = workdir / 'metrics.jsonl'
    kept = self._kept(resumed_step, resumed_step if evaluated_step is None else evaluated_step)
    self._staged, self._uploaded = _Staged(workdir), time.monotonic()
    lines = self._staged.here / self._path.name
    files.write_text(lines, kept)
    self._lines = lines.open('a', encoding='utf-8')
    folder = self._staged.here / 'tensorboard'
    folder.mkdir(parents=True, exist_ok=True)
    # Not tensorboardX's SummaryWriter: it writes in a thread, which ends without a word when the disk is full, and
    # then the run waits for it forever.
    self._events = EventsWriter(str(folder / 'events'), f'.{os.getpid()}')
    if resumed_step:
      # Tells TensorBoard to forget what a former run wrote from here on.
      session = SessionLog(status=SessionLog.START)
      self._events.write_event(Event(wall_time=time.time(), step=resumed_step + 1, session_log=session))

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, *exception) -> None:
    try:
      self._lines.close()
    finally:
      self._events.close()
      self._staged.upload()

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes the scalars of one step.

    Raises:
      OSError: they cannot be written.
    """
    try:
      self._lines.write(json.dumps({'step': step} | {k: float(v) for k, v in scalars.items()}) + '\n')
      self._lines.flush()
      for name, value in scalars.items():
        event = Event(wall_time=time.time(), step=step, summary=scalar_summary(name, float(value)))
        self._events.write_event(event)
      self._events.flush()
      if time.monotonic() - self._uploaded > _UPLOAD_SECONDS or any(name.startswith(_EVALUATED) for name in scalars):
        self._staged.upload()
        self._uploaded = time.monotonic()
    except OSError as error:
      error.filename = error.filename or str(self._path)  # A failed write does not say of what.
      raise

  def _kept(self, step: int, evaluated_step: int) -> str:
    kept = []
    for line in self._path.read_text(encoding='utf-8').splitlines() if self._path.exists() else ():
      try:
        record = json.loads(line)
      except json.JSONDecodeError:  # The line that was being written when the run was killed.
        continue
      evaluated = any(name.startswith(_EVALUATED) for name in record)
      if record['step'] <= (evaluated_step if evaluated else step):
        kept.append(line + '\n')
    return ''.join(kept)


class _Staged:
  """A folder that is written to on this machine; nothing can be appended to in a bucket, so files are copied there."""

  def __init__(self, folder: files.Path):
    self.here = self._folder = folder  # Where to write: the folder itself, or a temporary one.
    if files.is_remote(folder):
      self._temporary = tempfile.TemporaryDirectory(prefix='dlkd_')
      self.here = pathlib.Path(self._temporary.name)

  def upload(self) -> None:
    if self.here is not self._folder:
      for path in files.below(self.here):
        (self._folder / path.relative_to(self.here)).write_bytes(path.read_bytes())


class Compilations:
  """Counts the programs that JAX compiles in this process, the small ones too, and the seconds that it takes.

  Use as a context manager. The count stands still in a run that goes well.
  """

  count, seconds = 0, 0.0

  def __enter__(self) -> Compilations:
    jax.monitoring.register_event_duration_secs_listener(self._note)
    return self

  def __exit__(self, *exception) -> None:
    jax.monitoring.unregister_event_duration_listener(self._note)

  def _note(self, event: str, seconds: float, **_) -> None:
    if event == _COMPILE_EVENT:
      self.count += 1
      self.seconds += seconds

  def scalars(self) -> dict[str, float]:
    """Returns `compile/programs` and `compile/seconds` so far."""
    return {'compile/programs': float(self.count), 'compile/seconds': self.seconds}


def memory() -> dict[str, float]:
  """Returns memory in MiB: of this process at its highest, and of its fullest device, now and at its highest.

  The CPU does not tell the latter.
  """
  # Linux counts in KiB, macOS in bytes.
  unit = 1.0 if sys.platform == 'darwin' else 1024.0
  scalars = {'memory/host_peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB}
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  for key, name in (('bytes_in_use', 'device'), ('peak_bytes_in_use', 'device_peak')):
    values = [each[key] for each in stats if key in each]
    if values:
      scalars[f'memory/{name}'] = max(values) / _MIB
  return scalars


class StepTracer:
  """Traces steps, in the process that it is made in; use as a context manager.

  The trace goes to `workdir/profile/plugins/profile/<time>`: `*.xplane.pb` is what TensorBoard shows
  (`tensorboard --logdir workdir/profile`), `*.trace.json.gz` opens in https://ui.perfetto.dev.
  """

  def __init__(self, workdir: files.Path, steps: Sequence[int]):
    """Takes the first step to trace, from 1, and how many, or ()."""
    first, count = steps or (0, 0)
    self._range, self._folder = range(first, first + count), workdir / 'profile'
    self._staged: _Staged | None = None  # While it traces.

  def __enter__(self) -> StepTracer:
    return self

  def __exit__(self, *exception) -> None:
    self._stop()

  def before(self, step: int, records: Records) -> None:
    """Starts the trace if this step, which is dispatched next, is the first wanted one."""
    if step in self._range and not self._staged:
      with records.pause('time/profile'):
        self._staged = _Staged(self._folder)
        jax.profiler.start_trace(self._staged.here)

  def after(self, step: int, results: Any, records: Records) -> None:
    """Writes the trace if this step, which was dispatched, is the last wanted one, once its results are there."""
    if self._staged and step + 1 not in self._range:
      jax.block_until_ready(results)
      with records.pause('time/profile'):
        self._stop()

  def _stop(self) -> None:
    if self._staged:
      jax.profiler.stop_trace()
      self._staged.upload()
      self._staged = None
