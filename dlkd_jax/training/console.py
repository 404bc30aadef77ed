"""The console's account of a run: one progress line with everything that one watches for."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np


def clock(seconds: float) -> str:
  """Formats a duration as 1:02:03 or 02:03."""
  minutes, second = divmod(int(seconds), 60)
  hours, minute = divmod(minutes, 60)
  return f'{hours}:{minute:02d}:{second:02d}' if hours else f'{minute:02d}:{second:02d}'


class StepWindow:
  """Gathers the metrics of steps between two records: means of values, rate, and time spent waiting for data."""

  def __init__(self):
    """Starts an empty window now."""
    self._values: list[Mapping[str, float]] = []
    self._waited = 0.0
    self._start = time.perf_counter()

  def add(self, metrics: Mapping[str, float]) -> None:
    """Adds the metrics of one step."""
    self._values.append(metrics)

  def waited(self, seconds: float) -> None:
    """Adds time that the loop waited for a batch."""
    self._waited += seconds

  def paused(self, seconds: float) -> None:
    """Leaves time out of the window: that of a checkpoint, which says nothing about steps."""
    self._start += seconds

  def summary(self) -> dict[str, float]:
    """Returns the means of the window, its `time/steps_per_second`, and in seconds a step: `time/step` as a whole, and
    `time/data_wait`, the part of it that went by waiting for a batch."""
    steps = max(len(self._values), 1)
    elapsed = max(time.perf_counter() - self._start, 1e-9)
    names = self._values[-1] if self._values else {}
    means = {name: float(np.mean([values[name] for values in self._values])) for name in names}
    return means | {
      'time/steps_per_second': steps / elapsed,
      'time/step': elapsed / steps,
      'time/data_wait': self._waited / steps,
    }


def progress_line(
  *,
  step: int,
  steps_per_epoch: int,
  epochs: int,
  summary: Mapping[str, float],
  seconds_left: float,
  validation: str,
) -> str:
  """Renders a progress line: epoch, step, losses, steps/s, data wait, time left and validation SumR."""
  losses = [f'loss {summary["loss/total"]:.4f}']
  short = {'inheritance/triplet': 'trip_I', 'exploration/triplet': 'trip_E', 'inheritance/nce': 'nce_I'}
  short |= {'exploration/nce': 'nce_E', 'distillation': 'kl'}
  losses += [f'{name} {summary[f"loss/{key}"]:.3f}' for key, name in short.items() if f'loss/{key}' in summary]
  epoch = (step - 1) // steps_per_epoch + 1
  rate = summary['time/steps_per_second']
  share = 100.0 * summary['time/data_wait'] * rate
  return (
    f'epoch {epoch:3d}/{epochs} | step {step}/{epochs * steps_per_epoch} | {" ".join(losses)} | '
    f'{rate:.2f} steps/s, data wait {share:.1f}% | left {clock(seconds_left)} | {validation}'
  )
