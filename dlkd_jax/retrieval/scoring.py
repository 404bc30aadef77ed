"""Scores of all queries against one block of videos, in chunks of queries so that memory stays bounded."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dlkd_jax import sharding
from dlkd_jax.similarity.max_over_frames import max_frame_cosine

Array = Any  # numpy on the host, jax.Array on the device.


def query_chunk(videos: int, frames: int, product_bytes: int) -> int:
  """Returns how many queries to multiply at once with a block of `videos` of `frames` frames.

  The largest power of two (so that few programs are compiled) whose float32 product `[q, b, L]` stays within
  `product_bytes`; at least 1.
  """
  fitting = product_bytes // (4 * max(1, videos * frames))
  return 1 << max(0, fitting.bit_length() - 1)


@functools.partial(jax.jit, static_argnames='chunk')
def score_block(queries: Array, frames: Array, frame_mask: Array, *, chunk: int) -> jax.Array:
  """Maximum over the valid frames of the cosine, for every query and every video of a block.

  Args:
    queries: `[Q, H]`.
    frames: `[B, L, H]`, the videos of one block.
    frame_mask: `[B, L]` bool.
    chunk: queries per product; the program holds `[chunk, B, L]` at once, never `[Q, B, L]`.

  Returns:
    `[Q, B]` float32.
  """
  total, hidden = queries.shape
  chunk = min(chunk, total)
  chunks = -(-total // chunk)
  padded = jnp.pad(queries, ((0, chunks * chunk - total), (0, 0)))
  scores = jax.lax.map(lambda rows: max_frame_cosine(rows, frames, frame_mask), padded.reshape(chunks, chunk, hidden))
  return scores.reshape(chunks * chunk, frames.shape[0])[:total]


class Placement:
  """Puts arrays on the devices of a mesh, or on the default device where there is none."""

  def __init__(self, mesh: Mesh | None = None):
    """Takes a mesh of one axis, over which the blocks are split."""
    self._mesh = mesh

  def split(self, array: Array, what: str) -> Array:
    """Splits the first axis over the mesh.

    Raises:
      ValueError: the axis does not divide by the number of devices; `what` names it.
    """
    if self._mesh is None:
      return jnp.asarray(array)
    if array.shape[0] % self._mesh.size:
      raise ValueError(
        f'a block of {array.shape[0]} {what} does not divide over {self._mesh.size} devices; '
        f'choose a block size that is a multiple of {self._mesh.size}'
      )
    return jax.device_put(array, sharding.rows(self._mesh))

  def replicate(self, array: Array) -> Array:
    """Gives every device of the mesh the whole array."""
    if self._mesh is None:
      return jnp.asarray(array)
    return jax.device_put(array, sharding.replicated(self._mesh))
