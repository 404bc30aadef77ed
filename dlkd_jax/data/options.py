"""The options of the input pipeline, and the few static sizes that the blocks of an evaluation are padded to."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
  """What a batch looks like and how it is read; `dlkd_jax.config` checks what a user may set of it.

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

  @property
  def shard_videos(self) -> int:
    """Places for videos in each share of a batch, padding included."""
    return -(-self.batch_videos // self.shards)

  def whole_rows(self, count: int) -> int:
    """Returns so many rows of a share, rounded up to a multiple of `row_multiple`."""
    return -(-count // self.row_multiple) * self.row_multiple


def fitting_size(count: int, sizes: tuple[int, ...]) -> int:
  """Returns the smallest of the ascending `sizes` that holds `count`, which the last one does."""
  return next(size for size in sizes if count <= size)
