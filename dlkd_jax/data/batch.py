"""The typed batch that the input pipeline makes and the train step takes, and the options that say what it is like.

One alphabet of sizes everywhere: B videos, Q captions, L frames of a row, W tokens of a row, D features. All arrays are
padded to static shapes and every padded entry is named by a mask, so that no result depends on the padding.

Features travel as they are stored; `unit_rows` widens and normalises them where they are used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.layout import Array, Layout


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
  """What a batch looks like and how it is read: the fields of `config.data`, and some that follow from others.

  Attributes:
    shards: shares that a batch is split into, one a device, of all processes together.
    row_multiple: the rows of each share, of frames and of tokens, are a multiple of it: the parts that a batch is
      encoded in.
    teacher: whether teacher features are wanted. Training then demands them of every video.
    pixels: whether the pictures that the teacher sees are wanted in place of its features of them, in training.
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


@flax.struct.dataclass
class Batch:
  """B videos with all of their captions, Q in all, in rows of frames and rows of tokens.

  Every array is split along its first axis over the devices that share the batch. A caption lies on the device of its
  video. On each device real videos come before padded ones, real captions before padded ones, and the captions of a
  video are adjacent.

  Where features stay on the devices (`dlkd_jax.data.resident`), int32 numbers of their rows, with a last axis of 1, are
  in their places until the step; those of the teacher's frames are the student's.

  Attributes:
    student_frames: `[R, L, Dv]` as extracted, not normalised; padded ones are 0. Like all features in the type that
      they are stored in, float16 or float32; but float32 where a video of the set has more frames than a batch takes,
      since their means are.
    student_tokens: `[Rw, W, Dq]` as extracted, not normalised; padded ones are 0.
    frame_layout: of the videos in the rows of frames: `frame_layout.where` is `[B]`.
    token_layout: of the captions in the rows of tokens: `token_layout.where` is `[Q]`.
    labels: `[Q]` int32, index of the caption's own video among the B of the whole batch, over all devices; 0 for a
      padded caption.
    video_mask: `[B]` bool, true for real videos.
    caption_mask: `[Q]` bool, true for real captions.
    video_ordinals: `[B]` int32, place of a real video in the order of the batch, from 0, over all devices; -1 for a
      padded one. What goes "by position" in a batch, and every random draw, follows it, so that results do not depend
      on how the batch is shared or packed.
    caption_ordinals: `[Q]` int32, the same of captions.
    query_anchors: `[Rw, S, A]` float32, what an anchored student starts from for the caption in each slot, branch after
      branch; 0 in empty ones. None for other students.
    teacher_frames: `[R, L, Dt]` not normalised, of the same frames as the student's, in the same layout; None without
      a teacher, or where its pixels are there instead.
    teacher_text: `[Q, Dt]` not normalised; None without a teacher.
    teacher_pixels: `[R, L, S·S·3]` uint8 RGB, 0 at padding: what the teacher sees of these frames, for the step to
      encode; the middle picture where several frames were averaged. None where the features are there.
  """

  student_frames: Array
  student_tokens: Array
  frame_layout: Layout
  token_layout: Layout
  labels: Array
  video_mask: Array
  caption_mask: Array
  video_ordinals: Array
  caption_ordinals: Array
  query_anchors: Array | None = None
  teacher_frames: Array | None = None
  teacher_text: Array | None = None
  teacher_pixels: Array | None = None

  def check(self) -> Batch:
    """Returns the batch itself after checking that its shapes agree.

    Raises:
      AssertionError: two arrays disagree on a size; the message names them.
    """
    (b,), (q,) = self.video_mask.shape, self.caption_mask.shape
    chex.assert_shape([self.labels, self.caption_ordinals, self.token_layout.where], (q,))
    chex.assert_shape([self.video_ordinals, self.frame_layout.where], (b,))
    for features, layout in ((self.student_frames, self.frame_layout), (self.student_tokens, self.token_layout)):
      rows, length, _ = features.shape
      chex.assert_shape([layout.slot, layout.position], (rows, length))
      chex.assert_shape(layout.ordinals, (rows, None))
    if self.query_anchors is not None:
      chex.assert_shape(self.query_anchors, (*self.token_layout.ordinals.shape, None))
    if self.teacher_frames is not None:
      chex.assert_shape(self.teacher_frames, (*self.student_frames.shape[:2], None))
      chex.assert_shape(self.teacher_text, (q, self.teacher_frames.shape[-1]))
    if self.teacher_pixels is not None:
      chex.assert_shape(self.teacher_pixels, (*self.student_frames.shape[:2], None))
      chex.assert_shape(self.teacher_text, (q, None))
    return self


@flax.struct.dataclass
class Parcel:
  """A batch as it travels to D devices: its small arrays as one, since every transfer has a price of its own.

  Attributes:
    features: the arrays of features, in the order of the batch.
    numbers: `[D, n]` int32, all others, those of a device in its row.
    contents: `(type, sizes on one device)` of each array of the batch, of features `None`.
    tree: structure of the batch.
  """

  features: list[Array]
  numbers: Array
  contents: tuple[tuple[type, tuple[int, ...]] | None, ...] = flax.struct.field(pytree_node=False)
  tree: jax.tree_util.PyTreeDef = flax.struct.field(pytree_node=False)

  def unpack(self) -> Batch:
    """Returns the batch, under jit or not; on devices nothing moves. Errors are those of `Batch.check`."""
    features, start, leaves = iter(self.features), 0, []
    for content in self.contents:
      if content is None:
        leaves.append(next(features))
        continue
      dtype, sizes = content
      end = start + math.prod(sizes)
      leaves.append(self.numbers[:, start:end].reshape(-1, *sizes[1:]).astype(dtype))
      start = end
    return jax.tree.unflatten(self.tree, leaves).check()


def pack(batch: Batch, devices: int) -> Parcel:
  """Packs a batch, or one of `jax.ShapeDtypeStruct`, for so many devices, which divide its first axes."""
  leaves, tree = jax.tree.flatten(batch)
  features, numbers, contents = [], [], []
  for leaf in leaves:
    small = leaf.dtype in (np.int32, np.bool_)
    (numbers if small else features).append(leaf)
    contents.append((leaf.dtype.type, (leaf.shape[0] // devices, *leaf.shape[1:])) if small else None)
  if isinstance(leaves[0], jax.ShapeDtypeStruct):
    joined = jax.ShapeDtypeStruct((devices, sum(math.prod(leaf.shape) for leaf in numbers) // devices), np.int32)
  else:
    joined = np.concatenate([leaf.reshape(devices, -1) for leaf in numbers], axis=1, dtype=np.int32)
  return Parcel(features, joined, tuple(contents), tree)


class Sides(NamedTuple):
  """Something of the frames of a batch, and the same of its tokens."""

  frames: Any
  tokens: Any


class Grid(NamedTuple):
  """Static sizes of one device's rows: R rows of T positions and S slots, and entries for so many sequences."""

  rows: int
  positions: int
  slots: int
  sequences: int


class ShardShape(NamedTuple):
  """The static sizes of one device's share of a batch."""

  frames: Grid
  tokens: Grid

  def __str__(self) -> str:
    return (
      f'{self.frames.rows} rows of {self.frames.positions} frames, {self.tokens.rows} rows of {self.tokens.positions} '
      f'tokens, {self.tokens.sequences} captions'
    )

  @property
  def positions(self) -> np.ndarray:
    """`[2]` positions for frames and for tokens."""
    return np.array([grid.rows * grid.positions for grid in (self.frames, self.tokens)])

  @property
  def cost(self) -> int:
    """Of a step. A frame is 2: its features are several times as wide as a token's, and captions are compared to it."""
    return int(self.positions @ (2, 1)) + 3 * self.tokens.sequences


class Feature(NamedTuple):
  """Width and type of an array of features."""

  width: int
  dtype: Any


def batch_shapes(shape: ShardShape, shards: int, features: Mapping[str, Feature]) -> Batch:
  """Returns a batch of so many shards as `jax.ShapeDtypeStruct`, with the arrays of features that are named."""

  def array(dtype: Any, *dims: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((dims[0] * shards, *dims[1:]), dtype)

  def layout(grid: Grid) -> Layout:
    positions = array(np.int32, grid.rows, grid.positions)
    return Layout(positions, positions, array(np.int32, grid.rows, grid.slots), array(np.int32, grid.sequences))

  (frames, tokens), (videos, captions) = shape, (grid.sequences for grid in shape)
  dims = {
    'student_tokens': (tokens.rows, tokens.positions),
    'query_anchors': (tokens.rows, tokens.slots),
    'teacher_text': (captions,),
  }
  of_frames = frames.rows, frames.positions
  return Batch(
    frame_layout=layout(frames),
    token_layout=layout(tokens),
    labels=array(np.int32, captions),
    video_mask=array(np.bool_, videos),
    caption_mask=array(np.bool_, captions),
    video_ordinals=array(np.int32, videos),
    caption_ordinals=array(np.int32, captions),
    **{name: array(dtype, *dims.get(name, of_frames), width) for name, (width, dtype) in features.items()},
  )


# Added to a row's norm before dividing by it, so that a row of zeros stays one.
_NORM_EPSILON = 1e-5


def unit_rows(features: Array) -> jax.Array:
  """Returns `[…, D]` student features of any float type as float32, each row divided by its L2 norm + 1e-5."""
  features = jnp.asarray(features, jnp.float32)
  # Behind the barrier XLA computes rows anew from what is stored in each program that reads them, and writes none.
  norms = jax.lax.optimization_barrier(jnp.sqrt(jnp.sum(features * features, axis=-1, keepdims=True)))
  return features / (norms + _NORM_EPSILON)
