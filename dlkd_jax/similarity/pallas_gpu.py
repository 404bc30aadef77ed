"""The maximum over frames as a Pallas kernel for NVIDIA GPUs: the products never leave the registers.

XLA writes the products of an einsum to memory, though a maximum follows. Here a program multiplies the frames of one
video with a tile of queries, takes the maximum, and writes one number a query.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from dlkd_jax.similarity.common import vary_alike

# Sizes of a program, for which GPUs since Ampere have registers and shared memory; powers of two, as Triton asks, and
# 16 at least.
_QUERIES, _FRAMES, _HIDDEN, _LEAST = 128, 128, 64, 16
_WARPS, _STAGES = 4, 3


def max_products(queries: jax.Array, frames: jax.Array, *, interpret: bool = False) -> jax.Array:
  """Returns the maximum over the frames of each video of their products with each query: `[n, q]` float32.

  Queries are `[q, H]` and frames `[n, L, H]`, all of the same type, and no frame needs a mask. Sums are float32. The
  maximum of a GPU passes over NaN; where all products are NaN it is not finite. Beside the result there is only what
  pads H to a multiple of 64 and q to whole tiles. With `interpret` it runs, slowly, on any platform.
  """
  (count, hidden), (videos, length, _) = queries.shape, frames.shape
  tile = min(_QUERIES, max(_LEAST, pl.next_power_of_2(count)))
  queries = jnp.pad(queries, ((0, -count % tile), (0, -hidden % _HIDDEN)))
  queries, frames = vary_alike(queries, jnp.pad(frames, ((0, 0), (0, 0), (0, -hidden % _HIDDEN))))
  padded, hidden = queries.shape
  scores = pl.pallas_call(
    _kernel,
    grid=(padded // tile, videos),  # One after another come programs of the same video.
    in_specs=[
      pl.BlockSpec((tile, hidden), lambda q, v: (q, 0)),
      pl.BlockSpec((1, length, hidden), lambda q, v: (v, 0, 0)),
    ],
    out_specs=pl.BlockSpec((1, tile), lambda q, v: (v, q)),
    out_shape=jax.ShapeDtypeStruct((videos, padded), jnp.float32, manual_axis_type=jax.typeof(frames).manual_axis_type),
    compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
    interpret=interpret,
    name='max_products',
  )(queries, frames)
  return scores[:, :count]


def _kernel(queries, frames, scores):
  (tile, hidden), length = queries.shape, frames.shape[1]
  rows = min(_FRAMES, max(_LEAST, pl.next_power_of_2(length)))

  def of_chunk(chunk, most):
    # Behind the last frame it is repeated, which leaves the maximum as it is.
    here = pl.ds(chunk * rows, rows)
    if length % rows:
      here = jnp.minimum(chunk * rows + jnp.arange(rows), length - 1)

    def of_part(part, products):
      some = pl.ds(part * _HIDDEN, _HIDDEN)
      return products + jnp.dot(queries[:, some], frames[0, here, some].T, preferred_element_type=jnp.float32)

    # A query is a row: most of its products are of one thread, and all of one warp, so that few of them are exchanged.
    products = jax.lax.fori_loop(0, hidden // _HIDDEN, of_part, jnp.zeros((tile, rows), jnp.float32))
    return jnp.maximum(most, jnp.max(products, axis=1))

  most = jnp.full((tile,), -jnp.inf, jnp.float32)
  scores[0, :] = jax.lax.fori_loop(0, pl.cdiv(length, rows), of_chunk, most)
