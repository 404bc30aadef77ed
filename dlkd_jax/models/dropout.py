"""Dropout whose masks belong to the content: a position of a sequence drops the same features wherever it lies.

Every mask is a function of the key of the step, the ordinal of the sequence in the batch, the position in the sequence
and the feature. So it does not depend on how sequences are packed into rows, padded, shared by devices and processes,
or cut into micro-batches, and none of these changes what a training computes.

A position's seed comes from the key by Threefry, once for all layers. The bits of a layer and a feature come from the
seed by an integer hash: a cryptographic generator for every feature would take a fifth of a training step on a CPU.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.layout import Layout

# Positions of one sequence that get seeds of their own; longer sequences would share them.
MAX_POSITIONS = 2**12
_GOLDEN = 0x9E3779B9


class PositionSeeds(NamedTuple):
  """Random words of every position of a batch, which belong to what is there, wherever it lies.

  Attributes:
    words: `[R, T, 2]` uint32.
    positions: `[R, T]` int32, place of each position in its sequence.
  """

  words: jax.Array
  positions: jax.Array


def draw_seeds(key: jax.Array, layout: Layout) -> PositionSeeds:
  """Draws the seeds of all positions of a layout, a function of key, ordinal of the sequence and place in it.

  Args:
    key: typed PRNG key.
    layout: its sequences are at most `MAX_POSITIONS` long.
  """
  positions = jnp.asarray(layout.position)
  counter = layout.ids.astype(jnp.uint32) * jnp.uint32(MAX_POSITIONS) + positions.astype(jnp.uint32)
  keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(counter.reshape(-1))
  return PositionSeeds(jax.random.key_data(keys)[:, :2].reshape(*counter.shape, 2), positions)


def hash_bits(seed: jax.Array, second: jax.Array, counter: jax.Array) -> jax.Array:
  """Mixes two uint32 words of seed and a counter, broadcast together, to 32 bits each.

  Two multiplications and three shifts, as in Murmur-like finalisers; every bit of seed and counter reaches every bit.
  """
  x = seed + counter * jnp.uint32(_GOLDEN)
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = x + second
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def _keep(words: jax.Array, axis: int, size: int, rate: float) -> jax.Array:
  """Makes two masks of 16 bits out of each word, side by side along `axis`, cut to `size`."""
  threshold = round(rate * 2**16)
  both = [words & jnp.uint32(0xFFFF), words >> 16]
  keep = jnp.concatenate([half >= threshold for half in both], axis=axis)
  return jax.lax.slice_in_dim(keep, 0, size, axis=axis)


class Dropout(nn.Module):
  """Sets elements to zero with probability `rate`, resolved to 1.5e-5, and scales the others to keep the expectation.

  One 32-bit word serves two elements. Modules of different paths draw different masks from the same seeds.

  Attributes:
    rate: in [0, 1).
  """

  rate: float

  def __call__(self, inputs: jax.Array, seeds: PositionSeeds | None) -> jax.Array:
    """Drops features of `[R, T, D]`; without seeds, none."""
    if seeds is None or self.rate == 0.0:
      return inputs
    features = inputs.shape[-1]
    words = self._words(seeds)
    counter = jnp.arange(-(-features // 2), dtype=jnp.uint32)[None, None]
    bits = hash_bits(words[..., :1], words[..., 1:], counter)
    return self._apply(inputs, _keep(bits, 2, features, self.rate))

  def pairs(self, inputs: jax.Array, seeds: PositionSeeds | None) -> jax.Array:
    """Drops attention probabilities `[R, heads, T, T]`, of query positions (third axis) and key positions (last)."""
    if seeds is None or self.rate == 0.0:
      return inputs
    heads = inputs.shape[1]
    words = jnp.moveaxis(self._words(seeds), 2, 0)[:, :, None, :, None]
    head = jnp.arange(-(-heads // 2), dtype=jnp.uint32)[None, :, None, None]
    counter = head * jnp.uint32(MAX_POSITIONS) + seeds.positions.astype(jnp.uint32)[:, None, None, :]
    bits = hash_bits(words[0], words[1], counter)
    return self._apply(inputs, _keep(bits, 1, heads, self.rate))

  def _words(self, seeds: PositionSeeds) -> jax.Array:
    """The seeds as this module takes them: its path decides which of the generator's streams it reads."""
    path = '/'.join(self.path).encode()
    salt = np.array([zlib.crc32(path), zlib.crc32(path[::-1] + b'.')], np.uint32)
    return hash_bits(seeds.words, jnp.asarray(salt)[None, None], jnp.asarray(salt[::-1].copy())[None, None])

  def _apply(self, inputs: jax.Array, keep: jax.Array) -> jax.Array:
    scale = 2**16 / (2**16 - round(self.rate * 2**16))
    return jnp.where(keep, inputs * jnp.asarray(scale, inputs.dtype), jnp.zeros((), inputs.dtype))
