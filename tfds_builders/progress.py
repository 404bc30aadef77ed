"""A progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from dlkd_jax import files

_WIDTH = 28


class Progress:
  """Says how far a build is, at which rate, and how long it will still take."""

  def __init__(self, total: int, what: str, stream: TextIO | None = None, every: float = 30.0):
    """Starts the clock.

    Args:
      total: how many steps there are.
      what: what one step is, in the plural.
      stream: where to write; None: stderr.
      every: seconds between two lines where the stream is not a terminal.
    """
    self._stream = sys.stderr if stream is None else stream
    self._terminal = self._stream.isatty()
    self._total, self._what = total, what
    self._interval = 0.1 if self._terminal else every
    self._start = self._last = time.monotonic()
    self._done = 0

  def step(self, label: str) -> None:
    """Counts one step of the part called `label`, and shows it if it is time to."""
    self._done += 1
    now = time.monotonic()
    if now - self._last >= self._interval:
      self._last = now
      self._show(label, now)

  def note(self, label: str, part: float) -> None:
    """Shows how far it is, if it is time to; `part` of the step that is being made is done, from 0 to 1."""
    now = time.monotonic()
    if now - self._last >= self._interval:
      self._last = now
      self._show(label, now, min(max(part, 0.0), 1.0))

  def finish(self, label: str) -> None:
    """Shows the end."""
    self._show(label, time.monotonic())
    if self._terminal:
      self._stream.write('\n')
    self._stream.flush()

  def _show(self, label: str, now: float, part: float = 0.0) -> None:
    elapsed, done = max(now - self._start, 1e-6), self._done + part
    rate = done / elapsed
    left = _clock(max(self._total - done, 0) / rate) if rate else '?'
    line = (
      f'{files.printable(label):<6} {self._done:,}/{self._total:,} {self._what}, {_rate(rate)}/s, '
      f'{_clock(elapsed)} gone, {left} left'
    )
    if self._terminal:
      filled = round(_WIDTH * done / max(self._total, 1))
      self._stream.write(f'\r\x1b[K[{"#" * filled}{"." * (_WIDTH - filled)}] {line}')
    else:
      self._stream.write(line + '\n')
    self._stream.flush()


def _rate(rate: float) -> str:
  """Returns a rate with two digits at least."""
  return f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'


def _clock(seconds: float) -> str:
  """Returns a duration as m:ss or h:mm:ss."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
