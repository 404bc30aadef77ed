"""Folders of films as what an index is made of: what is in them now, compared with what the index remembers.

A film's id is its path below its folder; of every folder but the first, behind a name that the folder has in this
index: its own, with a number where that is taken. So films of one name in two folders are both there, as `lake.mp4`
and `holiday/lake.mp4`, whatever is added later.

A file that has the size and the time that it had is not opened. Any other is known by a hash of its size, of its
beginning and end, and of pieces between them: so a film that was renamed or moved is the one that it was.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import pathlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax import files
from dlkd_jax.data.sources import Record
from dlkd_jax.errors import UserError
from dlkd_jax.gallery.catalog import Known
from dlkd_jax.gallery.collection import Knowledge
from dlkd_jax.gallery.film_encoding import FilmEncoding
from dlkd_jax.gallery.progress_file import ProgressFile
from dlkd_jax.gallery.sorting import Sorted
from dlkd_jax.gallery.source import no_disk
from dlkd_jax.progress import Progress
from dlkd_jax.video import corpus, reading, subtitles
from dlkd_jax.video.files import VideoError, check_file
from dlkd_jax.video.outcomes import Outcome, Outcomes
from dlkd_jax.video.reading import Task

FILMS = 'folders of films'  # No data set has such a name.
_SPLIT = 'gallery'


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder of films.

  Attributes:
    name: what stands before the ids of its films; empty for the first folder of an index.
    path: of it, absolute.
  """

  name: str
  path: pathlib.Path

  def video(self, below: str) -> str:
    """Returns the id of a film by its path below this folder."""
    return f'{self.name}/{below}' if self.name else below


def known_folders(settings: Mapping[str, Any]) -> list[Folder]:
  """Returns the folders that an index remembers."""
  return [Folder(about['name'], pathlib.Path(about['path'])) for about in settings.get('folders', ())]


def with_folders(known: Sequence[Folder], given: Iterable[pathlib.Path]) -> list[Folder]:
  """Returns the folders that an index knows and those that are given; one within a known one is there already.

  Raises:
    UserError: one is no folder, its name is no text, it holds no video, or it holds one that is known.
  """
  found = list(known)
  for path in given:
    path = pathlib.Path(os.path.abspath(path))
    if not path.is_dir():
      raise UserError(f'{files.printable(str(path))} is no folder; give the folder that holds the films')
    if not files.is_text(str(path)):
      raise UserError(f'{files.printable(str(path))}: the name of a folder of films has to be UTF-8; rename it')
    real = os.path.realpath(path)
    if any(pathlib.Path(real).is_relative_to(os.path.realpath(each.path)) for each in found):
      continue
    if inner := [each.path for each in found if pathlib.Path(os.path.realpath(each.path)).is_relative_to(real)]:
      raise UserError(
        f'{path} holds {inner[0]}, which the index knows as a folder of its own; name folders that do not lie in each '
        'other, or make another --index of the larger one'
      )
    if not corpus.below(path).videos:
      raise UserError(f'{path} holds no videos; give the folder that does')
    found.append(Folder(_name(path, found), path))
  return found


def _name(path: pathlib.Path, others: Sequence[Folder]) -> str:
  """Returns what stands before the ids of a further folder: no other folder has it, nor one in the first folder."""
  if not others:
    return ''
  own, number = path.name or 'films', 1
  taken = {each.name for each in others}
  while (name := own if number == 1 else f'{own}-{number}') in taken or any(
    os.path.lexists(each.path / name) for each in others if not each.name
  ):
    number += 1
  return name


class Films:
  """Folders of films, as a `source.Source`.

  Attributes:
    folders: all of the index.
    outcomes: what became of films that were not simply taken.
    absent: folders that are not there.
    away: ids of films of these.
    broken: ids that could not be read.
  """

  dataset, splits, whole = FILMS, (_SPLIT,), True

  def __init__(self, folders: Sequence[Folder], encoding: FilmEncoding):
    """Takes folders; nothing is looked at before `look`."""
    self.folders, self._encoding = list(folders), encoding
    self.options, self.where, self.sizes = encoding.options, encoding.where, encoding.sizes
    self.outcomes = Outcomes()
    self.broken: set[str] = set()
    self.absent: list[Folder] = []
    self.away: set[str] = set()
    self._digests: dict[str, str] = {}
    self._jobs: dict[str, corpus.Job] = {}
    self._seen: dict[str, corpus.Seen] = {}
    self._said: dict[str, str] = {}
    self._failed: dict[str, Any] = {}
    self._settle = reading.SETTLE_SECONDS

  def look(
    self, manifest: dict[str, Any], known: Mapping[str, Known], again: bool, settle_seconds: float | None = None
  ) -> None:
    """Looks at the films.

    Args:
      manifest: of the index; takes note of films that cannot be read, so that they are tried again when they changed.
      known: its videos.
      again: try films that could not be read before, though they did not change.
      settle_seconds: age below which a file may be written to still.
    """
    self._settle = self._settle if settle_seconds is None else settle_seconds
    before = {} if again else manifest.get('failed', {})
    # Those with a name first: what the first folder has below that name is left out, whatever came earlier.
    for folder in sorted(self.folders, key=lambda folder: not folder.name):
      if not folder.path.is_dir():
        self._miss(folder, known)
        continue
      there = corpus.below(folder.path)
      beside = _subtitles(there.others.values())
      self._fail({folder.video(name): why for name, why in there.refused.items()})
      for below, path in there.videos.items():
        job = corpus.Job(folder.video(below), path, _SPLIT, ())
        self._look(job, known, before)
        if self._jobs.get(job.video) is job:
          said = known[job.video].said if job.video in known else ''
          self._said[job.video] = subtitles.digest(path, beside.get((path.parent, path.stem), ()), said)
    if self._failed or manifest.get('failed'):
      manifest['failed'] = self._failed
    self._manifest = manifest

  def _miss(self, folder: Folder, known: Mapping[str, Known]) -> None:
    """Lets the films of a folder that is not there be as they were."""
    own = [v for v, about in known.items() if about.dataset == FILMS and self.folder_of(v) == folder]
    self.away.update(own)
    self._digests.update({video: known[video].digest for video in own})
    self.absent.append(folder)

  def folder_of(self, video: str) -> Folder:
    """Returns the folder that a film of the index is of, by its id."""
    named = [each for each in self.folders if each.name and video.startswith(f'{each.name}/')]
    return named[0] if named else self.folders[0]

  def _look(self, job: corpus.Job, known: Mapping[str, Known], before: Mapping[str, Any]) -> None:
    video, about = job.video, known.get(job.video)
    if video in self._jobs:
      self._fail({video: f'{job.path} has the id of {self._jobs[video].path}; rename one of them'})
      return
    if about is not None and about.dataset != FILMS:  # A data set's, which looks after it.
      self._digests[video] = ''
      return
    try:
      status = check_file(job.path)
      stamp = [status.st_size, status.st_mtime_ns]
      self._jobs[video] = job
      if about is not None and [about.size, about.written] == stamp:
        seen = corpus.Seen(f':{about.digest}', *stamp)
      elif video in before and before[video].get('stamp') == stamp:
        self._failed[video] = before[video]
        self._fail({video: f'{before[video].get("reason")} (as before; it is tried again when it changes)'})
        return
      else:
        seen = job.look()
    except VideoError as error:
      self._fail({video: error.reason})
      return
    self._seen[video], self._digests[video] = seen, seen.film

  def _fail(self, reasons: Mapping[str, str]) -> None:
    self.outcomes.add(*(Outcome(files.printable(video), 'failed', why) for video, why in reasons.items()))

  def features(self) -> dict[str, Any]:
    """Returns what has to be equal in all that is put into one index."""
    return {**{name: self.options.get(name) for name in ('student', 'tokens', 'teacher')}, **self.sizes}

  def settings(self) -> dict[str, Any]:
    """Returns what an index remembers of folders, and of how their films are read."""
    folders = [{'name': each.name, 'path': str(each.path)} for each in self.folders]
    return {'folders': folders, **{name: self.options[name] for name in ('rate', 'max_side')}}

  def digests(self) -> dict[str, str]:
    """Returns id → hash of the file, of all films that may be read, and of those of folders that are not there."""
    return self._digests

  def find(self, wanted: Container[str]) -> dict[str, tuple[str, int]]:
    """Returns id → where it is, for `records`, of films that are wanted and there."""
    return {video: (_SPLIT, number) for number, video in enumerate(self._jobs) if video in wanted}

  def facts(self, video: str) -> dict[str, Any]:
    """Returns what an `Entry` has of a film and of the files beside it; empty where its folder is not there."""
    if (seen := self._seen.get(video)) is None:
      return {}
    path, said = str(self._jobs[video].path), self._said[video]
    return {'path': path, 'size': seen.size, 'written': seen.written, 'said': said}

  def check_prune(self, found: Sorted, knowledge: Knowledge) -> None:
    """Refuses to remove the films of a folder that has none of those that the index knows of it."""
    for folder in {self.folder_of(video) for video in found.vanished}:
      if not any(self.folder_of(video) == folder for video in self._jobs):
        raise no_disk(folder.path)

  def records(
    self, places: Iterable[tuple[str, int]] | None = None, running: ProgressFile | None = None
  ) -> Iterator[tuple[str, Record]]:
    """Decodes and encodes films, several ahead, and yields the record of each that could be read."""
    videos = list(self._jobs)
    tasks = [
      Task(self._jobs[video], self._seen[video], 'extracted', abs(self._seen[video].age()) < self._settle)
      for video in (videos[number] for _, number in sorted(places or ()))
    ]
    if not (tasks := reading.settled(tasks, self.outcomes)):
      return
    with _Bar(tasks, running) as bar:
      for task, film in reading.read(tasks, self._encoding.models, self._encoding.how, bar.batch):
        if isinstance(film, Outcome):
          self._note(task, film)
        else:
          if film.damage:
            self.outcomes.add(task.outcome('truncated', film.damage, len(film.arrays['times']), film.duration))
          yield _SPLIT, _record(task, film)
        bar.film(task)

  def part(self, videos: Iterable[str]) -> Films:
    """Returns some of the films by themselves, for a worker: without models, and with outcomes of their own."""
    made = Films(self.folders, self._encoding.without_models())
    made._settle, made._manifest = self._settle, {}
    for name in ('_jobs', '_seen', '_digests', '_said'):
      setattr(made, name, {video: getattr(self, name)[video] for video in videos})
    return made

  def reuse_models(self, opened: dict[str, FilmEncoding]) -> None:
    """Takes the models of an equal encoding that is open, or notes this one."""
    self._encoding = opened.setdefault(repr(self._encoding), self._encoding)

  def without_models(self) -> Films:
    """Returns the same, to be handed to another process."""
    made = copy.copy(self)
    made._encoding = self._encoding.without_models()
    return made

  def merge(self, part: Films) -> None:
    """Takes over what became of the films of a `part`."""
    self.outcomes.add(*part.outcomes.files)
    self.broken |= part.broken
    self._failed |= part._failed
    if self._failed:
      self._manifest['failed'] = self._failed

  def _note(self, task: Task, entry: Outcome) -> None:
    """Notes a film that could not be read, or is not ready to be."""
    self.outcomes.add(entry)
    if entry.status == 'failed':
      self.broken.add(entry.video)
      self._failed[entry.video] = {'stamp': [task.seen.size, task.seen.written], 'reason': entry.reason}
      self._manifest['failed'] = self._failed


def _subtitles(paths: Iterable[pathlib.Path]) -> dict[tuple[pathlib.Path, str], list[str]]:
  """Returns folder and name without its ending, and without some that stand before that → files of subtitles."""
  found: dict[tuple[pathlib.Path, str], list[str]] = {}
  for path in paths:
    name = path.name
    while path.suffix.lower() in subtitles.SUFFIXES and '.' in name:
      name = name.rpartition('.')[0]
      found.setdefault((path.parent, name), []).append(path.name)
  return found


def _record(task: Task, film: reading.Film) -> Record:
  """Returns the record of a film without captions."""
  none = {'captions': [], 'caption_ids': [], 'moments': np.zeros((0, 2)), 'token_lengths': np.zeros(0, np.int32)}
  return {'video_id': task.job.video, 'duration': film.duration, 'start': film.start, **none, **film.arrays}


class _Bar(Progress):
  """Films and frames as they are done; the time left follows from the sizes of the files."""

  def __init__(self, tasks: Sequence[Task], running: ProgressFile | None):
    self._films, self._done, self._frames, self._running = len(tasks), 0, 0, running
    self._sizes = {task.job.video: max(task.seen.size, 1) for task in tasks}
    super().__init__(sum(self._sizes.values()), 'bytes')
    self.bar_format = '{desc}{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}'

  def batch(self, video: str, share: float, frames: int) -> None:
    """Counts frames of a film of which a share is done."""
    self._frames += frames
    self._show(video, share, frames)

  def film(self, task: Task) -> None:
    """Counts a film that is done."""
    self._done += 1
    self.step(task.job.video, self._sizes[task.job.video])
    if self._running is not None:
      self._running.step()
    self._show(task.job.video, 0.0, 0)

  def _show(self, video: str, share: float, frames: int) -> None:
    speed = self._frames / max(self.format_dict['elapsed'], 1e-6)
    self.set_postfix_str(f'{self._done:,}/{self._films:,} films, {speed:,.1f} frames/s', refresh=False)
    self.part(video, share, self._sizes[video])
    if self._running is not None:
      self._running.show(video, self.n / self.total, frames)
