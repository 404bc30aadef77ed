"""From the records of some videos to one batch.

This is where the time of the pipeline goes: a batch at the sizes of TVR is 60 MB. So every array is allocated once, at
its final shape and in the type that the features are stored in, and each video is copied into its place in it, by
several threads: numpy lets go of the interpreter while it works.
"""

from __future__ import annotations

import concurrent.futures
import math

import numpy as np

from dlkd_jax.data import sources, transforms
from dlkd_jax.data.batch import Batch
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.data.packing import Shard, arrange, make_layout
from dlkd_jax.data.shapes import Feature, Plan, ShardShape, batch_shapes
from dlkd_jax.data.sources import Lengths, Source
from dlkd_jax.errors import UserError


class Collator:
  """Makes batches out of the records of a source.

  Every process makes its own part of a batch: D shards go to P processes in order, D / P each. Which video lies where
  follows from the lengths of the records, which all processes know, so each reads the records of its own shards alone.
  A shard may have no video at all in the short last batch of an epoch; it then holds padding, of the same shape as
  the others.

  Attributes:
    plan: the shapes of the batches, and the options.
    features: width and type of each array of features.
  """

  def __init__(self, source: Source, lengths: Lengths, plan: Plan, process_index: int = 0, process_count: int = 1):
    """Prepares for batches of a source.

    Args:
      source: the records, of which one is read.
      lengths: of all of them.
      plan: the shapes of the batches, and the options.
      process_index: this process, from 0.
      process_count: processes that share each batch.

    Raises:
      UserError: the shards do not divide over the processes.
    """
    shards = plan.options.shards
    if shards % process_count:
      raise UserError(
        f'shards is {shards}, which {process_count} processes cannot share evenly; make it a multiple: the number of '
        'devices of all processes'
      )
    local = shards // process_count
    self.plan, self.features = plan, _features(source[0], lengths, plan.options)
    self._mine = slice(process_index * local, (process_index + 1) * local)
    self._source, self._lengths, self._options = source, lengths, plan.options
    self._checked = np.zeros(len(source), bool)  # Records whose numbers are known to be finite.
    self._pool = concurrent.futures.ThreadPoolExecutor(plan.options.read_threads, thread_name_prefix='collate')

  def __call__(self, records: np.ndarray) -> Batch:
    """Reads these records of the source, a global batch, and returns this process's part of it.

    Raises:
      UserError: a record lacks what training needs, holds NaN or infinities, or has other lengths than were listed.
      DamagedFileError: a record cannot be read.
    """
    shards = arrange(np.asarray(records), self._lengths, self._options, self.plan.slots)
    shape = self.plan.shape_for(shards)
    mine = list(enumerate(shards[self._mine]))
    batch = _empty_batch([shard for _, shard in mine], self._mine.start, shape, self.features)
    videos = [(local, shard, video) for local, shard in mine for video in range(len(shard.records))]

    def write(thread: int) -> None:
      for local, shard, video in videos[thread :: self._options.read_threads]:
        record = self._read(int(shard.records[video]))
        _write_frames(batch, local * shape.frame_rows, shard, video, record, self._options)
        _write_captions(batch, local * shape.token_rows, local * shape.captions, shard, video, record)

    # The list makes the errors of the threads surface here.
    list(self._pool.map(write, range(self._options.read_threads)))
    return batch

  def _read(self, index: int) -> sources.Record:
    """Returns a record after checking that training can use it and that it is as long as listed."""
    record = self._source[index]
    _check_trainable(record, self._options)
    lengths, start = self._lengths, self._lengths.starts[index]
    tokens = np.asarray(record['token_lengths']).tolist()
    found = (len(record['student_frames']), len(record.get('teacher_frames', ())), tokens)
    listed = (
      int(lengths.student[index]),
      int(lengths.teacher[index]),
      lengths.tokens[start : start + lengths.captions[index]].tolist(),
    )
    if found[0] != listed[0] or found[2] != listed[2] or (self._options.teacher and found[1] != listed[1]):
      raise UserError(
        f'video {sources.text(record["video_id"])!r} has {found[0]} student and {found[1]} teacher frames and captions '
        f'of {found[2]} tokens; listed are {listed[0]}, {listed[1]} and {listed[2]}: the lengths are of other records; '
        'build the data set again, or remove its lengths-*.npz files'
      )
    for name, expected in self.features.items():
      width, dtype = math.prod(record[name].shape[1:]), record[name].dtype
      if width != expected.width or expected.dtype not in (dtype, np.float32):
        raise UserError(
          f'video {sources.text(record["video_id"])!r} has {name} of {width} features; expected {expected.width}, as '
          f'the others have, and {expected.dtype} (these are {dtype}); build the data set again'
        )
    if not self._checked[index]:
      with sources.naming_bad_rows(record):
        for name in self.features:
          transforms.check_finite(record[name])
      self._checked[index] = True
    return record


def _features(record: sources.Record, lengths: Lengths, options: PipelineOptions) -> dict[str, Feature]:
  """Returns width and type of each array of features of a batch; a picture is so many numbers."""
  _check_trainable(record, options)
  teacher = ('teacher_pixels' if options.pixels else 'teacher_frames', 'teacher_text') if options.teacher else ()
  averaged = lengths.averages(options)

  def dtype(name: str) -> np.dtype:
    stored = record[name].dtype
    exact = stored in (np.float16, np.uint8) and not averaged.get(name)
    return stored if exact else np.dtype(np.float32)

  names = ('student_frames', 'student_tokens', *teacher)
  return {name: Feature(math.prod(record[name].shape[1:]), dtype(name)) for name in names}


def _empty_batch(mine: list[Shard], first: int, shape: ShardShape, features: dict[str, Feature]) -> Batch:
  """Allocates some shards of a batch, the first of which is number `first`, complete but for the features."""

  def filled(values: list[np.ndarray], size: int, padding: int = -1) -> np.ndarray:
    array = np.full((len(values), size), padding, np.int32)
    for row, some in zip(array, values, strict=True):
      row[: len(some)] = some
    return array.reshape(-1)

  labels = [
    number * shape.videos + np.repeat(np.arange(len(shard.records)), shard.captions)
    for number, shard in enumerate(mine, first)
  ]
  video_ordinals = filled([shard.videos for shard in mine], shape.videos)
  caption_ordinals = filled([shard.caption_ordinals for shard in mine], shape.captions)
  frames = [(shard.frame_places, shard.frames, shard.videos) for shard in mine]
  tokens = [(shard.token_places, shard.words, shard.caption_ordinals) for shard in mine]
  abstract = batch_shapes(shape, len(mine), features)
  return Batch(
    frame_layout=make_layout(frames, shape.frame_rows, shape.frame_positions, shape.frame_slots, shape.videos),
    token_layout=make_layout(tokens, shape.token_rows, shape.token_positions, shape.token_slots, shape.captions),
    labels=filled(labels, shape.captions, 0),
    video_mask=video_ordinals >= 0,
    caption_mask=caption_ordinals >= 0,
    video_ordinals=video_ordinals,
    caption_ordinals=caption_ordinals,
    **{name: np.zeros(getattr(abstract, name).shape, feature.dtype) for name, feature in features.items()},
  )


def _write_frames(
  batch: Batch, first_row: int, shard: Shard, video: int, record: sources.Record, options: PipelineOptions
) -> None:
  """Writes student frames and what the teacher sees of them; rows of the shard start at `first_row` of the batch."""
  row, start = first_row + shard.frame_places.rows[video], shard.frame_places.starts[video]
  own = slice(start, start + shard.frames[video])
  student = record['student_frames']
  if options.teacher:
    teacher = record['teacher_frames']
    # The longer of the two is first brought to the length of the other.
    common = min(len(student), len(teacher))
    if options.pixels:
      chosen = transforms.middle_rows(len(teacher), common)
      chosen = chosen[transforms.middle_rows(len(chosen), options.max_frames)]
      batch.teacher_pixels[row, own] = record['teacher_pixels'][chosen].reshape(len(chosen), -1)
    else:
      teacher = transforms.resample_frames(teacher, common) if len(teacher) > common else teacher
      transforms.resample_frames(teacher, options.max_frames, batch.teacher_frames[row, own])
    student = transforms.resample_frames(student, common) if len(student) > common else student
  transforms.resample_frames(student, options.max_frames, batch.student_frames[row, own])


def _write_captions(
  batch: Batch, first_row: int, first_caption: int, shard: Shard, video: int, record: sources.Record
) -> None:
  """Writes tokens and teacher text; rows and captions of the shard start at these of the batch."""
  first = int(shard.captions[:video].sum())
  own = slice(first, first + shard.captions[video])
  tokens, at, places = record['student_tokens'], 0, shard.token_places
  rows, starts = first_row + places.rows[own], places.starts[own]
  for length, kept, row, start in zip(record['token_lengths'], shard.words[own], rows, starts, strict=True):
    batch.student_tokens[row, start : start + kept] = tokens[at : at + kept]
    at += length
  if batch.teacher_text is not None:
    batch.teacher_text[first_caption + own.start : first_caption + own.stop] = record['teacher_text']


def check_lengths(source: Source, lengths: Lengths, options: PipelineOptions) -> None:
  """Checks before the first batch that every record can be trained on, as far as the lengths tell.

  Raises:
    UserError: one lacks frames, captions, tokens, or the teacher's frames; the message names the video.
  """
  unfit = (lengths.student < 1) | (lengths.captions < 1)
  if options.teacher:
    unfit |= lengths.teacher < 1
  unfit[np.repeat(np.arange(len(lengths)), lengths.captions)[lengths.tokens < 1]] = True
  for index in np.flatnonzero(unfit)[:1]:
    _check_trainable(source[int(index)], options)
    raise UserError(
      f'record {index} has frames, captions or tokens of length 0 by its lengths, and none by itself; '
      'the lengths are of other records: build the data set again'
    )


def _check_trainable(record: sources.Record, options: PipelineOptions) -> None:
  """Raises ValueError, naming the video, where a record lacks what training needs."""
  video = sources.text(record['video_id'])
  if len(record['student_frames']) == 0:
    raise UserError(f'video {video!r} has no student frames; leave it out of the data set')
  if len(record['token_lengths']) == 0:
    raise UserError(f'video {video!r} has no captions; leave it out of the training split')
  if np.min(record['token_lengths']) < 1:
    raise UserError(f'video {video!r} has a caption without tokens; leave the caption out')
  if not options.teacher:
    return
  if not sources.has_rows(record, 'teacher_frames'):
    raise UserError(
      f'video {video!r} has no teacher frames; train with teacher=False or build the set with teacher features'
    )
  if len(record.get('teacher_text', ())) != len(record['token_lengths']):
    raise UserError(
      f'video {video!r} has {len(record["token_lengths"])} captions and {len(record.get("teacher_text", ()))} '
      'teacher text features; expected one a caption; train with teacher=False or build the set again'
    )
  if options.pixels and len(record.get('teacher_pixels', ())) != len(record['teacher_frames']):
    raise UserError(
      f'video {video!r} has {len(record["teacher_frames"])} teacher frames and pixels of '
      f'{len(record.get("teacher_pixels", ()))}; expected those of each; train on the frozen features '
      '(teacher.online=False) or build a set with pixels'
    )
