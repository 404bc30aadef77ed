"""The options of the input pipeline, and the few static sizes that its arrays are padded to."""

from __future__ import annotations

import dataclasses
import functools
import logging


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
  """What a batch looks like and how it is read.

  Every different shape costs one compilation of the step, every padded row costs computation; so each size is the
  smallest of a short list that fits the batch.

  Attributes:
    batch_videos: videos in a batch, of all processes together.
    max_frames: a longer video is resampled to this many frames.
    max_words: a longer caption is cut to this many tokens.
    frame_sizes: sizes that frames are padded to, ascending; the last is `max_frames`.
    caption_sizes: sizes that the captions of a batch are padded to, ascending, of one process. Empty: multiples of
      half the batch's videos up to six captions a video, then doubled as long as needed. Captions are never dropped:
      a batch with more than the last listed size is padded to a double of it, with a warning.
    word_sizes: sizes that tokens are padded to, ascending; the last is `max_words`.
    sort_by_captions: whether the videos of a batch are ordered by their number of captions, most first, as in the
      authors' program; otherwise they stay in the order drawn. It matters where a loss splits a batch by position.
    teacher: whether teacher features are wanted. Training then demands them of every video.
    batch_multiple: the padded numbers of videos and of captions are multiples of it: the number of local devices
      that share a batch.
    num_workers: worker processes that make batches; 0 makes them in threads of this process, which is enough where
      numpy does the work.
    read_threads: threads that read and transform the videos of one batch.
    prefetch_batches: batches made ahead of the consumer; each holds its arrays in memory.
  """

  batch_videos: int = 128
  max_frames: int = 128
  max_words: int = 30
  frame_sizes: tuple[int, ...] = (32, 64, 96, 128)
  caption_sizes: tuple[int, ...] = ()
  word_sizes: tuple[int, ...] = (30,)
  sort_by_captions: bool = True
  teacher: bool = True
  batch_multiple: int = 1
  num_workers: int = 0
  read_threads: int = 4
  prefetch_batches: int = 2

  def __post_init__(self):
    """Checks the options.

    Raises:
      ValueError: an option is out of its range or two disagree; the message says what to change.
    """
    for name in ('batch_videos', 'max_frames', 'max_words', 'batch_multiple', 'read_threads'):
      _check_at_least(name, getattr(self, name), 1)
    for name in ('num_workers', 'prefetch_batches'):
      _check_at_least(name, getattr(self, name), 0)
    for name in ('frame_sizes', 'caption_sizes', 'word_sizes'):
      # A config file gives lists; a frozen dataclass that is hashed needs tuples.
      object.__setattr__(self, name, tuple(getattr(self, name)))
      _check_sizes(name, getattr(self, name))
    _check_covers('frame_sizes', self.frame_sizes, 'max_frames', self.max_frames)
    _check_covers('word_sizes', self.word_sizes, 'max_words', self.max_words)

  def padded_videos(self, process_count: int = 1) -> int:
    """Returns the number of video rows in a batch of one process, padding included."""
    return _round_up(self.batch_videos // process_count, self.batch_multiple)

  def listed_caption_sizes(self, process_count: int = 1) -> tuple[int, ...]:
    """Returns the sizes that captions are padded to, of one process, derived where none are given."""
    sizes = self.caption_sizes
    if not sizes:
      videos = self.batch_videos // process_count
      sizes = tuple(-(-videos * halves // 2) for halves in range(1, 13))
    return tuple(sorted({_round_up(size, self.batch_multiple) for size in sizes}))


def fitting_size(count: int, sizes: tuple[int, ...]) -> int:
  """Returns the smallest of the ascending `sizes` that holds `count`.

  Raises:
    ValueError: none is large enough.
  """
  for size in sizes:
    if count <= size:
      return size
  raise ValueError(f'{count} rows do not fit the sizes {sizes}; add a size of {count} or more')


def growing_size(count: int, sizes: tuple[int, ...]) -> int:
  """Returns the smallest of `sizes` that holds `count`, doubling the last one, with a warning, where none does."""
  if count <= sizes[-1]:
    return fitting_size(count, sizes)
  size = sizes[-1]
  while size < count:
    size *= 2
  _warn_once(sizes, size)
  return size


@functools.cache
def _warn_once(sizes: tuple[int, ...], size: int) -> None:
  logging.warning(
    'A batch has more captions than the largest of the sizes %s; it is padded to %d, and the step compiles once '
    'more. List a larger one in caption_sizes.',
    sizes,
    size,
  )


def _round_up(count: int, multiple: int) -> int:
  return -(-count // multiple) * multiple


def _check_at_least(name: str, value: int, least: int) -> None:
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise ValueError(f'{name} is {value!r}; expected a whole number of {least} or more')


def _check_sizes(name: str, sizes: tuple[int, ...]) -> None:
  for size in sizes:
    _check_at_least(f'an entry of {name}', size, 1)
  if list(sizes) != sorted(set(sizes)):
    raise ValueError(f'{name} is {sizes}; expected different sizes in ascending order')


def _check_covers(name: str, sizes: tuple[int, ...], limit_name: str, limit: int) -> None:
  if not sizes or sizes[-1] != limit:
    raise ValueError(f'{name} is {sizes} and {limit_name} is {limit}; expected the last size to equal {limit_name}')
