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


@dataclasses.dataclass
class Block:
  """n videos with their frames, or n captions with their tokens, all padded alike; a video's captions may be in two.

  Arrays are NumPy's, until an evaluator leaves them on its devices.

  Attributes:
    features: `[n, T, D]` the student's, not normalised, in the type that they are stored in, but float32 where a video
      of the block is averaged to `max_frames`; padded ones are 0.
    mask: `[n, T]` bool, true at real frames or tokens.
    teacher: float32, not normalised: frames `[n, T, Dt]` or text `[n, Dt]`; None where no video of the split has any.
      Rows of a caption without teacher text are 0.
    ids: of the real videos or captions, which come first.
    teacher_mask: of videos with `teacher`: `[n, T]` bool, true at real teacher frames, whose number may differ from the
      student's. A video without teacher frames in a split that has some has none true.
    video_ids: of captions: the id of each real one's own video.
  """

  features: Any
  mask: Any
  teacher: Any
  ids: list[str]
  teacher_mask: Any = None
  video_ids: list[str] | None = None


class EvaluationSplit:
  """The blocks of a split that one process encodes; `num_videos` is of all processes.

  With `lengths` of the records the videos of a block are of similar length; without, they keep their order. With
  `keep`, as for a split that is evaluated more than once, the blocks stay in memory, where they fit.
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
    self.num_videos = len(source)
    order = gallery_order(lengths, len(source), options, block_videos, process, processes)
    share = range(process, len(source), processes)
    self._make_captions = functools.partial(caption_blocks, source, options, block_captions, share)
    self._make_videos = functools.partial(video_blocks, source, options, block_videos, order)
    self._kept: dict[str, list] = {}
    self._room = int(available_bytes() * KEPT_SHARE / processes) if keep else 0

  def captions(self) -> Iterator[Block]:
    """Returns the blocks of captions, from the first to the last."""
    return self._through('captions', self._make_captions)

  def videos(self) -> Iterator[Block]:
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
  """Returns the records of the videos that a process encodes, `block` after `block`.

  Longest first, so that the videos of a block are of similar length and little is padding. Blocks are dealt to the
  processes in turn, so that all have about as many of every length.
  """
  order = np.arange(videos)
  if lengths is not None:
    frames = np.maximum(lengths.student, lengths.teacher) if options.teacher else lengths.student
    order = np.argsort(-np.minimum(frames, options.max_frames), kind='stable')
  mine = [order[start : start + block] for start in range(process * block, videos, processes * block)]
  return np.concatenate([*mine, np.zeros(0, np.int64)])


def video_blocks(
  source: Source, options: PipelineOptions, block: int, order: Sequence[int] | None = None
) -> Iterator[Block]:
  """Yields videos of a split, each once: all in the order of the source, or those that `order` names.

  Student and teacher frames go straight to `options.max_frames`, each from its own row count. A thread makes the next
  blocks meanwhile. Where `options.teacher` is false the teacher's fields are None.

  Raises:
    UserError: a video has no student frames, or rows that are not finite.
  """
  return _ahead(
    _blocks(source, options, block, order, 'teacher_frames', lambda record: [record], _video_block), options
  )


def caption_blocks(
  source: Source, options: PipelineOptions, block: int, order: Sequence[int] | None = None
) -> Iterator[Block]:
  """Yields captions of a split, each once: all in the order of the source, or those of the videos that `order` names.

  As `video_blocks`, but blocks are filled across the borders of videos, so that all but the last are full; videos
  without captions are passed over.

  Raises:
    UserError: a caption has no tokens or some that are not finite, or a video has teacher text for some captions only.
  """
  captions = functools.partial(_captions, options=options)
  return _ahead(_blocks(source, options, block, order, 'teacher_text', captions, _caption_block), options)


def _blocks(source: Source, options: PipelineOptions, block: int, order, feature: str, items_of, make) -> Iterator:
  """Makes blocks of the items of each record, one after another."""
  teacher_width = _teacher_width(source, feature, options)
  records = (source[index] for index in (range(len(source)) if order is None else order))
  items = itertools.chain.from_iterable(map(items_of, records))
  while some := list(itertools.islice(items, block)):
    yield make(some, teacher_width, options, block)


def _ahead(items: Iterator[_T], options: PipelineOptions) -> Iterator[_T]:
  """Yields the items, made ahead by one thread."""
  depth = options.prefetch_batches
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
) -> Block:
  ids = [sources.text(record['video_id']) for record in records]
  students = [record['student_frames'] for record in records]
  for video, record in zip(ids, records, strict=True):
    if len(record['student_frames']) == 0:
      raise UserError(f'video {video!r} has no student frames; leave it out of the data set')
    with sources.naming_bad_rows(record):
      transforms.check_finite(record['student_frames'])
  teachers = [record['teacher_frames'] for record in records] if teacher_width else []
  longest, most = max(len(rows) for rows in students + teachers), options.max_frames
  size = _fitting_size(min(longest, most), options.frame_sizes)
  student = _padded(students, (block, size, students[0].shape[-1]), most)
  teacher, mask = _padded(teachers, (block, size, teacher_width), most, half=False) if teacher_width else (None, None)
  return Block(*student, teacher, ids, teacher_mask=mask)


def _padded(sequences: Sequence[np.ndarray], shape: tuple[int, int, int], most: int, half: bool = True):
  """Returns the rows of sequences, each brought to at most so many, in an array `[n, T, D]`, and where they are.

  The array is float16 where that keeps what is stored, and `half`, else float32.
  """
  half &= all(rows.dtype == np.float16 and len(rows) <= most for rows in sequences)
  features, counts = np.zeros(shape, np.float16 if half else np.float32), np.zeros(shape[0], np.int64)
  for index, rows in enumerate(sequences):
    counts[index] = min(len(rows), most)
    if len(rows):  # A video without teacher features may also lack their width.
      transforms.resample_frames(rows, most, features[index, : counts[index]])
  return features, np.arange(shape[1]) < counts[:, None]


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


def _caption_block(captions, teacher_width: int | None, options: PipelineOptions, block: int) -> Block:
  rows, texts, caption_ids, video_ids = zip(*captions, strict=True)
  size = _fitting_size(max(len(tokens) for tokens in rows), options.word_sizes)
  student = _padded(rows, (block, size, rows[0].shape[-1]), options.max_words)
  teacher = None if teacher_width is None else np.zeros((block, teacher_width), np.float32)
  for row, text in enumerate(texts if teacher_width else ()):
    if text is not None:
      teacher[row] = text
  return Block(*student, teacher, [*caption_ids], video_ids=[*video_ids])


def _fitting_size(count: int, sizes: tuple[int, ...]) -> int:
  """Returns the smallest of the ascending `sizes` that holds `count`, which the last one does."""
  return next(size for size in sizes if count <= size)
