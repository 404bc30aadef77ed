"""Puts the records of some videos into one batch.

This is where the time of the pipeline goes: a batch at the sizes of TVR is 100 MB packed and 250 MB padded. So every
array is allocated once, at its final shape, and each video is converted, resampled and normalised in its place in it,
by several threads: numpy lets go of the interpreter while it works.
"""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Sequence

import numpy as np

from dlkd_jax.data import sources, transforms
from dlkd_jax.data.arrangement import ShardArrangement, arrange
from dlkd_jax.data.batch import Batch
from dlkd_jax.data.lengths import Lengths
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.data.packing import make_layout
from dlkd_jax.data.plan import Plan, ShardShape
from dlkd_jax.errors import UserError
from dlkd_jax.layout import Layout


class Collator:
  """Makes batches out of the rows of a source.

  Every process makes its own part of a batch: D shards go to P processes in order, D / P each. Which video lies where
  follows from the lengths of the records, which all processes know, so each reads the records of its own shards alone.
  A shard may have no video at all in the short last batch of an epoch; it then holds padding, of the same shape as
  the others.
  """

  def __init__(
    self, source: sources.Source, lengths: Lengths, plan: Plan, process_index: int = 0, process_count: int = 1
  ):
    """Prepares for batches of a source.

    Args:
      source: the records.
      lengths: of all of them.
      plan: the shapes of the batches, and the options.
      process_index: this process, from 0.
      process_count: processes that share each batch.

    Raises:
      ValueError: the shards do not divide over the processes.
    """
    options = plan.options
    if options.shards % process_count:
      raise UserError(
        f'shards is {options.shards}, which {process_count} processes cannot share evenly; make it a multiple: the '
        'number of devices of all processes'
      )
    local = options.shards // process_count
    self._mine = range(process_index * local, (process_index + 1) * local)
    self._source, self._lengths, self._plan, self._options = source, lengths, plan, options
    self._widths: dict[str, int] | None = None
    self._pool: concurrent.futures.ThreadPoolExecutor | None = None

  def __call__(self, rows: np.ndarray) -> Batch:
    """Reads the videos at `rows` of the source, a global batch, and returns this process's part of it.

    Raises:
      ValueError: a record lacks what training needs, holds NaN or infinities, or has other lengths than were listed.
      DamagedFileError: a record cannot be read.
    """
    if self._pool is None:
      self._pool = concurrent.futures.ThreadPoolExecutor(self._options.read_threads, thread_name_prefix='collate')
    if self._widths is None:
      self._widths = _widths(self._source[int(rows[0])], self._options)
    shards = arrange(np.asarray(rows), self._lengths, self._options, self._plan.slots)
    shape = self._plan.shape_for(shards)
    mine = [shards[shard] for shard in self._mine]
    batch = _empty_batch(mine, self._mine, shape, self._widths, self._options)
    writers = [_ShardWriter(self, local, shard, shape, batch) for local, shard in enumerate(mine)]
    tasks = [(writer, video) for writer in writers for video in range(len(writer.shard.rows))]
    # The list makes the errors of the threads surface here.
    list(self._pool.map(lambda task: task[0].write(task[1]), tasks))
    return batch

  def read(self, row: int) -> sources.Record:
    """Returns a record after checking that training can use it and that it is as long as listed."""
    record = self._source[row]
    _check_trainable(record, self._options)
    lengths = self._lengths
    tokens = np.asarray(record['token_lengths'])
    start = lengths.starts[row]
    found = (len(record['student_frames']), len(record.get('teacher_frames', ())), tokens.tolist())
    listed = (
      int(lengths.student[row]),
      int(lengths.teacher[row]),
      lengths.tokens[start : start + lengths.captions[row]].tolist(),
    )
    if found[0] != listed[0] or found[2] != listed[2] or (self._options.teacher and found[1] != listed[1]):
      raise UserError(
        f'video {sources.text(record["video_id"])!r} has {found[0]} student and {found[1]} teacher frames and captions '
        f'of {found[2]} tokens; listed are {listed[0]}, {listed[1]} and {listed[2]}: the lengths are of other records; '
        'build the data set again, or remove its lengths-*.npz files'
      )
    for name, width in self._widths.items():
      found = _width(record[name])
      if found != width:
        raise UserError(
          f'video {sources.text(record["video_id"])!r} has {name} of {found} features; expected '
          f'{width}, as the others have; build the data set again'
        )
    return record


class _ShardWriter:
  """Writes the videos of one shard into a batch."""

  def __init__(self, collator: Collator, local: int, shard: ShardArrangement, shape: ShardShape, batch: Batch):
    """Prepares; `local` is the place of the shard among those of this process."""
    self.shard = shard
    self._collator, self._options, self._batch = collator, collator._options, batch
    self._frame_rows = shard.frame_places.rows + local * shape.frame_rows
    self._token_rows = shard.token_places.rows + local * shape.token_rows
    self._captions = np.cumsum(shard.captions) - shard.captions
    self._first_text = local * shape.captions

  def write(self, video: int) -> None:
    """Reads the record of the shard's video at this place and writes all of it."""
    record = self._collator.read(int(self.shard.rows[video]))
    with sources.naming_bad_rows(record):
      self._write_frames(record, video)
      self._write_captions(record, video)

  def _write_frames(self, record: sources.Record, video: int) -> None:
    shard, options, batch = self.shard, self._options, self._batch
    row, start = self._frame_rows[video], shard.frame_places.starts[video]
    own = slice(start, start + shard.frames[video])
    student = record['student_frames']
    if not options.teacher:
      write_student_frames(student, batch.student_frames[row, own], options)
      return
    teacher = record['teacher_frames']
    write_student_frames(student, batch.student_frames[row, own], options, len(teacher))
    # A teacher with more rows than the student comes down to the student's, as the student would to the teacher's.
    if options.pixels:
      chosen = transforms.middle_rows(len(teacher), len(student))
      chosen = chosen[transforms.middle_rows(len(chosen), options.max_frames)]
      batch.teacher_pixels[row, own] = record['teacher_pixels'][chosen].reshape(len(chosen), -1)
      return
    if len(teacher) > len(student):
      teacher = transforms.resample_frames(teacher, len(student))
    transforms.check_finite(transforms.resample_frames(teacher, options.max_frames, batch.teacher_frames[row, own]))

  def _write_captions(self, record: sources.Record, video: int) -> None:
    shard, batch = self.shard, self._batch
    first = self._captions[video]
    own = slice(first, first + shard.captions[video])
    rows, starts, words = self._token_rows[own], shard.token_places.starts[own], shard.words[own]
    write_tokens(record['student_tokens'], record['token_lengths'], words, batch.student_tokens, rows, starts)
    if self._options.teacher:
      into = batch.teacher_text[self._first_text + own.start : self._first_text + own.stop]
      transforms.check_finite(transforms.widen(record['teacher_text'], into))


def write_student_frames(
  rows: np.ndarray, out: np.ndarray, options: PipelineOptions, teacher_rows: int | None = None
) -> int:
  """Writes a video's student frames, resampled, then normalised, into the first rows of `out`.

  Args:
    rows: `[N, Dv]` features.
    out: `[L, Dv]` float32 zeros.
    options: the limit on frames.
    teacher_rows: rows of the teacher's features, to whose number a longer video is brought first; None to do without.

  Returns:
    The number of rows written.

  Raises:
    NonFiniteError: a row holds NaN or an infinity.
  """
  if teacher_rows is not None:
    rows = transforms.resample_frames(rows, teacher_rows) if len(rows) > teacher_rows else rows
  count = min(len(rows), options.max_frames)
  transforms.resample_frames(rows, options.max_frames, out[:count])
  transforms.normalize_rows(out[:count], out[:count])
  return count


def write_tokens(
  tokens: np.ndarray,
  lengths: Sequence[int],
  words: np.ndarray,
  out: np.ndarray,
  rows: np.ndarray,
  starts: np.ndarray,
) -> None:
  """Writes the captions of a video, each cut and normalised, into their places.

  Args:
    tokens: `[sum(lengths), Dq]` tokens of all captions.
    lengths: `[k]` tokens of each caption.
    words: `[k]` tokens of each caption that are kept.
    out: `[Rw, W, Dq]` float32 zeros.
    rows: `[k]` row of each caption.
    starts: `[k]` its first position there.

  Raises:
    NonFiniteError: a token holds NaN or an infinity.
  """
  # All at once: a caption alone is too little work for a call of numpy.
  normalized = transforms.widen(tokens)
  transforms.normalize_rows(normalized, normalized)
  first = 0
  for length, kept, row, start in zip(lengths, words, rows, starts, strict=True):
    out[row, start : start + kept] = normalized[first : first + kept]
    first += length


def lengths_mask(lengths: Sequence[int] | np.ndarray, rows: int, columns: int) -> np.ndarray:
  """Returns a `[rows, columns]` mask whose row r is true in its first `lengths[r]` columns; missing lengths are 0."""
  padded = np.zeros(rows, np.int64)
  padded[: len(lengths)] = lengths
  return np.arange(columns) < padded[:, None]


def _empty_batch(
  mine: Sequence[ShardArrangement], numbers: range, shape: ShardShape, widths: dict[str, int], options: PipelineOptions
) -> Batch:
  """Allocates this process's part of a batch, complete but for the features."""

  def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays)

  def filled(values: Sequence[np.ndarray], size: int, padding: int = -1) -> np.ndarray:
    return joined([np.pad(np.asarray(v, np.int32), (0, size - len(v)), constant_values=padding) for v in values])

  def layout(side: str, lengths: str, ordinals: str, sequences: int) -> Layout:
    sizes = [getattr(shape, f'{side}_{name}') for name in ('rows', 'positions', 'slots')]
    made = [
      make_layout(*(getattr(shard, name) for name in (f'{side}_places', lengths, ordinals)), *sizes, sequences)
      for shard in mine
    ]
    fields = ('slot', 'position', 'ordinals', 'where')
    return Layout(**{field: joined([getattr(each, field) for each in made]) for field in fields})

  def zeros(rows: int, *shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros((rows * len(mine), *shape), dtype)

  frames, tokens = (shape.frame_rows, shape.frame_positions), (shape.token_rows, shape.token_positions)
  labels = [
    number * shape.videos + np.repeat(np.arange(len(shard.rows)), shard.captions)
    for number, shard in zip(numbers, mine, strict=True)
  ]
  video_ordinals = filled([shard.videos for shard in mine], shape.videos)
  caption_ordinals = filled([shard.caption_ordinals for shard in mine], shape.captions)
  return Batch(
    student_frames=zeros(*frames, widths['student_frames']),
    student_tokens=zeros(*tokens, widths['student_tokens']),
    frames=layout('frame', 'frames', 'videos', shape.videos),
    tokens=layout('token', 'words', 'caption_ordinals', shape.captions),
    labels=filled(labels, shape.captions, 0),
    video_mask=video_ordinals >= 0,
    caption_mask=caption_ordinals >= 0,
    video_ordinals=video_ordinals,
    caption_ordinals=caption_ordinals,
    teacher_frames=zeros(*frames, widths['teacher_frames']) if 'teacher_frames' in widths else None,
    teacher_text=zeros(shape.captions, widths['teacher_text']) if options.teacher else None,
    teacher_pixels=zeros(*frames, widths['teacher_pixels'], dtype=np.uint8) if options.pixels else None,
  )


def check_lengths(source: sources.Source, lengths: Lengths, options: PipelineOptions) -> None:
  """Checks before the first batch that every record can be trained on, as far as the lengths tell.

  Raises:
    ValueError: one lacks frames, captions, tokens, or the teacher's frames; the message names the video.
  """
  unfit = (lengths.student < 1) | (lengths.captions < 1)
  if options.teacher:
    unfit |= lengths.teacher < 1
  unfit[np.repeat(np.arange(len(lengths)), lengths.captions)[lengths.tokens < 1]] = True
  for row in np.flatnonzero(unfit)[:1]:
    _check_trainable(source[int(row)], options)
    raise UserError(
      f'record {row} has frames, captions or tokens of length 0 by its lengths, and none by itself; '
      'the lengths are of other records: build the data set again'
    )


def _widths(record: sources.Record, options: PipelineOptions) -> dict[str, int]:
  """Returns the features a row, or the numbers a picture, of each array that a batch is made of."""
  _check_trainable(record, options)
  teacher = ('teacher_pixels' if options.pixels else 'teacher_frames', 'teacher_text') if options.teacher else ()
  return {name: _width(record[name]) for name in ('student_frames', 'student_tokens', *teacher)}


def _width(rows: np.ndarray) -> int:
  return math.prod(rows.shape[1:])


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
