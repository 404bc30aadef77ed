"""From video files to a data set: the account of an extraction.

Videos are decoded in threads, ahead of the models that make features of their pictures. Of each video one file is
written, whole or not at all, so that the same command goes on where it was stopped. At the end everything is packed by
`tfds_builders.custom_prvr`. A video's features follow from this video alone, whatever else is extracted with it, so
that the records are the same however often it was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlkd_jax.errors import UserError
from dlkd_jax.video import ahead, backbones, corpus, decoding, work_folder
from dlkd_jax.video.report import Entry, Report
from tfds_builders import base_builder, options, progress
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
    student: backbone of the student's frames.
    tokens: backbone of the caption tokens.
    rate: pictures a second.
    max_side: longer side in pixels that larger pictures are shrunk to while they are decoded; None: not at all.
    batch: most pictures that a backbone is given at once.
    readers: videos decoded at the same time.
    dtype: float16 or float32, of the records.
    keep_pixels: whether the records keep the pictures that the teacher saw, for training with it inside the step.
  """

  videos: pathlib.Path
  data_dir: pathlib.Path
  captions: pathlib.Path | None = None
  teacher: str | None = None
  student: str = 'statistics'
  tokens: str = 'words:256'
  rate: float = 1.0
  max_side: int | None = None
  batch: int = 32
  readers: int = min(4, os.cpu_count() or 1)
  dtype: str = 'float16'
  keep_pixels: bool = False

  def __post_init__(self):
    """Checks the numbers.

    Raises:
      ValueError: one of them is not above 0.
    """
    for name in ('rate', 'max_side', 'batch', 'readers'):
      value = getattr(self, name)
      if value is not None and not value > 0:
        raise UserError(f'--{name} is {value}; expected a number above 0')


@dataclasses.dataclass(frozen=True)
class Result:
  """What an extraction gave.

  Attributes:
    report: what became of every file.
    report_file: where it is written.
    builder: the data set; None where no video could be extracted.
  """

  report: Report
  report_file: pathlib.Path
  builder: custom.Builder | None


class Backbones:
  """The models of a request."""

  def __init__(self, request: Request):
    """Opens them; errors are those of `backbones.open_frame_backbone`."""
    self.student = backbones.open_frame_backbone(request.student)
    self.text = backbones.open_text_backbone(request.tokens)
    self.teacher = self.teacher_text = None
    if request.teacher is not None:
      same = request.teacher == request.student
      self.teacher = self.student if same else backbones.open_frame_backbone(request.teacher)
      same = request.teacher == request.tokens
      self.teacher_text = self.text if same else backbones.open_text_backbone(request.teacher)
      if self.teacher.features != self.teacher_text.sentence_features:
        raise UserError(
          f'teacher {request.teacher!r} gives {self.teacher.features} features of a picture and '
          f'{self.teacher_text.sentence_features} of a sentence; a teacher needs one space for both'
        )
    backbones.forget_files()

    self.pixels = self._side(request.teacher) if request.keep_pixels else None

  def _side(self, name: str | None) -> int:
    """Returns S, the side of the pictures that the teacher sees; ValueError where it sees none."""
    seen = self.teacher.prepare(np.zeros((8, 8, 3), np.uint8)) if self.teacher else np.zeros(0)
    if seen.dtype != np.uint8 or seen.ndim != 3 or seen.shape != (len(seen), len(seen), 3):
      raise UserError(f'pixels are kept for a teacher that sees square pictures, as clip:DIR; the teacher is {name!r}')
    return len(seen)

  def sizes(self) -> dict[str, int | None]:
    """Returns Dv, Dq and Dt, and S where pictures are kept."""
    teacher = self.teacher.features if self.teacher else None
    pixels = {'S': self.pixels} if self.pixels else {}
    return {'Dv': self.student.features, 'Dq': self.text.token_features, 'Dt': teacher} | pixels

  def fingerprints(self) -> dict[str, str | None]:
    """Returns what tells the models from others."""
    teacher = self.teacher.fingerprint if self.teacher else None
    return {'teacher': teacher, 'student': self.student.fingerprint, 'tokens': self.text.fingerprint}

  def prepare(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns a picture as the student's and the teacher's backbone take it."""
    prepared = (self.student.prepare(image),)
    return prepared if self.teacher in (None, self.student) else (*prepared, self.teacher.prepare(image))

  def encode(self, prepared: list[tuple[np.ndarray, ...]]) -> dict[str, np.ndarray]:
    """Returns the features of prepared pictures, by name as in a record."""
    each = list(zip(*prepared, strict=True))
    features = {'student_frames': self.student.encode(each[0])}
    if self.teacher is not None:
      own = len(each) > 1
      features['teacher_frames'] = self.teacher.encode(each[1]) if own else features['student_frames']
    if self.pixels is not None:
      features['teacher_pixels'] = np.stack(each[-1])
    return features

  def encode_text(self, texts: list[str]) -> dict[str, np.ndarray]:
    """Returns the features of the captions of one video, by name as in a record."""
    tokens = self.text.tokens(texts) if texts else []
    features = {
      'student_tokens': np.concatenate([*tokens, np.zeros((0, self.text.token_features), np.float32)]),
      'token_lengths': np.array([len(rows) for rows in tokens], np.int32),
    }
    if self.teacher_text is not None:
      empty = np.zeros((0, self.teacher_text.sentence_features), np.float32)
      features['teacher_text'] = self.teacher_text.sentences(texts) if texts else empty
    return features


def extract(request: Request) -> Result:
  """Extracts what is not extracted yet, and packs what is not packed yet.

  A file that is broken is reported, never raised.

  Raises:
    ValueError: the request, the captions or a backbone are not as they should be, or an earlier extraction into the
      same folder had other options.
    OSError: a file or folder that the request names is absent, or the disk is full.
  """
  found = corpus.find(request.videos, request.captions)
  models = Backbones(request)
  folder = work_folder.WorkFolder(request.data_dir / FOLDER)
  report = Report()
  with base_builder.only_builder(folder.path):
    built = custom.newest(request.data_dir)
    before = tfds.builder_from_directory(str(built)).info.metadata['options'] if built else None
    folder.begin(_options(request, models), models.sizes(), before)
    todo = _sort_out(found, folder, custom.packed_videos(built) if built else {}, report)
    _extract_all(request, models, folder, todo, report)
    report.add(*(Entry(name, 'skipped') for name in found.skipped))
    report.add(*(Entry(name, 'missing', captions=count) for name, count in found.missing.items()))
    report.write(folder.path / REPORT)
    return Result(report, folder.path / REPORT, _pack(request, folder) if report.usable else None)


def _options(request: Request, models: Backbones) -> dict[str, Any]:
  options = {'rate': float(request.rate), 'max_side': request.max_side, **models.fingerprints()}
  return options | ({'pixels': models.pixels} if models.pixels else {})


def _sort_out(
  found: corpus.Corpus, folder: work_folder.WorkFolder, packed: dict[str, str], report: Report
) -> list[tuple[corpus.Job, str]]:
  """Returns the videos that are to be extracted with their digests; notes those that are there already.

  Raises:
    ValueError: videos that are packed, or their captions, are others now.
  """
  todo, changed = [], []
  for job in found.jobs:
    digest = job.digest()
    metadata = folder.find(job, digest)
    if packed.get(job.video, digest) != digest:
      changed.append(job.video)
    elif job.video in packed or metadata is not None:
      damage = (metadata or {}).get('damage', '')
      frames = int((metadata or {}).get('frames', 0))
      status = 'truncated' if damage else 'kept'
      report.add(Entry(job.video, status, damage, job.split, frames, len(job.captions)))
    else:
      todo.append((job, digest))
  if changed:
    raise UserError(
      f'{len(changed)} videos, or their captions or splits, are not what they were when they were put into the data '
      f'set: {changed[:6]}. Records are not written again: undo the change, give the videos other names, or choose '
      'another --data_dir'
    )
  return todo


def _extract_all(
  request: Request,
  models: Backbones,
  folder: work_folder.WorkFolder,
  todo: list[tuple[corpus.Job, str]],
  report: Report,
) -> None:
  """Writes a file for each video that can be decoded, and notes what became of each."""
  threads = max(1, (os.cpu_count() or 1) // request.readers)
  makes = [functools.partial(_read, request, job.path, models, threads) for job, _ in todo]
  bar = progress.Progress(len(todo), 'videos')
  with contextlib.closing(ahead.read_ahead(makes, request.readers, room=2 * request.batch)) as readings:
    for (job, digest), reading in zip(todo, readings, strict=True):
      report.add(_extract_one(request, models, folder, job, digest, reading, bar))
      bar.step(job.split)
  if todo:
    bar.finish('all')


def _extract_one(
  request: Request,
  models: Backbones,
  folder: work_folder.WorkFolder,
  job: corpus.Job,
  digest: str,
  reading: Iterator[Any],
  bar: progress.Progress,
) -> Entry:
  """Makes the features of one video as it is read, and writes them."""
  times: list[float] = []
  features: list[dict[str, np.ndarray]] = []
  info = damage = None
  try:
    info = next(reading)
    for batch in _batches(reading, request.batch):
      times += [time for time, _ in batch]
      features.append(models.encode([prepared for _, prepared in batch]))
      bar.note(job.video, times[-1] / max(info.duration, 1e-6))
  except decoding.VideoError as error:
    damage = error.reason
  if not times:
    return Entry(job.video, 'failed', damage or 'has no frame', job.split, captions=len(job.captions))
  duration = info.duration if damage is None else min(info.duration, times[-1] + 1 / request.rate)
  arrays = {name: np.concatenate([each[name] for each in features]) for name in features[0]}
  arrays |= models.encode_text([caption.text for caption in job.captions])
  arrays['times'] = np.array(times, np.float32)
  folder.write(job, digest, arrays, duration, damage or '')
  status = 'extracted' if damage is None else 'truncated'
  return Entry(job.video, status, damage or '', job.split, len(times), len(job.captions), duration)


def _read(request: Request, path: pathlib.Path, models: Backbones, threads: int) -> Iterator[Any]:
  """Yields what the file says of itself, then (time, prepared picture) of each sample; runs in a thread.

  Raises:
    VideoError: whatever goes wrong with this file.
  """
  try:
    yield decoding.probe(path)
    for frame in decoding.sample_frames(path, request.rate, request.max_side, threads):
      yield frame.time, models.prepare(frame.image)
  except decoding.VideoError:
    raise
  except Exception as error:  # One odd file must not end the extraction of all others.
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


def _pack(request: Request, folder: work_folder.WorkFolder) -> custom.Builder:
  """Adds what is new to the data set."""
  asked = options.BuildOptions(dtype=request.dtype)
  builder = custom.Builder(data_dir=str(request.data_dir), options=asked, extracted=folder.path)
  builder.download_and_prepare()
  return builder
