"""The yardstick of all benchmarks: FLOPs of the matrix products of a function, and the machine's rate at products."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


def product_flops(function: Callable, *arguments) -> int:
  """Returns the FLOPs of a function's matrix products and convolutions, from its trace; two for a multiply and add.

  Unlike the compiler's count it takes loops as often as they run. Work of single devices inside `shard_map` is counted
  once for all devices.
  """
  return _jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _jaxpr_flops(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
      total += 2 * int(inner) * int(np.prod(equation.outvars[0].aval.shape))
    elif equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval
      channels = kernel.shape[equation.params['dimension_numbers'].rhs_spec[0]]
      total += 2 * int(np.prod(equation.outvars[0].aval.shape)) * (kernel.size // channels)
    insides = [_jaxpr_flops(inner) for inner in core.jaxprs_in_params(equation.params)]
    # Of the branches of a condition one runs; they are alternatives of one computation here.
    inside = max(insides, default=0) if equation.primitive.name == 'cond' else sum(insides)
    if equation.primitive.name == 'shard_map':
      inside *= equation.params['mesh'].size
    total += inside * equation.params.get('length', 1)
  return total


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
