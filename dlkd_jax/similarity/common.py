"""What every form of the similarity shares: norms, padding, constants, and where the slots of a layout go."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from dlkd_jax.layout import Layout

NORM_EPSILON = 1e-12
# The frames of both maxima share one int32: the dot product's in the upper half, the cosine's in the lower.
LOWER = 0xFFFF
MOST_FRAMES = 0x7FFF
# Similarity of a padded frame, and so of a video without any real frame: below every real one, yet finite.
PADDED = -1e10

# What the products of a block may take in bytes, by platform. On a CPU they should stay in the cache until their maxima
# are taken. Elsewhere memory is the limit: a product is the faster the larger it is.
_PRODUCT_BYTES = {'cpu': 1 << 20}
_PRODUCT_BYTES_ELSEWHERE = 256 << 20


def product_bytes(platform: str) -> int:
  """Returns what the products of a block of captions and frames may take on a platform, in bytes."""
  return _PRODUCT_BYTES.get(platform, _PRODUCT_BYTES_ELSEWHERE)


def inverse_norm(vectors: jax.Array) -> jax.Array:
  """Returns 1 / max(‖x‖, 1e-12) over the last axis as float32, with a zero gradient at zero vectors."""
  squares = jnp.sum(jnp.square(vectors.astype(jnp.float32)), axis=-1)
  return jax.lax.rsqrt(jnp.maximum(squares, NORM_EPSILON**2))


def unit(vectors: jax.Array) -> jax.Array:
  """Returns vectors divided by their lengths over the last axis, float32; zero vectors stay."""
  vectors = vectors.astype(jnp.float32)
  return vectors * inverse_norm(vectors)[..., None]


@flax.struct.dataclass
class SlotTable:
  """Where the frames of each slot lie, and which column of the result each slot fills.

  Attributes:
    slot: `[R, L]` int32, which of the row's slots a position belongs to; -1 at padding.
    first: `[R, S]` int32, position of the first frame of a slot; L in an empty slot.
    last: `[R, S]` int32, position of its last frame; -1 in an empty slot.
    column: `[R, S]` int32, column that a slot fills; B where it fills none.
    slot_of: `[B]` int32, row · S + slot that fills a column; where a padded column repeats another one, `present` is
      false.
    present: `[B]` bool, true where the column has a video with at least one frame.
  """

  slot: jax.Array
  first: jax.Array
  last: jax.Array
  column: jax.Array
  slot_of: jax.Array
  present: jax.Array

  @property
  def columns(self) -> int:
    """B, the number of columns of the result."""
    return self.slot_of.shape[0]


def slot_table(layout: Layout) -> SlotTable:
  """Works out the table of a layout's slots.

  A padded sequence names slot 0 of row 0, as a real one may; the first column that names a slot is the one it fills,
  which is the real one because real sequences come first.
  """
  (rows, length), slots, columns = layout.slot.shape, layout.slots, layout.where.shape[0]
  slot_of = jnp.asarray(layout.where, jnp.int32)
  position = jnp.arange(length, dtype=jnp.int32)[None, None]
  first = jnp.min(jnp.where(layout.by_slot, position, length), axis=-1)
  last = jnp.max(jnp.where(layout.by_slot, position, -1), axis=-1)
  order = jnp.arange(columns, dtype=jnp.int32)
  column = jnp.full((rows * slots,), columns, jnp.int32).at[slot_of].min(order)
  present = (column[slot_of] == order) & (last.reshape(-1)[slot_of] >= 0)
  return SlotTable(jnp.asarray(layout.slot, jnp.int32), first, last, column.reshape(rows, slots), slot_of, present)


def own_rows(layout: Layout, labels: jax.Array) -> jax.Array:
  """Returns the row of frames that holds each caption's own video, `[Q]` int32, -1 where the label is -1."""
  return jnp.where(labels >= 0, layout.where[jnp.maximum(labels, 0)] // layout.slots, -1).astype(jnp.int32)


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """Marks arrays as varying over all mesh axes over which any of them varies, as loops in shard_map ask.

  Outside shard_map nothing changes. The transpose of the mark is the sum over those axes that a replicated array needs.
  """
  axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))
  missing = [tuple(axes - jax.typeof(x).manual_axis_type.varying) for x in arrays]
  return tuple(jax.lax.pcast(x, m, to='varying') if m else x for x, m in zip(arrays, missing, strict=True))
