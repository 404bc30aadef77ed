"""Dropout whose masks belong to the content: a position of a sequence drops the same features wherever it lies.

Every mask is a function of the key of the step, the ordinal of the sequence in the batch, the position in the sequence
and the feature. So it does not depend on how sequences are packed into rows, padded, shared by devices and processes,
or cut into micro-batches, and none of these changes what a training computes.

A position's seed comes from the key by Threefry, once for all layers, in `dropping`. The bits of a layer and a feature
come from the seed by an integer hash: a cryptographic generator for every feature would take a fifth of a training step
on a CPU.
"""

from __future__ import annotations

import contextlib
import contextvars
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.layout import Layout

# Positions of one sequence that get seeds of their own; longer sequences would share them.
MAX_POSITIONS = 2**12
_GOLDEN = 0x9E3779B9


class _Seeds(NamedTuple):
  """Random words `[R, T, 2]` uint32 of every position of a batch, and its place `[R, T]` in its sequence."""

  words: jax.Array
  positions: jax.Array


_SEEDS: contextvars.ContextVar[_Seeds] = contextvars.ContextVar('seeds')


@contextlib.contextmanager
def dropping(key: jax.Array | None, layout: Layout) -> Iterator[None]:
  """Gives every `Dropout` that is called within it its masks.

  Args:
    key: typed PRNG key; None where nothing is dropped.
    layout: of the sequences that are encoded; they are at most `MAX_POSITIONS` long.
  """
  if key is None:
    yield
    return
  positions = jnp.asarray(layout.position)
  counter = layout.ids.astype(jnp.uint32) * jnp.uint32(MAX_POSITIONS) + positions.astype(jnp.uint32)
  keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(counter.reshape(-1))
  token = _SEEDS.set(_Seeds(jax.random.key_data(keys)[:, :2].reshape(*counter.shape, 2), positions))
  try:
    yield
  finally:
    _SEEDS.reset(token)


def hash_bits(seed: jax.Array, second: jax.Array, counter: jax.Array) -> jax.Array:
  """Mixes two uint32 words of seed and a counter, broadcast together, to 32 bits each.

  Two multiplications and three shifts, as in Murmur-like finalisers; every bit of seed and counter reaches every bit.
  """
  x = seed + counter * jnp.uint32(_GOLDEN)
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = x + second
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


class Dropout(nn.Module):
  """Called as `flax.linen.Dropout`; not deterministic, it must be within `dropping`.

  Sets elements to zero with probability `rate`, resolved to 1.5e-5, and scales the others to keep the expectation. One
  32-bit word serves two elements. Modules of different paths draw different masks from the same seeds.

  Attributes:
    rate: in [0, 1).
  """

  rate: float

  def __call__(self, inputs: jax.Array, deterministic: bool) -> jax.Array:
    """Drops features of `[R, T, D]`, or attention probabilities `[R, heads, T, T]` of query and key positions."""
    if deterministic or self.rate == 0.0:
      return inputs
    seeds = _SEEDS.get()
    # The path decides which of the generator's streams a module reads.
    path = '/'.join(self.path).encode()
    salt = np.array([zlib.crc32(path), zlib.crc32(path[::-1] + b'.')], np.uint32)
    words = hash_bits(seeds.words, jnp.asarray(salt)[None, None], jnp.asarray(salt[::-1].copy())[None, None])
    axis = inputs.ndim - 1 if inputs.ndim == 3 else 1
    pairs = jnp.arange(-(-inputs.shape[axis] // 2), dtype=jnp.uint32)
    if inputs.ndim == 3:
      bits = hash_bits(words[..., :1], words[..., 1:], pairs[None, None])
    else:
      words = jnp.moveaxis(words, 2, 0)[:, :, None, :, None]
      keys = seeds.positions.astype(jnp.uint32)[:, None, None, :]
      bits = hash_bits(words[0], words[1], pairs[None, :, None, None] * jnp.uint32(MAX_POSITIONS) + keys)
    threshold = round(self.rate * 2**16)
    keep = jnp.concatenate([half >= threshold for half in (bits & jnp.uint32(0xFFFF), bits >> 16)], axis=axis)
    keep = jax.lax.slice_in_dim(keep, 0, inputs.shape[axis], axis=axis)
    scale = jnp.asarray(2**16 / (2**16 - threshold), inputs.dtype)
    return jnp.where(keep, inputs * scale, jnp.zeros((), inputs.dtype))
