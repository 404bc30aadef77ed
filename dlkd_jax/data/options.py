"""The options of the input pipeline, and the few static sizes that the blocks of an evaluation are padded to."""

from __future__ import annotations

import dataclasses

from dlkd_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
  """What a batch looks like and how it is read.

  Attributes:
    batch_videos: videos in a batch, of all processes together.
    max_frames: a longer video is resampled to this many frames; also the positions of a packed row of frames.
    max_words: a longer caption is cut to this many tokens.
    packing: whether several videos share a row of frames, and several captions a row of tokens; otherwise each has a
      row of its own.
    row_words: positions of a packed row of tokens, at least `max_words`.
    slots: the most videos or captions that share a packed row.
    shards: shares that a batch is split into, one a device, of all processes together.
    row_multiple: the rows of each share, of frames and of tokens, are a multiple of it: the parts that a batch is
      encoded in.
    frame_sizes: sizes that the frames of a block of evaluation are padded to, ascending; the last is `max_frames`.
    word_sizes: sizes that its tokens are padded to, ascending; the last is `max_words`.
    sort_by_captions: whether the videos of a batch are ordered by their number of captions, most first, as in the
      authors' program; otherwise they stay in the order drawn. It matters where a loss splits a batch by position.
    teacher: whether teacher features are wanted. Training then demands them of every video.
    pixels: whether the pictures that the teacher sees are wanted in place of its features of them, in training.
    read_threads: threads that read and transform the videos of one batch.
    prefetch_batches: batches made ahead of the consumer; each holds its arrays in memory.
  """

  batch_videos: int
  max_frames: int
  max_words: int
  packing: bool
  row_words: int
  slots: int
  shards: int
  row_multiple: int
  frame_sizes: tuple[int, ...]
  word_sizes: tuple[int, ...]
  sort_by_captions: bool
  teacher: bool
  pixels: bool
  read_threads: int
  prefetch_batches: int

  def __post_init__(self):
    """Checks the options.

    Raises:
      ValueError: an option is out of its range or two disagree; the message says what to change.
    """
    for name in ('batch_videos', 'max_frames', 'max_words', 'slots', 'shards', 'row_multiple', 'read_threads'):
      _check_at_least(name, getattr(self, name), 1)
    _check_at_least('prefetch_batches', self.prefetch_batches, 0)
    for name in ('frame_sizes', 'word_sizes'):
      # A config file gives lists; a frozen dataclass that is hashed needs tuples.
      object.__setattr__(self, name, tuple(getattr(self, name)))
      _check_sizes(name, getattr(self, name))
    _check_covers('frame_sizes', self.frame_sizes, 'max_frames', self.max_frames)
    _check_covers('word_sizes', self.word_sizes, 'max_words', self.max_words)
    _check_at_least('row_words', self.row_words, 1)
    if self.pixels and not self.teacher:
      raise UserError('pixels are of the teacher, and there is none; set teacher, or unset pixels')
    if self.packing and self.row_words < self.max_words:
      raise UserError(
        f'row_words is {self.row_words} and max_words is {self.max_words}; a row must hold the longest caption: make '
        f'row_words {self.max_words} or more'
      )

  @property
  def shard_videos(self) -> int:
    """Places for videos in each share of a batch, padding included."""
    return -(-self.batch_videos // self.shards)

  def whole_rows(self, count: int) -> int:
    """Returns so many rows of a share, rounded up to a multiple of `row_multiple`."""
    return -(-count // self.row_multiple) * self.row_multiple


def fitting_size(count: int, sizes: tuple[int, ...]) -> int:
  """Returns the smallest of the ascending `sizes` that holds `count`.

  Raises:
    ValueError: none is large enough.
  """
  for size in sizes:
    if count <= size:
      return size
  raise UserError(f'{count} rows do not fit the sizes {sizes}; add a size of {count} or more')


def _check_at_least(name: str, value: int, least: int) -> None:
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise UserError(f'{name} is {value!r}; expected a whole number of {least} or more')


def _check_sizes(name: str, sizes: tuple[int, ...]) -> None:
  for size in sizes:
    _check_at_least(f'an entry of {name}', size, 1)
  if list(sizes) != sorted(set(sizes)):
    raise UserError(f'{name} is {sizes}; expected different sizes in ascending order')


def _check_covers(name: str, sizes: tuple[int, ...], limit_name: str, limit: int) -> None:
  if not sizes or sizes[-1] != limit:
    raise UserError(f'{name} is {sizes} and {limit_name} is {limit}; expected the last size to equal {limit_name}')
