"""A whole split, or one process's share of it, in blocks of one static size, for evaluation.

Videos and captions are walked apart: a gallery is encoded video by video and searched caption by caption, and the two
meet on their ids. Every one appears exactly once. L is the smallest of the listed frame sizes that fits the block, so
it may differ from block to block (few values in all); so may W.

An `EvaluationSplit` keeps its blocks where they fit into memory, so that only its first evaluation reads and resamples.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from dlkd_jax.allocation import KEPT_SHARE, available_bytes
from dlkd_jax.data import sources, transforms
from dlkd_jax.data.batch import PipelineOptions
from dlkd_jax.data.sources import Lengths, Source
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
  """

  student_tokens: np.ndarray
  token_mask: np.ndarray
  teacher_text: np.ndarray | None
  caption_mask: np.ndarray
  caption_ids: list[str]
  video_ids: list[str]


class EvaluationSplit:
  """The blocks of a split that one process encodes.

  Attributes:
    num_videos: of the whole split, over all processes.
  """

  def __init__(
    self,
    source: Source,
    options: PipelineOptions,
    block_captions: int,
    block_videos: int,
    *,
    lengths: Lengths | None = None,
    process: int = 0,
    processes: int = 1,
    keep: bool = False,
  ):
    """Deals out the videos and captions.

    Args:
      source: records of videos.
      options: sizes; see `video_blocks` and `caption_blocks`.
      block_captions: captions in a block.
      block_videos: videos in a block.
      lengths: of the records, so that the videos of a block are of similar length; None: they keep their order.
      process: index of this process among `processes`.
      processes: how many there are.
      keep: whether the split is evaluated more than once: its blocks then stay in memory, where they fit.
    """
    self.num_videos = len(source)
    order = gallery_order(lengths, len(source), options, block_videos, process, processes)
    share = range(process, len(source), processes)
    self._make_captions = functools.partial(caption_blocks, source, options, block_captions, share)
    self._make_videos = functools.partial(video_blocks, source, options, block_videos, order)
    self._kept: dict[str, list] = {}
    self._room = int(available_bytes() * KEPT_SHARE / processes) if keep else 0

  def captions(self) -> Iterator[CaptionBlock]:
    """Returns the blocks of captions, from the first to the last."""
    return self._through('captions', self._make_captions)

  def videos(self) -> Iterator[VideoBlock]:
    """Returns the blocks of videos, the longest first."""
    return self._through('videos', self._make_videos)

  def _through(self, what: str, make: Callable[[], Iterator[_T]]) -> Iterator[_T]:
    if what in self._kept:
      yield from self._kept[what]
      return
    blocks, room = [], self._room
    for block in make():
      room -= sum(x.nbytes for x in vars(block).values() if isinstance(x, np.ndarray))
      if room >= 0:
        blocks.append(block)
      else:
        blocks.clear()
      yield block
    if room >= 0:  # All of them; an evaluation that is asked to stop does not come here.
      self._kept[what], self._room = blocks, room


def gallery_order(
  lengths: Lengths | None, videos: int, options: PipelineOptions, block: int, process: int, processes: int
) -> np.ndarray:
  """Chooses which videos a process encodes, and in which order.

  Longest first, so that the videos of a block are of similar length and little is padding. Blocks are dealt to the
  processes in turn, so that all have about as many of every length. See `EvaluationSplit` for the arguments.

  Returns:
    Records of this process, `block` after `block`.
  """
  order = np.arange(videos)
  if lengths is not None:
    frames = np.maximum(lengths.student, lengths.teacher) if options.teacher else lengths.student
    order = np.argsort(-np.minimum(frames, options.max_frames), kind='stable')
  mine = [order[start : start + block] for start in range(process * block, videos, processes * block)]
  return np.concatenate([*mine, np.zeros(0, np.int64)])


def video_blocks(
  source: Source, options: PipelineOptions, block: int, order: Sequence[int] | None = None
) -> Iterator[VideoBlock]:
  """Yields videos of a split, each once: all in the order of the source, or those that `order` names.

  Student and teacher frames go straight to `options.max_frames`, each from its own row count. A thread makes the next
  blocks while the consumer works on one. Where `options.teacher` is false the teacher's fields are None.

  Args:
    source: records of videos.
    options: sizes; only the limits, `frame_sizes`, `teacher` and `prefetch_batches` matter here.
    block: videos in a block; the last one is padded to it.
    order: records to take, in this order.

  Raises:
    UserError: a video has no student frames, or rows that are not finite.
  """

  def make() -> Iterator[VideoBlock]:
    teacher_width = _teacher_width(source, 'teacher_frames', options)
    records = (source[index] for index in (range(len(source)) if order is None else order))
    while some := list(itertools.islice(records, block)):
      yield _video_block(some, teacher_width, options, block)

  return _ahead(make(), options.prefetch_batches)


def caption_blocks(
  source: Source, options: PipelineOptions, block: int, order: Sequence[int] | None = None
) -> Iterator[CaptionBlock]:
  """Yields captions of a split, each once: all in the order of the source, or those of the videos that `order` names.

  As `video_blocks`, but blocks are filled across the borders of videos, so that all but the last are full.

  Args:
    source: records of videos; those without captions are passed over.
    options: sizes; only `max_words`, `word_sizes`, `teacher` and `prefetch_batches` matter here.
    block: captions in a block; the last one is padded to it.
    order: records whose captions to take, in this order.

  Raises:
    UserError: a caption has no tokens or some that are not finite, or a video has teacher text for some captions only.
  """

  def make() -> Iterator[CaptionBlock]:
    teacher_width = _teacher_width(source, 'teacher_text', options)
    records = (source[index] for index in (range(len(source)) if order is None else order))
    captions = itertools.chain.from_iterable(_captions(record, options) for record in records)
    while some := list(itertools.islice(captions, block)):
      yield _caption_block(some, teacher_width, options, block)

  return _ahead(make(), options.prefetch_batches)


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


def _video_block(
  records: list[sources.Record], teacher_width: int | None, options: PipelineOptions, block: int
) -> VideoBlock:
  ids = [sources.text(record['video_id']) for record in records]
  students = [record['student_frames'] for record in records]
  for video, record in zip(ids, records, strict=True):
    if len(record['student_frames']) == 0:
      raise UserError(f'video {video!r} has no student frames; leave it out of the data set')
    with sources.naming_bad_rows(record):
      transforms.check_finite(record['student_frames'])
  teachers = [record['teacher_frames'] for record in records] if teacher_width else []
  longest = max(len(rows) for rows in students + teachers)
  size = _fitting_size(min(longest, options.max_frames), options.frame_sizes)

  def padded(videos: list[np.ndarray], width: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    frames = np.zeros((block, size, width), dtype)
    counts = [min(len(rows), options.max_frames) for rows in videos]
    for rows, count, out in zip(videos, counts, frames, strict=False):
      if count:  # A video without teacher features may also lack their width.
        transforms.resample_frames(rows, options.max_frames, out[:count])
    return frames, _mask(counts, block, size)

  averaged = any(len(rows) > options.max_frames for rows in students)
  student = padded(students, students[0].shape[-1], np.float32 if averaged else _stored(students))
  teacher = padded(teachers, teacher_width, np.float32) if teacher_width else (None, None)
  return VideoBlock(*student, *teacher, np.arange(block) < len(records), ids)


def _stored(arrays: Sequence[np.ndarray]) -> np.dtype:
  """Returns the type for features as they are stored: float16 where all are, else float32."""
  return np.dtype(np.float16 if all(array.dtype == np.float16 for array in arrays) else np.float32)


def _mask(lengths: Sequence[int], rows: int, columns: int) -> np.ndarray:
  """Returns a `[rows, columns]` mask whose row r is true in its first `lengths[r]` columns; missing lengths are 0."""
  padded = np.zeros(rows, np.int64)
  padded[: len(lengths)] = lengths
  return np.arange(columns) < padded[:, None]


def _captions(record: sources.Record, options: PipelineOptions) -> Iterator[tuple[np.ndarray, Any, str, str]]:
  """Yields the captions of a record: tokens that are cut, teacher text or None, id of the caption and of its video."""
  video, lengths = sources.text(record['video_id']), np.asarray(record['token_lengths'])
  ids = sources.texts(record['caption_ids'])
  teacher = record['teacher_text'] if sources.has_rows(record, 'teacher_text') else [None] * len(lengths)
  if len(teacher) != len(lengths):
    raise UserError(
      f'video {video!r} has {len(lengths)} captions and {len(teacher)} teacher text features; expected one a '
      'caption, or none; build the set again'
    )
  starts = np.cumsum(lengths) - lengths
  for name, start, length, text in zip(ids, starts, lengths, teacher, strict=True):
    if length < 1:
      raise UserError(f'caption {name!r} of video {video!r} has no tokens; leave it out')
    tokens = record['student_tokens'][start : start + min(length, options.max_words)]
    try:
      transforms.check_finite(tokens)
    except transforms.NonFiniteError as error:
      raise UserError(f'caption {name!r} of video {video!r}: its token {error}; extract its features again') from error
    yield tokens, text, name, video


def _caption_block(captions, teacher_width: int | None, options: PipelineOptions, block: int) -> CaptionBlock:
  rows, texts, caption_ids, video_ids = zip(*captions, strict=True)
  words = [len(tokens) for tokens in rows]
  size = _fitting_size(max(words), options.word_sizes)
  student = np.zeros((block, size, rows[0].shape[-1]), _stored(rows))
  teacher = None if teacher_width is None else np.zeros((block, teacher_width), np.float32)
  for row, (tokens, text) in enumerate(zip(rows, texts, strict=True)):
    student[row, : len(tokens)] = tokens
    if teacher is not None and text is not None:
      teacher[row] = text
  mask = _mask(words, block, size)
  return CaptionBlock(student, mask, teacher, np.arange(block) < len(rows), [*caption_ids], [*video_ids])


def _fitting_size(count: int, sizes: tuple[int, ...]) -> int:
  """Returns the smallest of the ascending `sizes` that holds `count`, which the last one does."""
  return next(size for size in sizes if count <= size)
