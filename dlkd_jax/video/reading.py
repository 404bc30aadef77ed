"""From films to features: several are decoded ahead in threads, and encoded in batches as their pictures come.

A film's features follow from that film alone, whatever is read with it, and memory from the batches, not from its
length. One that is broken is told of, never raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dlkd_jax.video import corpus, decoding, prefetch
from dlkd_jax.video.extraction_models import Models
from dlkd_jax.video.outcomes import Outcome, Outcomes

MAX_SIDE = 1024  # Backbones see a few hundred pixels; memory and time of larger pictures are lost.
GLANCE_SECONDS = 2.0  # Between two looks at files that were written to a moment ago.
SETTLE_SECONDS = 60.0  # A file that was written to more recently is young.
_ROUNDED = 0.5  # Seconds that a declared length may be short of the last frame's end.


@dataclasses.dataclass(frozen=True)
class Task:
  """A video to read, as it was when it was looked at.

  Attributes:
    job, seen: the video, and its file.
    status: what it will be where all goes well.
    young: whether it was written to a moment ago.
  """

  job: corpus.Job
  seen: corpus.Seen
  status: str
  young: bool

  def outcome(self, status: str, reason: str = '', frames: int = 0, duration: float | None = None) -> Outcome:
    """Returns what became of it."""
    job = self.job
    return Outcome(job.video, status, reason, job.split, frames, len(job.captions), duration)

  def waits(self, reason: str) -> Outcome:
    """Returns that it is left to the next run."""
    return self.outcome('waiting', f'{reason} ({max(self.seen.age(), 0):.0f} s after it was written to)')


def settled(todo: list[Task], outcomes: Outcomes) -> list[Task]:
  """Returns the videos that nobody writes to: young ones are looked at again, all together, after a moment."""
  if any(task.young for task in todo):
    time.sleep(GLANCE_SECONDS)
  growing = [task for task in todo if task.young and not task.job.is_as(task.seen)]
  outcomes.add(*(task.waits('is being written to') for task in growing))
  return [task for task in todo if task not in growing]


@dataclasses.dataclass(frozen=True)
class How:
  """How films are read.

  Attributes:
    rate: pictures a second.
    max_side: longer side in pixels that larger pictures are shrunk to while they are decoded; None: not at all.
    batch: most pictures that a backbone is given at once; clips of several count as so many.
    readers: videos decoded at the same time.
  """

  rate: float = 1.0
  max_side: int | None = MAX_SIDE
  batch: int = 32
  readers: int = min(4, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Film:
  """What was made of a film.

  Attributes:
    arrays: the features by name as in a record, and `times`, float32 seconds.
    duration: seconds.
    start: of its first sample, seconds on the clock of a player.
    damage: what is wrong with it, where only a part of it could be decoded; empty otherwise.
    notes: what is odd about it.
  """

  arrays: dict[str, np.ndarray]
  duration: float
  start: float
  damage: str
  notes: str


def read(
  tasks: Sequence[Task], models: Models, how: How, part: Callable[[str, float, int], None]
) -> Iterator[tuple[Task, Film | Outcome]]:
  """Reads films, one after another in the order of their tasks.

  Args:
    tasks: the films.
    models: what encodes their pictures.
    how: how they are read.
    part: called for each batch with the film, the share of it that is done, and the number of its frames.

  Yields:
    A task, and what was made of its film, or why nothing was.
  """
  threads = max(1, (os.cpu_count() or 1) // how.readers)
  found = [decoding.Findings() for _ in tasks]
  most = max(view.span.pictures for view in models.views())
  batch = max(1, how.batch // most)  # Samples, so that memory has the bound of so many pictures.
  makes = [
    functools.partial(_read, how, task.job.path, models, threads, findings)
    for task, findings in zip(tasks, found, strict=True)
  ]
  with contextlib.closing(prefetch.read(makes, how.readers, room=2 * batch)) as readings:
    for task, reading, findings in zip(tasks, readings, found, strict=True):
      yield task, _read_one(how, models, task, reading, batch, findings, part)


def _read_one(
  how: How,
  models: Models,
  task: Task,
  reading: Iterator[Any],
  batch_size: int,
  findings: decoding.Findings,
  part: Callable[[str, float, int], None],
) -> Film | Outcome:
  """Makes the features of one film as its pictures come."""
  times: list[float] = []
  features: list[dict[str, np.ndarray]] = []
  info = damage = None
  try:
    info = next(reading)
    for batch in _batches(reading, batch_size):
      times += [second for second, _ in batch]
      features.append(models.encode([seen for _, seen in batch]))
      part(task.job.video, times[-1] / max(info.duration, 1e-6), len(batch))
  except decoding.VideoError as error:
    damage = error.reason
  if not task.job.is_as(task.seen):
    return task.waits('was written to while it was read')
  if task.young and (damage or not times):
    return task.waits(damage or 'has no frame')
  if not times:
    return task.outcome('failed', damage or 'has no frame')
  # What a file declares may be wrong, but a muxer's rounding is none.
  end = findings.end or times[-1] + 1 / how.rate
  exact = damage is None and end <= info.duration + _ROUNDED
  duration = info.duration if exact else end if damage is None else min(info.duration, end)
  arrays = {name: np.concatenate([each[name] for each in features]) for name in features[0]}
  arrays['times'] = np.array(times, np.float32)
  return Film(arrays, duration, times[0], damage or '', '; '.join(findings.notes))


def _read(how: How, path: pathlib.Path, models: Models, threads: int, findings: decoding.Findings) -> Iterator[Any]:
  """Yields what the file says of itself, then each sample of `decoding.sample_views`; runs in a thread.

  Raises:
    VideoError: whatever goes wrong with this file.
  """
  try:
    yield decoding.probe(path)
    yield from decoding.sample_views(path, how.rate, models.views(), how.max_side, threads, findings)
  except decoding.VideoError:
    raise
  except Exception as error:  # One odd file must not end the reading of all others.
    raise decoding.VideoError(path, f'{type(error).__name__}: {error}') from error


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
  """Groups items; where the items end in a VideoError, it is raised after the last of them was handed out."""
  items = iter(items)
  error = None

  def whole() -> Iterator[Any]:
    nonlocal error
    try:
      yield from items
    except decoding.VideoError as found:
      error = found

  source = whole()
  while batch := list(itertools.islice(source, size)):
    yield batch
  if error is not None:
    raise error
