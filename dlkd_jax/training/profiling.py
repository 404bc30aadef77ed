"""A trace of some steps, for TensorBoard (with its profile plugin) and Perfetto."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax

from dlkd_jax.errors import UserError


class StepTracer:
  """Traces the steps that were asked for, in the process that it is made in; use as a context manager.

  The trace goes to `workdir/profile/plugins/profile/<time>`: `*.xplane.pb` is what TensorBoard shows
  (`tensorboard --logdir workdir/profile`), `*.trace.json.gz` opens in https://ui.perfetto.dev.
  """

  def __init__(self, workdir: pathlib.Path, steps: Sequence[int]):
    """Takes where to write and which steps.

    Args:
      workdir: of the run.
      steps: the first step to trace, from 1, and how many; empty for none. The first step of a run compiles, so a
        later one tells more.

    Raises:
      ValueError: `steps` is neither empty nor two positive numbers.
    """
    steps = tuple(steps)
    if steps and not (len(steps) == 2 and all(isinstance(x, int) and x >= 1 for x in steps)):
      raise UserError(
        f'config.logging.profile_steps is {steps}, expected (first step, number of steps), both at least 1, or ().'
      )
    first, count = steps or (0, 0)
    self._range = range(first, first + count)
    self._folder = workdir / 'profile'
    self._tracing = False

  def __enter__(self) -> StepTracer:
    return self

  def __exit__(self, *exception) -> None:
    self._stop()

  def step(self, step: int) -> contextlib.AbstractContextManager[Any]:
    """Starts the trace where this step is the first wanted one; the step is marked while in the returned context."""
    if step not in self._range:
      return contextlib.nullcontext()
    if not self._tracing:
      jax.profiler.start_trace(self._folder)
      self._tracing = True
    return jax.profiler.StepTraceAnnotation('train', step_num=step)

  def after(self, step: int, outputs: Any) -> float:
    """Ends the trace where this step was the last wanted one; its outputs are waited for.

    Returns:
      Seconds that writing the trace took.
    """
    if not self._tracing or step + 1 in self._range:
      return 0.0
    jax.block_until_ready(outputs)
    start = time.perf_counter()
    self._stop()
    return time.perf_counter() - start

  def _stop(self) -> None:
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
