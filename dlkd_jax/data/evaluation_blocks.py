"""A whole split, or one process's share of it, in blocks of one static size, for evaluation.

Videos and captions are walked apart: a gallery is encoded video by video and searched caption by caption, and the two
meet on their ids. Every one appears exactly once, in the order of the source or in one that is asked for. L is the
smallest of the listed frame sizes that fits the block, so it may differ from block to block (few values in all); so
may W.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from dlkd_jax.data import sources, transforms
from dlkd_jax.data.options import PipelineOptions, fitting_size
from dlkd_jax.data.sources import Source
from dlkd_jax.errors import UserError

_T = TypeVar('_T')


@dataclasses.dataclass(frozen=True)
class VideoBlock:
  """A block of b videos, all padded alike.

  Attributes:
    student_frames: `[b, L, Dv]` not normalised, in the type that they are stored in, but float32 where a video of the
      block is averaged to `max_frames`; padded rows are 0.
    frame_mask: `[b, L]` bool, true at real student frames.
    teacher_frames: `[b, L, Dt]` float32, not normalised; None where no video of the split has any.
    teacher_mask: `[b, L]` bool, true at real teacher frames, whose number may differ from the student's; None with
      `teacher_frames`. A video without teacher frames in a split that has some has none true.
    video_mask: `[b]` bool, true for real videos; these come first.
    video_ids: ids of the real videos, `sum(video_mask)` of them.
  """

  student_frames: np.ndarray
  frame_mask: np.ndarray
  teacher_frames: np.ndarray | None
  teacher_mask: np.ndarray | None
  video_mask: np.ndarray
  video_ids: list[str]


@dataclasses.dataclass(frozen=True)
class CaptionBlock:
  """A block of q captions, all padded alike; a video's captions may lie across two blocks.

  Attributes:
    student_tokens: `[q, W, Dq]` not normalised, in the type that they are stored in; padded rows are 0.
    token_mask: `[q, W]` bool, true at real tokens.
    teacher_text: `[q, Dt]` float32, not normalised; None where no video of the split has any. Rows of a caption
      without teacher text are 0.
    caption_mask: `[q]` bool, true for real captions; these come first.
    caption_ids: ids of the real captions, `sum(caption_mask)` of them.
    video_ids: for each real caption the id of its own video.
    captions: for each real caption its text.
    moments: `[q, 2]` float32, start and end in seconds; NaN where unknown and in padding.
    durations: `[q]` float32, length of the caption's own video in seconds; NaN where unknown and in padding.
  """

  student_tokens: np.ndarray
  token_mask: np.ndarray
  teacher_text: np.ndarray | None
  caption_mask: np.ndarray
  caption_ids: list[str]
  video_ids: list[str]
  captions: list[str]
  moments: np.ndarray
  durations: np.ndarray


def video_blocks(
  source: Source, options: PipelineOptions, block: int, order: Sequence[int] | None = None
) -> Iterator[VideoBlock]:
  """Yields videos of a split, each once: all in the order of the source, or those that `order` names.

  Student and teacher frames go straight to `options.max_frames`, each from its own row count. The next blocks are made
  by a thread while the consumer works on one. Where `options.teacher` is false the teacher's fields are None.

  Args:
    source: records of videos.
    options: sizes; only the limits, `frame_sizes`, `teacher` and `prefetch_batches` matter here.
    block: videos in a block; the last one is padded to it.
    order: records to take, in this order. Videos of similar length in a block leave less to padding.

  Raises:
    ValueError: a video has no student frames.
  """
  _check_block(block)
  order = range(len(source)) if order is None else order
  return _ahead(_video_blocks(source, options, block, order), options.prefetch_batches)


def caption_blocks(
  source: Source, options: PipelineOptions, block: int, order: Sequence[int] | None = None
) -> Iterator[CaptionBlock]:
  """Yields captions of a split, each once: all in the order of the source, or those of the videos that `order` names.

  Blocks are filled across the borders of videos, so that all but the last are full. The next blocks are made by a
  thread while the consumer works on one. Where `options.teacher` is false `teacher_text` is None.

  Args:
    source: records of videos; those without captions are passed over.
    options: sizes; only `max_words`, `word_sizes`, `teacher` and `prefetch_batches` matter here.
    block: captions in a block; the last one is padded to it.
    order: records whose captions to take, in this order.

  Raises:
    ValueError: a caption has no tokens, or a video has teacher text for some captions only.
  """
  _check_block(block)
  order = range(len(source)) if order is None else order
  return _ahead(_caption_blocks(source, options, block, order), options.prefetch_batches)


def _check_block(block: int) -> None:
  if block < 1:
    raise ValueError(f'block is {block}; expected 1 or more')


def _ahead(items: Iterator[_T], depth: int) -> Iterator[_T]:
  """Yields the items, made up to `depth` ahead by one thread."""
  if depth < 1:
    yield from items
    return
  end = object()
  pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='evaluation-blocks')
  try:
    waiting = collections.deque(pool.submit(next, items, end) for _ in range(depth))
    while (item := waiting.popleft().result()) is not end:
      waiting.append(pool.submit(next, items, end))
      yield item
  finally:
    # Also where the consumer leaves early or a record cannot be read: no thread may stay behind.
    pool.shutdown(wait=True, cancel_futures=True)


def _teacher_width(source: Source, feature: str, options: PipelineOptions) -> int | None:
  """Returns the width of a teacher feature, or None where it is not wanted or no record of the split has a row."""
  if not options.teacher:
    return None
  for index in range(len(source)):
    record = source[index]
    if feature not in record:
      return None  # A set built without a teacher lacks the feature in every record.
    if sources.has_rows(record, feature):
      return record[feature].shape[-1]
  return None


def _video_blocks(source: Source, options: PipelineOptions, block: int, order: Sequence[int]) -> Iterator[VideoBlock]:
  teacher_width = _teacher_width(source, 'teacher_frames', options)
  for start in range(0, len(order), block):
    yield _video_block([source[row] for row in order[start : start + block]], teacher_width, options, block)


def _video_block(
  records: list[sources.Record], teacher_width: int | None, options: PipelineOptions, block: int
) -> VideoBlock:
  ids = [sources.text(record['video_id']) for record in records]
  students = [record['student_frames'] for record in records]
  for video, student in zip(ids, students, strict=True):
    if len(student) == 0:
      raise UserError(f'video {video!r} has no student frames; leave it out of the data set')
  teachers = [record['teacher_frames'] for record in records] if teacher_width else []
  longest = max(len(rows) for rows in students + teachers)
  size = fitting_size(min(longest, options.max_frames), options.frame_sizes)

  counts = [min(len(rows), options.max_frames) for rows in students]
  averaged = any(len(rows) > options.max_frames for rows in students)
  student_frames = np.zeros((block, size, students[0].shape[-1]), np.float32 if averaged else _stored(students))
  for record, rows, count, out in zip(records, students, counts, student_frames, strict=False):
    with sources.naming_bad_rows(record):
      transforms.check_finite(rows)
    transforms.resample_frames(rows, options.max_frames, out[:count])
  teacher_frames = teacher_mask = None
  if teacher_width:
    teacher_frames = np.zeros((block, size, teacher_width), np.float32)
    teacher_counts = [min(len(rows), options.max_frames) for rows in teachers]
    for rows, out, count in zip(teachers, teacher_frames, teacher_counts, strict=False):
      if count:  # A video without teacher features may also lack their width.
        transforms.resample_frames(rows, options.max_frames, out[:count])
    teacher_mask = _mask(teacher_counts, block, size)
  return VideoBlock(
    student_frames=student_frames,
    frame_mask=_mask(counts, block, size),
    teacher_frames=teacher_frames,
    teacher_mask=teacher_mask,
    video_mask=np.arange(block) < len(records),
    video_ids=ids,
  )


def _stored(arrays: Sequence[np.ndarray]) -> np.dtype:
  """Returns the type for features as they are stored: float16 where all are, else float32."""
  return np.dtype(np.float16 if all(array.dtype == np.float16 for array in arrays) else np.float32)


def _mask(lengths: Sequence[int], rows: int, columns: int) -> np.ndarray:
  """Returns a `[rows, columns]` mask whose row r is true in its first `lengths[r]` columns; missing lengths are 0."""
  padded = np.zeros(rows, np.int64)
  padded[: len(lengths)] = lengths
  return np.arange(columns) < padded[:, None]


@dataclasses.dataclass(frozen=True)
class _Caption:
  """One caption, still as stored; its tokens are cut."""

  tokens: np.ndarray
  teacher_text: np.ndarray | None
  caption_id: str
  video_id: str
  text: str
  moment: np.ndarray
  duration: float


def _captions(source: Source, options: PipelineOptions, order: Sequence[int]) -> Iterator[_Caption]:
  """Yields the captions of a split's records one by one."""
  for index in order:
    record = source[index]
    video = sources.text(record['video_id'])
    lengths = np.asarray(record['token_lengths'])
    ids, captions = sources.texts(record['caption_ids']), sources.texts(record['captions'])
    teacher = record['teacher_text'] if sources.has_rows(record, 'teacher_text') else None
    if teacher is not None and len(teacher) != len(lengths):
      raise UserError(
        f'video {video!r} has {len(lengths)} captions and {len(teacher)} teacher text features; expected one a '
        'caption, or none; build the set again'
      )
    starts = np.cumsum(lengths) - lengths
    for k, (start, length) in enumerate(zip(starts, lengths, strict=True)):
      if length < 1:
        raise UserError(f'caption {ids[k]!r} of video {video!r} has no tokens; leave it out')
      yield _Caption(
        tokens=record['student_tokens'][start : start + min(length, options.max_words)],
        teacher_text=None if teacher is None else teacher[k],
        caption_id=ids[k],
        video_id=video,
        text=captions[k],
        moment=record['moments'][k],
        duration=float(record['duration']),
      )


def _caption_blocks(
  source: Source, options: PipelineOptions, block: int, order: Sequence[int]
) -> Iterator[CaptionBlock]:
  teacher_width = _teacher_width(source, 'teacher_text', options)
  captions = _captions(source, options, order)
  while some := list(itertools.islice(captions, block)):
    yield _caption_block(some, teacher_width, options, block)


def _caption_block(
  captions: list[_Caption], teacher_width: int | None, options: PipelineOptions, block: int
) -> CaptionBlock:
  words = [len(caption.tokens) for caption in captions]
  size = fitting_size(max(words), options.word_sizes)
  stored = _stored([caption.tokens for caption in captions])
  tokens = np.zeros((block, size, captions[0].tokens.shape[-1]), stored)
  teacher_text = None if teacher_width is None else np.zeros((block, teacher_width), np.float32)
  moments = np.full((block, 2), np.nan, np.float32)
  durations = np.full(block, np.nan, np.float32)
  for row, caption in enumerate(captions):
    tokens[row, : words[row]] = caption.tokens
    try:
      transforms.check_finite(caption.tokens)
    except transforms.NonFiniteError as error:
      raise UserError(
        f'caption {caption.caption_id!r} of video {caption.video_id!r}: its token {error}; extract its features again'
      ) from error
    if teacher_text is not None and caption.teacher_text is not None:
      teacher_text[row] = caption.teacher_text
    moments[row], durations[row] = caption.moment, caption.duration
  return CaptionBlock(
    student_tokens=tokens,
    token_mask=_mask(words, block, size),
    teacher_text=teacher_text,
    caption_mask=np.arange(block) < len(captions),
    caption_ids=[caption.caption_id for caption in captions],
    video_ids=[caption.video_id for caption in captions],
    captions=[caption.text for caption in captions],
    moments=moments,
    durations=durations,
  )
