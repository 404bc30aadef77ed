"""How sequences of different lengths lie in the rows of an array: one a row, or several packed into one.

Sizes: R rows of T positions, S slots a row (the most sequences that share one), N sequences.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

Array = Any  # numpy on the host, jax.Array on the device.


@flax.struct.dataclass
class Layout:
  """Where each sequence of a batch lies: videos in rows of frames, or captions in rows of tokens.

  A sequence is contiguous and never straddles rows. With one sequence a row this is ordinary padding (S = 1). Where
  arrays are split over devices, every device holds an equal share of rows and of sequences, and the sequences of a
  device lie in its own rows: `where` counts from the first row of the device's share.

  Ordinals number the real sequences of the whole batch, over all devices and processes; they do not depend on how it is
  packed or shared.
  """

  slot: Array  # `[R, T]` int32, which of the row's sequences a position belongs to, from 0; -1 at padding.
  position: Array  # `[R, T]` int32, place of a position in its sequence, from 0; 0 at padding.
  ordinals: Array  # `[R, S]` int32, ordinal of the sequence in each slot, -1 in an empty one.
  where: Array  # `[N]` int32, row · S + slot of each sequence; 0 for a padded one.

  @property
  def mask(self) -> Array:
    """`[R, T]` bool, true at real positions."""
    return self.slot >= 0

  @property
  def slots(self) -> int:
    """S, the most sequences that share a row."""
    return self.ordinals.shape[1]

  @property
  def by_slot(self) -> jax.Array:
    """`[R, S, T]` bool, true where a position belongs to the sequence in a slot."""
    return self.slot[:, None] == jnp.arange(self.slots, dtype=jnp.int32)[None, :, None]

  def take(self, by_slot: jax.Array) -> jax.Array:
    """Takes the vectors of the sequences, `[N, H]`, out of those of all slots, `[R, S, H]`."""
    return by_slot.reshape(-1, by_slot.shape[-1])[self.where]

  @property
  def ids(self) -> jax.Array:
    """`[R, T]` int32, ordinal of the sequence that a position belongs to, -1 at padding."""
    ids = jnp.take_along_axis(self.ordinals, jnp.maximum(self.slot, 0), axis=1)
    return jnp.where(self.mask, ids, -1)


def padded_layout(mask: Array, ordinals: Array | None = None) -> Layout:
  """Makes the layout of one sequence a row, S = 1 and R = N, whose real positions, `[N, T]` bool, come first.

  Ordinals are those given, or the rows. A row without real positions keeps its own, so that random draws exist for it.
  """
  rows, length = mask.shape
  if ordinals is None:
    ordinals = jnp.arange(rows, dtype=jnp.int32)
  position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
  return Layout(
    slot=jnp.where(mask, 0, -1).astype(jnp.int32),
    position=jnp.where(mask, position, 0),
    ordinals=jnp.asarray(ordinals, jnp.int32)[:, None],
    where=jnp.arange(rows, dtype=jnp.int32),
  )
