"""Random draws keyed by the number of an entry in the batch, so that they depend on no packing, padding or sharding.

Sizes: N entries, captions or videos.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _keys(key: jax.Array, ordinals: jax.Array) -> jax.Array:
  return jax.vmap(lambda ordinal: jax.random.fold_in(key, ordinal))(jnp.maximum(ordinals, 0))


def random_bits(key: jax.Array, ordinals: jax.Array) -> jax.Array:
  """Draws 32 bits for each entry.

  Args:
    key: typed PRNG key.
    ordinals: `[N]` int32; the draw of an entry depends on its ordinal alone.

  Returns:
    `[N]` uint32.
  """
  return jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(_keys(key, ordinals))


def below(bits: jax.Array, counts: jax.Array) -> jax.Array:
  """Turns random bits `[N]` into uniform int32 in [0, count), a count each; 0 counts as 1."""
  # The remainder favours small numbers by at most count / 2³² of their share.
  return (bits % jnp.maximum(counts, 1).astype(jnp.uint32)).astype(jnp.int32)


def random_ranks(key: jax.Array, size: int, count: jax.Array) -> jax.Array:
  """Ranks the ordinals 0 … count − 1 in a random order.

  Args:
    key: typed PRNG key.
    size: static N, at least the count. It does not influence the ranks.
    count: integer, real entries.

  Returns:
    `[N]` int32 rank of each ordinal, from 0; those from the count on come last.
  """
  ordinals = jnp.arange(size, dtype=jnp.int32)
  # Even draws, so that the odd largest number is left for what is not real.
  draws = random_bits(key, ordinals) & ~jnp.uint32(1)
  order = jnp.argsort(jnp.where(ordinals < count, draws, jnp.uint32(2**32 - 1)))
  return jnp.zeros(size, jnp.int32).at[order].set(ordinals)
