"""Puts the records of some videos into one padded batch.

This is where the time of the pipeline goes: a batch at the sizes of TVR is 250 MB. So every array is allocated once,
at its final shape, and each video is converted, resampled and normalised in its place in it, by several threads:
numpy lets go of the interpreter while it works.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlkd_jax.data import sources, transforms
from dlkd_jax.data.batch import Batch
from dlkd_jax.data.options import PipelineOptions, fitting_size, growing_size


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The padded sizes of a batch: B videos, Q captions, L frames, W words."""

  videos: int
  captions: int
  frames: int
  words: int


@dataclasses.dataclass(frozen=True)
class _Video:
  """A record with what it takes up in a batch: its rows and words after resampling and cutting."""

  record: sources.Record
  frames: int
  words: np.ndarray  # [k] tokens of each caption, after the cut.

  @property
  def captions(self) -> int:
    return len(self.words)


class Collator:
  """Makes batches out of the rows of a source.

  Every process makes its own part of a batch: of the videos at positions 0, 1, 2, … of a global batch, process p of
  P takes p, p + P, …. A process may so have no video at all in the short last batch of an epoch; it then gives a
  batch of padding, of the same shape as the others', so that all take the same number of steps. With more than one
  process every size is the largest listed one, because all must agree on the shape and none knows the others' videos.
  """

  def __init__(
    self,
    source: sources.Source,
    options: PipelineOptions,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Prepares for batches of a source.

    Raises:
      ValueError: the videos of a batch cannot be shared evenly, or with several processes no caption size is given.
    """
    if options.batch_videos % process_count:
      raise ValueError(
        f'batch_videos is {options.batch_videos}, which {process_count} processes cannot share evenly; '
        'make it a multiple'
      )
    if process_count > 1 and not options.caption_sizes:
      raise ValueError(
        f'caption_sizes is empty and there are {process_count} processes, which must agree on the shape of a batch '
        'beforehand; list the number of captions that any process may have in a batch'
      )
    self._source, self._options = source, options
    self._index, self._count = process_index, process_count
    self._pool: concurrent.futures.ThreadPoolExecutor | None = None

  def __getstate__(self) -> dict[str, Any]:
    # Threads cannot travel to a worker process; it starts its own.
    return {**self.__dict__, '_pool': None}

  def __call__(self, rows: np.ndarray) -> Batch:
    """Reads the videos at `rows` of the source, a global batch, and returns this process's part of it."""
    if self._pool is None:
      self._pool = concurrent.futures.ThreadPoolExecutor(self._options.read_threads, thread_name_prefix='collate')
    mine = [int(row) for row in rows[self._index :: self._count]]
    videos = list(self._pool.map(self._read, mine))
    if self._options.sort_by_captions:
      videos.sort(key=lambda video: -video.captions)  # Stable: equal ones stay in the order drawn.
    like = videos[0].record if videos else self._source[int(rows[0])]
    return _fill(videos, self._sizes(videos), like, self._options, self._pool)

  def _read(self, row: int) -> _Video:
    record = self._source[row]
    _check_trainable(record, self._options.teacher)
    counts = [len(record['student_frames']), self._options.max_frames]
    if self._options.teacher:
      counts.append(len(record['teacher_frames']))
    words = np.minimum(np.asarray(record['token_lengths']), self._options.max_words)
    return _Video(record, min(counts), words)

  def _sizes(self, videos: Sequence[_Video]) -> Sizes:
    captions = sum(video.captions for video in videos)
    listed = self._options.listed_caption_sizes(self._count)
    padded_videos = self._options.padded_videos(self._count)
    if self._count > 1:
      if captions > listed[-1]:
        raise ValueError(
          f'a batch of process {self._index} has {captions} captions and caption_sizes ends at {listed[-1]}; with '
          f'several processes no batch may be larger: list {captions} or more'
        )
      return Sizes(padded_videos, listed[-1], self._options.max_frames, self._options.max_words)
    return Sizes(
      padded_videos,
      growing_size(captions, listed),
      fitting_size(max(video.frames for video in videos), self._options.frame_sizes),
      fitting_size(max(int(video.words.max()) for video in videos), self._options.word_sizes),
    )


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
  """
  if teacher_rows is not None:
    rows = transforms.resample_frames(rows, teacher_rows) if len(rows) > teacher_rows else rows
  count = min(len(rows), options.max_frames)
  transforms.resample_frames(rows, options.max_frames, out[:count])
  transforms.normalize_rows(out[:count], out[:count])
  return count


def write_tokens(tokens: np.ndarray, lengths: Sequence[int], words: np.ndarray, out: np.ndarray) -> None:
  """Writes the captions of a video, each cut and normalised, into `out`.

  Args:
    tokens: `[sum(lengths), Dq]` tokens of all captions.
    lengths: `[k]` tokens of each caption.
    words: `[k]` tokens of each caption that are kept.
    out: `[k, W, Dq]` float32 zeros.
  """
  start = 0
  for caption, (length, kept) in enumerate(zip(lengths, words, strict=True)):
    into = out[caption, :kept]
    transforms.normalize_rows(transforms.widen(tokens[start : start + kept], into), into)
    start += length


def _fill(
  videos: Sequence[_Video],
  sizes: Sizes,
  like: sources.Record,
  options: PipelineOptions,
  pool: concurrent.futures.Executor,
) -> Batch:
  """Allocates a batch and writes the videos into it; `like` is a record with the features' widths."""
  frames = np.array([video.frames for video in videos], np.int32)
  captions = np.array([video.captions for video in videos], np.int32)
  words = np.concatenate([*(video.words for video in videos), np.zeros(0, np.int64)])
  labels = np.zeros(sizes.captions, np.int32)
  labels[: len(words)] = np.repeat(np.arange(len(videos), dtype=np.int32), captions)
  width = {name: value.shape[-1] for name, value in like.items() if np.ndim(value) == 2}

  def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)

  batch = Batch(
    student_frames=zeros(sizes.videos, sizes.frames, width['student_frames']),
    frame_mask=lengths_mask(frames, sizes.videos, sizes.frames),
    student_tokens=zeros(sizes.captions, sizes.words, width['student_tokens']),
    token_mask=lengths_mask(words, sizes.captions, sizes.words),
    labels=labels,
    video_mask=np.arange(sizes.videos) < len(videos),
    caption_mask=np.arange(sizes.captions) < len(words),
  )
  if options.teacher:
    batch = batch.replace(
      teacher_frames=zeros(sizes.videos, sizes.frames, width['teacher_frames']),
      teacher_text=zeros(sizes.captions, width['teacher_text']),
    )
  starts = np.cumsum(captions) - captions
  # The list makes the errors of the threads surface here.
  list(pool.map(lambda row: _write(videos[row], row, starts[row], batch, options), range(len(videos))))
  return batch


def _write(video: _Video, row: int, start: int, batch: Batch, options: PipelineOptions) -> None:
  """Writes one video into row `row` of the batch and its captions into the rows from `start`."""
  record = video.record
  own = slice(start, start + video.captions)
  student = record['student_frames']
  if options.teacher:
    teacher = record['teacher_frames']
    write_student_frames(student, batch.student_frames[row], options, len(teacher))
    # A teacher with more rows than the student comes down to the student's, as the student would to the teacher's.
    if len(teacher) > len(student):
      teacher = transforms.resample_frames(teacher, len(student))
    into = batch.teacher_frames[row, : video.frames]
    transforms.resample_frames(teacher, options.max_frames, into)
    transforms.widen(record['teacher_text'], batch.teacher_text[own])
  else:
    write_student_frames(student, batch.student_frames[row], options)
  write_tokens(record['student_tokens'], record['token_lengths'], video.words, batch.student_tokens[own])


def lengths_mask(lengths: Sequence[int] | np.ndarray, rows: int, columns: int) -> np.ndarray:
  """Returns a `[rows, columns]` mask whose row r is true in its first `lengths[r]` columns; missing lengths are 0."""
  padded = np.zeros(rows, np.int64)
  padded[: len(lengths)] = lengths
  return np.arange(columns) < padded[:, None]


def _check_trainable(record: sources.Record, teacher: bool) -> None:
  """Raises ValueError, naming the video, where a record lacks what training needs."""
  video = sources.text(record['video_id'])
  if len(record['student_frames']) == 0:
    raise ValueError(f'video {video!r} has no student frames; leave it out of the data set')
  if len(record['token_lengths']) == 0:
    raise ValueError(f'video {video!r} has no captions; leave it out of the training split')
  if np.min(record['token_lengths']) < 1:
    raise ValueError(f'video {video!r} has a caption without tokens; leave the caption out')
  if not teacher:
    return
  if not sources.has_rows(record, 'teacher_frames'):
    raise ValueError(
      f'video {video!r} has no teacher frames; train with teacher=False or build the set with teacher features'
    )
  if len(record.get('teacher_text', ())) != len(record['token_lengths']):
    raise ValueError(
      f'video {video!r} has {len(record["token_lengths"])} captions and {len(record.get("teacher_text", ()))} '
      'teacher text features; expected one a caption; train with teacher=False or build the set again'
    )
