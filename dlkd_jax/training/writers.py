"""Where numbers go: one JSON line a record, and TensorBoard."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping

from dlkd_jax import files

# tensorboardX imports PyTorch where it is installed, for the sake of its tensors, which takes seconds and memory. A
# module that is None in `sys.modules` is one that cannot be imported.
_hidden = sys.modules.setdefault('torch', None) is None
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.summary import scalar as scalar_summary  # noqa: E402

if _hidden:
  del sys.modules['torch']

_EVALUATED = 'val/'  # Names of what validation found begin so.


class MetricWriter:
  """Writes scalars by step to `workdir/metrics.jsonl` and to TensorBoard files in `workdir/tensorboard`.

  On resuming, records of steps, and of evaluations, that will be made again are dropped, so that each appears once.
  All is handed to the system at once: what a killed run wrote is there, and a full disk is noticed where it happens.
  """

  def __init__(self, workdir: pathlib.Path, resumed_step: int = 0, evaluated_step: int | None = None):
    """Opens both for appending behind `resumed_step`.

    Args:
      workdir: of the run.
      resumed_step: the step that the run goes on from.
      evaluated_step: the newest step after which evaluation was done; None where that is `resumed_step`.

    Raises:
      OSError: the files cannot be read or written.
    """
    self._path = workdir / 'metrics.jsonl'
    self._keep_until(resumed_step, resumed_step if evaluated_step is None else evaluated_step)
    self._lines = self._path.open('a', encoding='utf-8')
    folder = workdir / 'tensorboard'
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
    except OSError as error:
      error.filename = error.filename or str(self._path)  # A failed write does not say of what.
      raise

  def _keep_until(self, step: int, evaluated_step: int) -> None:
    if not self._path.exists():
      return
    kept = []
    for line in self._path.read_text(encoding='utf-8').splitlines():
      try:
        record = json.loads(line)
      except json.JSONDecodeError:  # The line that was being written when the run was killed.
        continue
      evaluated = any(name.startswith(_EVALUATED) for name in record)
      if record['step'] <= (evaluated_step if evaluated else step):
        kept.append(line + '\n')
    files.write_text(self._path, ''.join(kept))


class NoWriter:
  """Writes nothing: for the processes besides the first."""

  def __enter__(self) -> NoWriter:
    return self

  def __exit__(self, *exception) -> None:
    pass

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Takes the scalars of one step, as `MetricWriter.write` does."""
