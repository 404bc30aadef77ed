"""How far an addition is that runs: `.progress.json` in the folder of its index, for whoever looks, without a lock.

    {"done": 3, "total": 20, "frames": 5120, "share": 0.19, "film": "lake.mp4", "started": 1764145500.1,
     "updated": 1764145561.8, "pid": 4711, "host": "nas"}

`done` of `total` films are dealt with (put into the index, or found broken); `frames` were encoded; `share`, from 0 to
1, is how much of the work that is; `film` is the one at work; times are seconds since 1970. The file is replaced as a
whole, about once a second, and goes with the addition. One that a killed addition left is told by its process, which is
not there, or by its age: see `read`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import time
from typing import Any

NAME = '.progress.json'
STALE_SECONDS = 120.0
_EVERY = 1.0  # Seconds between two of its states.
_NUMBERS = ('done', 'total', 'frames', 'share', 'started', 'updated', 'pid')


class ProgressFile:
  """Writes the file while a `with` block runs; that it cannot be written stops nothing."""

  def __init__(self, index: pathlib.Path, total: int):
    """Takes the folder of the index, whose lock the caller holds, and the number of films that there are to do."""
    self._path, self._total, self._started = index / NAME, total, time.time()
    self._written, self._done, self._frames = 0.0, 0, 0

  def __enter__(self) -> ProgressFile:
    self.show()
    return self

  def __exit__(self, *error: object) -> None:
    for path in (self._path, self._temporary):
      with contextlib.suppress(OSError):
        path.unlink()

  @property
  def _temporary(self) -> pathlib.Path:
    return self._path.with_name(f'{NAME}.tmp')

  def step(self) -> None:
    """Counts a film that is dealt with."""
    self._done += 1
    self.show(share=self._done / max(self._total, 1))

  def show(self, film: str = '', share: float = 0.0, frames: int = 0) -> None:
    """Counts frames, and writes the file if it is time to.

    Args:
      film: the one at work.
      share: of the whole work that is done.
      frames: that were encoded since the last call.
    """
    self._frames += frames
    now = time.time()
    if now - self._written < _EVERY:
      return
    self._written = now
    content = {'done': self._done, 'total': self._total, 'frames': self._frames, 'share': round(share, 4)}
    content |= {
      'film': film,
      'started': self._started,
      'updated': now,
      'pid': os.getpid(),
      'host': socket.gethostname(),
    }
    with contextlib.suppress(OSError):
      self._temporary.unlink(missing_ok=True)  # A link of this name is not followed.
      with self._temporary.open('x', encoding='utf-8') as file:
        json.dump(content, file)
      self._temporary.replace(self._path)


def read(index: pathlib.Path | str) -> dict[str, Any] | None:
  """Returns what the module shows, of an addition to an index that runs; None where none does.

  A file that is older than `STALE_SECONDS`, or of a process of this machine that is not there, is of one that was
  killed, and one that is not written so is none.
  """
  try:
    with (pathlib.Path(index) / NAME).open(encoding='utf-8') as file:
      content = json.loads(file.read(1 << 16))
    if not all(type(content[name]) in (int, float) for name in _NUMBERS) or not isinstance(content['film'], str):
      return None
    if abs(time.time() - content['updated']) > STALE_SECONDS:
      return None
    return content if content['host'] != socket.gethostname() or _runs(int(content['pid'])) else None
  except (OSError, ValueError, TypeError, KeyError, OverflowError):
    return None


def _runs(process: int) -> bool:
  try:
    os.kill(process, 0)
  except PermissionError:  # It is another user's.
    return True
  except ProcessLookupError:
    return False
  return True
