"""The yardstick of all benchmarks: FLOPs of the matrix products of a function, and the machine's rate at products."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlkd_jax.tools.planning import products


def product_flops(function: Callable, *arguments) -> int:
  """Returns the FLOPs of a function's matrix products and convolutions, from its trace; two for a multiply and add.

  Unlike the compiler's count it takes loops as often as they run. Work of single devices inside `shard_map` is counted
  once for all devices.
  """
  return sum(products.count(jax.make_jaxpr(function)(*arguments)).values())


def seconds(function: Callable, *arguments) -> float:
  """Times one call, to the end of its computation."""
  start = time.perf_counter()
  jax.block_until_ready(function(*arguments))
  return time.perf_counter() - start


@jax.jit
def _product(left: jax.Array, right: jax.Array) -> jax.Array:
  return left @ right


class MatmulRate:
  """The rate of a plain jitted product, measured anew whenever it is asked for."""

  def __init__(self, rows: int = 2048, inner: int = 2048, columns: int = 2048, dtype=jnp.float32):
    """Takes the product's sizes, `[rows, inner]` by `[inner, columns]`, and its type."""
    self._left, self._right = jnp.full((rows, inner), 0.5, dtype), jnp.full((inner, columns), 0.5, dtype)
    self._flops = 2 * rows * inner * columns
    seconds(_product, self._left, self._right)

  def measure(self) -> float:
    """Returns FLOP/s of one call."""
    return self._flops / seconds(_product, self._left, self._right)
