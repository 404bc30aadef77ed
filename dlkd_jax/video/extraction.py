"""From video files to a data set: the account of an extraction.

Videos are decoded in threads, ahead of the models that make features of their pictures. Of each video one file is
written, whole or not at all, so that the same command goes on where it was stopped. At the end everything is packed by
`tfds_builders.custom_prvr`. A video's features follow from this video alone, whatever else is extracted with it, so
that the records are the same however often it was stopped.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlkd_jax import annotations, files
from dlkd_jax.errors import UserError
from dlkd_jax.progress import Progress
from dlkd_jax.video import backbones, corpus, reading, tasks, work_folder
from dlkd_jax.video.extraction_models import Models
from dlkd_jax.video.outcomes import WRITTEN, Outcome, Outcomes
from dlkd_jax.video.reading import MAX_SIDE, SETTLE_SECONDS, Task
from tfds_builders import base_builder, options, release_writer
from tfds_builders.custom_prvr import custom_prvr_dataset_builder as custom

FOLDER = 'custom_prvr_extracted'
REPORT = 'report.json'


@dataclasses.dataclass(frozen=True)
class Request:
  """What to extract, and with what.

  Attributes:
    videos: folder of the videos, and of folders of them.
    data_dir: folder of data sets; `custom_prvr` goes below it, and `custom_prvr_extracted` beside that.
    captions: file of captions, see `corpus`; None makes a gallery that is only searched.
    teacher: backbone of the teacher, for frames and sentences; None: a set without a teacher.
    student: backbone of the student's frames; None: see `backbones.defaults`.
    tokens: backbone of the caption tokens; None: likewise.
    rate: pictures a second.
    max_side: longer side in pixels that larger pictures are shrunk to while they are decoded; 0: not at all; None: as
      the videos of the set were before, `MAX_SIDE` in a new one.
    batch: most pictures that a backbone is given at once; clips of several count as so many.
    readers: videos decoded at the same time.
    dtype: float16 or float32, of the records.
    keep_pixels: whether the records keep the pictures that the teacher saw, for training with it inside the step.
    update: whether videos that changed since they were packed, or their captions or splits, are taken anew.
    release_layout: folder that the set is also written into in the layout of the release, `<root>/<collection>`; None:
      it is not.
    settle_seconds: a video that was written to more recently is looked at twice, a moment apart, and waits for the
      next run where it grows or is not whole; 0: none waits.
  """

  videos: pathlib.Path
  data_dir: pathlib.Path
  captions: pathlib.Path | None = None
  teacher: str | None = None
  student: str | None = None
  tokens: str | None = None
  rate: float = reading.How.rate
  max_side: int | None = None
  batch: int = reading.How.batch
  readers: int = reading.How.readers
  dtype: str = 'float16'
  keep_pixels: bool = False
  update: bool = False
  settle_seconds: float = SETTLE_SECONDS
  release_layout: pathlib.Path | None = None

  def __post_init__(self):
    """Checks the numbers.

    Raises:
      ValueError: one of them is not above 0.
    """
    if self.max_side is not None and self.max_side < 0:
      raise UserError(f'--max_side is {self.max_side}; expected pixels, or 0 for pictures as they are')
    for name in ('rate', 'batch', 'readers'):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise UserError(f'--{name} is {value}; expected a number above 0')
    if not self.settle_seconds >= 0:
      raise UserError(f'--settle_seconds is {self.settle_seconds}; expected a number from 0')
    if self.release_layout is not None:
      release_writer.check_target(self.release_layout)
    for name in ('videos', 'data_dir', 'captions'):
      path = getattr(self, name)
      if path is not None and not files.is_text(str(path)):
        raise UserError(f'--{name} is {files.printable(str(path))}: a path that is no UTF-8 text; rename the folder')


@dataclasses.dataclass(frozen=True)
class Result:
  """What an extraction gave.

  Attributes:
    outcomes: what became of every file.
    report_file: where it is written.
    builder: the data set; None where no video could be extracted.
  """

  outcomes: Outcomes
  report_file: pathlib.Path
  builder: custom.Builder | None


def extract(request: Request) -> Result:
  """Extracts what is not extracted yet, and packs what is not packed yet.

  A file that is broken, changed, or still being written is reported, never raised, and the rest goes on.

  Raises:
    UserError: the request, the captions or a backbone are not as they should be, or an earlier extraction into the
      same folder had other options.
    OSError: a file or folder that the request names is absent, or the disk is full.
  """
  found = corpus.find(request.videos, request.captions)
  folder = work_folder.WorkFolder(request.data_dir / FOLDER)
  student, tokens = backbones.defaults(request.teacher, folder.options() or {})
  request = dataclasses.replace(request, student=request.student or student, tokens=request.tokens or tokens)
  models = Models(request.student, request.tokens, request.teacher, request.keep_pixels)
  outcomes = Outcomes()
  with base_builder.only_builder(folder.path):
    built = custom.newest(request.data_dir)
    before = tfds.builder_from_directory(str(built)).info.metadata['options'] if built else None
    request = dataclasses.replace(request, max_side=_max_side(request, before or folder.options()))
    _refuse_other_type(request, before)
    folder.begin(_options(request, models), models.sizes(), before, models.where())
    packed = custom.packed_videos(built) if built else {}
    todo, changed = tasks.sort_out(found, folder, packed, request.update, request.settle_seconds, outcomes)
    _extract_all(request, models, folder, reading.settled(todo, outcomes), outcomes)
    tasks.note_others(found, folder, packed, outcomes)
    outcomes.write(folder.path / REPORT)
    anew = [each.video for each in outcomes.files if each.video in changed and each.status in ('updated', 'truncated')]
    # A file that an earlier run left may be of a film that has been another one since.
    takes = {each.video for each in outcomes.files if each.status in ('vanished', *WRITTEN)}
    without = folder.videos - takes
    packs = outcomes.usable or built
    builder = _pack(request, folder, anew, without) if packs else None
    if builder is not None and request.release_layout is not None:
      _write_release(request, models, builder)
    return Result(outcomes, folder.path / REPORT, builder)


def _refuse_other_type(request: Request, before: dict[str, Any] | None) -> None:
  """Raises UserError where a data set is there whose features are stored in another type."""
  stored = request.dtype if before is None else before.get('dtype', request.dtype)
  if stored != request.dtype:
    raise UserError(
      f'the features of the data set in {request.data_dir} are stored as {stored}, and {request.dtype} is asked for; '
      f'add --dtype={stored}, or choose another --data_dir'
    )


def _max_side(request: Request, before: dict[str, Any] | None) -> int:
  """Returns the longer side that is asked for, or that of earlier videos; 0: as it is."""
  if request.max_side is not None:
    return request.max_side
  return MAX_SIDE if before is None else before.get('max_side') or 0


def _options(request: Request, models: Models) -> dict[str, Any]:
  options = {'rate': float(request.rate), 'max_side': request.max_side or None, **models.fingerprints()}
  return options | ({'pixels': models.pixels} if models.pixels else {})


def _extract_all(
  request: Request, models: Models, folder: work_folder.WorkFolder, todo: list[Task], outcomes: Outcomes
) -> None:
  """Writes a file for each video that can be decoded, and notes what became of each."""
  tally = annotations.Tally()
  todo = _say_anew(models, folder, todo, outcomes, tally)
  how = reading.How(request.rate, request.max_side or None, request.batch, request.readers)
  with Progress(len(todo), 'videos', disable=not todo) as bar:
    for task, film in reading.read(todo, models, how, lambda video, share, _: bar.part(video, share)):
      if isinstance(film, reading.Film):
        about = {'duration': film.duration, 'start': film.start, 'damage': film.damage, 'notes': film.notes}
        made = {name: str(value) for name, value in about.items()}
        outcomes.add(_write(models, folder, task, film.arrays, made, tally))
      else:
        outcomes.add(film)
      bar.step(task.job.split)
  if tally.cut + tally.dropped:
    outcomes.notes.append(str(tally))
  outcomes.notes += models.notes()


def _say_anew(
  models: Models, folder: work_folder.WorkFolder, todo: list[Task], outcomes: Outcomes, tally: annotations.Tally
) -> list[Task]:
  """Keeps the features of films of which only what is said changed; returns the videos that are to be decoded."""
  left = []
  for task in todo:
    kept = folder.of_film(task.job, task.seen)
    if kept is None:
      left.append(task)
    else:
      outcomes.add(_write(models, folder, task, *kept, tally))
  return left


def _write(
  models: Models,
  folder: work_folder.WorkFolder,
  task: Task,
  arrays: dict[str, np.ndarray],
  metadata: dict[str, str],
  tally: annotations.Tally,
) -> Outcome:
  """Writes the features of a film together with those of its captions."""
  job, duration = task.job, float(metadata['duration'])
  moments = np.array([[each.start, each.end] for each in job.captions], np.float64).reshape(-1, 2)
  said = models.encode_text([caption.text for caption in job.captions])
  said['moments'] = tally.take(moments, duration, job.caption_ids())
  folder.write(job, task.seen, arrays | said, metadata)
  damage = metadata['damage']
  reason = '; '.join(text for text in (damage, metadata['notes']) if text)
  return task.outcome('truncated' if damage else task.status, reason, len(arrays['times']), duration)


def _pack(
  request: Request, folder: work_folder.WorkFolder, anew: Collection[str], without: Collection[str]
) -> custom.Builder:
  """Adds what is new to the data set but for some videos, and replaces what is to be taken anew."""
  asked = options.BuildOptions(dtype=request.dtype)
  # Absolute: TFDS takes ~ at the beginning of a path for the home folder.
  data_dir = str(request.data_dir.absolute())
  builder = custom.Builder(data_dir=data_dir, options=asked, extracted=folder.path, update=anew, without=without)
  builder.download_and_prepare()
  return builder


def _write_release(request: Request, models: Models, builder: custom.Builder) -> None:
  """Writes the whole data set in the layout of the release, too."""
  splits = {name: builder.as_data_source(name) for name, split in builder.info.splits.items() if split.num_examples}
  feature = '_'.join(part.name.partition('@')[0] for part in backbones.parts_of(models.student))
  release_writer.write_pack(request.release_layout, splits, feature, {'made_with': builder.info.metadata['options']})
