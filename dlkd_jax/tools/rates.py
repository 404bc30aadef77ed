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


def calls_together() -> int:
  """Returns how many calls to time as one: an accelerator computes one while the host starts the next."""
  return 1 if jax.default_backend() == 'cpu' else 20


def seconds(function: Callable, *arguments, calls: int = 1) -> float:
  """Times a call, to the end of its computation; of several, started without waiting for one another, the mean."""
  start = time.perf_counter()
  results = [function(*arguments) for _ in range(calls)]
  jax.block_until_ready(results)
  return (time.perf_counter() - start) / calls


@jax.jit
def _product(left: jax.Array, right: jax.Array) -> jax.Array:
  return left @ right


class MatmulRate:
  """The rate of a plain jitted product, measured anew whenever it is asked for."""

  def __init__(self, rows: int = 2048, inner: int = 2048, columns: int = 2048, dtype=jnp.float32):
    """Takes the product's sizes, `[rows, inner]` by `[inner, columns]`, and its type."""
    # Random numbers: some chips multiply zeros, or one number over and over, faster than anything real.
    left, right = jax.random.split(jax.random.key(0))
    self._left, self._right = (
      jax.random.normal(left, (rows, inner), dtype),
      jax.random.normal(right, (inner, columns), dtype),
    )
    self._flops, self._calls = 2 * rows * inner * columns, calls_together()
    seconds(_product, self._left, self._right)

  def measure(self) -> float:
    """Returns FLOP/s."""
    return self._flops / seconds(_product, self._left, self._right, calls=self._calls)
