"""Similarities of a batch that is spread over devices, to be used inside `shard_map`.

Every device holds the frames of its own videos and the vectors of its own captions. The vectors of all captions are
gathered, since they are the smaller side: a caption has one, a video one a frame. So each device scores all captions
against its videos, the *video view*. An exchange among the devices turns that into the *text view*, its own captions
against all videos. A loss over a row of the similarity matrix is then local in the one view, a loss over a column in
the other, and no device ever holds the whole matrix.

Sizes: Q captions and B videos of the whole batch, q and b of them on this device.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from dlkd_jax.layout import Layout


def gather(array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Joins the first axes of all devices' arrays, in the order of the devices; without axes, the array itself."""
  return jax.lax.all_gather(array, axes, tiled=True) if axes else array


def first_index(size: int, axes: tuple[str, ...]) -> jax.Array:
  """Returns the index, in the whole batch, of the first of this device's `size` videos or captions."""
  return jax.lax.axis_index(axes) * size if axes else jnp.zeros((), jnp.int32)


def to_text_view(scores: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Turns scores of the video view, `[Q, b]`, into those of the text view, `[q, B]`.

  The devices are taken as a grid, and the exchange goes along its rows, then along its columns. The result is that of
  one exchange among all; but the TPU compiler plans the routes of that one for half a minute at 256 chips.
  """
  if not axes:
    return scores
  devices = jax.lax.axis_size(axes)
  inner = next(size for size in range(math.isqrt(devices), 0, -1) if devices % size == 0)
  outer = devices // inner
  rows = [[o * inner + i for i in range(inner)] for o in range(outer)]
  columns = [[o * inner + i for o in range(outer)] for i in range(inner)]
  queries, videos = scores.shape[0] // devices, scores.shape[1]
  parts = scores.reshape(outer, inner, queries, videos)
  parts = jax.lax.all_to_all(parts, axes, 1, 1, axis_index_groups=rows)
  parts = jax.lax.all_to_all(parts, axes, 0, 0, axis_index_groups=columns)
  return jnp.moveaxis(parts.reshape(devices, queries, videos), 0, 1).reshape(queries, devices * videos)


def local_labels(labels: jax.Array, videos: int, axes: tuple[str, ...]) -> jax.Array:
  """Returns the column, among this device's `videos`, of each caption's own video; -1 where it is on another device.

  Args:
    labels: `[Q]` int32, index of each caption's own video in the whole batch.
    videos: b.
    axes: of the mesh.
  """
  column = labels - first_index(videos, axes)
  return jnp.where((column >= 0) & (column < videos), column, -1)


def take_sequences(slots: jax.Array, layout: Layout) -> jax.Array:
  """Takes the vectors of the sequences, `[N, H]`, out of those of all slots, `[R, S, H]`."""
  rows, width, hidden = slots.shape
  return slots.reshape(rows * width, hidden)[layout.where]
