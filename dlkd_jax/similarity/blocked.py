"""The similarity over blocks of rows, with a backward pass of its own: memory grows with captions × videos only.

A block's products are made, reduced and dropped. What the backward pass keeps is, for each caption and video, the
cosine and the frames of both maxima; from these it builds one block's cotangent of the products at a time, and
multiplies it with queries and frames.

Products lie as `[rows, L, Q]`: everything after the product goes element by element along Q.

Sizes: B videos, Q captions, R rows of L frames, S slots a row, H hidden; K rows a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from dlkd_jax.similarity.common import LOWER, NORM_EPSILON, PADDED, SlotTable, inverse_norm, vary_alike

Carry = TypeVar('Carry')


class _Rows(NamedTuple):
  """What is known of all R rows, or of the K rows of a block."""

  frames: jax.Array  # [K, L, H].
  scale: jax.Array  # [K, L], inverse norm of each frame.
  slot: jax.Array  # [K, L].
  first: jax.Array  # [K, S].
  last: jax.Array  # [K, S].
  column: jax.Array  # [K, S].


def block_size(rows: int, row_bytes: int, block_rows: int | None, most_bytes: int) -> int:
  """Returns K: no larger than asked for or than the bytes allow, and such that all blocks are about of one size."""
  most = min(block_rows or max(1, most_bytes // row_bytes), rows)
  return -(-rows // -(-rows // most))


def _over_blocks(block: int, rows: _Rows, step: Callable[[Carry, _Rows, jax.Array], Carry], carry: Carry) -> Carry:
  """Calls `step(carry, rows of a block, number of its first row)` for each block; the last one may be smaller."""
  count = rows.slot.shape[0]
  full, rest = divmod(count, block)

  def at(first: jax.Array, size: int) -> _Rows:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size, axis=0), rows)

  if count == block:
    return step(carry, rows, jnp.zeros((), jnp.int32))
  if full:
    starts = jnp.arange(full, dtype=jnp.int32) * block
    carry, _ = jax.lax.scan(lambda c, first: (step(c, at(first, block), first), None), carry, starts)
  if rest:
    first = jnp.asarray(full * block, jnp.int32)
    carry = step(carry, at(first, rest), first)
  return carry


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def maxima(
  block: int, with_curve: bool, queries: jax.Array, frames: jax.Array, table: SlotTable, rows: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes maxima over frames, and own curves, block by block.

  Args:
    block: K.
    with_curve: whether own curves are wanted.
    queries: `[Q, H]`, float32 or bfloat16.
    frames: `[R, L, H]`, of the same dtype.
    table: of the slots that the videos lie in.
    rows: `[Q]` int32, row that holds each caption's own video, -1 where none does.

  Returns:
    Dot maxima `[B, Q]`, cosine maxima without the norm of the query `[B, Q]`, own curves without it `[L, Q]`; all
    float32. What stands in columns that are not present is unspecified, with a zero gradient.
  """
  return _maxima_forward(block, with_curve, queries, frames, table, rows)[0]


def _maxima_forward(block, with_curve, queries, frames, table, rows):
  """Goes over the blocks, lays the results of their slots side by side, and looks up each column's at the end."""
  (captions, _), (count, length, _), slots = queries.shape, frames.shape, table.first.shape[1]
  results = [jnp.zeros((count, slots, captions), x) for x in (jnp.float32, jnp.float32, jnp.int32)]
  start = vary_alike(queries, *results, jnp.zeros((captions, length), jnp.float32))[1:]

  def step(done: tuple[jax.Array, ...], part: _Rows, first: jax.Array) -> tuple[jax.Array, ...]:
    products = jax.lax.dot_general(
      part.frames, queries, (((2,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )  # [K, L, Q]
    reduced = jax.lax.platform_dependent(products, part, cpu=_reduce_running, default=_reduce_slots)
    *results, curve = done  # [R, S, Q] of all slots; [Q, L].
    results = [jax.lax.dynamic_update_slice_in_dim(x, new, first, 0) for x, new in zip(results, reduced, strict=True)]
    if with_curve:
      here = (rows >= first) & (rows < first + len(products))
      own = jnp.where(here, rows - first, 0)
      own_curve = products[own, :, jnp.arange(captions)] * part.scale[own]
      curve = jnp.where(here[:, None], own_curve, curve)
    return *results, curve

  *results, curve = _over_blocks(block, _all_rows(frames, table), step, start)
  # Behind the barrier GPUs look each value up once, not in every loss that reads it, where few threads would wait.
  dot, cosine, index = jax.lax.optimization_barrier([x.reshape(-1, captions)[table.slot_of] for x in results])
  return (dot, cosine, curve.T), (queries, frames, table, rows, index, cosine, curve.T)


def _all_rows(frames: jax.Array, table: SlotTable) -> _Rows:
  return _Rows(frames, inverse_norm(frames), table.slot, table.first, table.last, table.column)


def _own_rows(part: _Rows, first: jax.Array, rows: jax.Array) -> jax.Array:
  """`[K, 1, Q]` bool, true where the block's row holds the caption's own video."""
  number = first + jnp.arange(part.slot.shape[0], dtype=jnp.int32)
  return number[:, None, None] == rows[None, None, :]


def _reduce_running(products: jax.Array, part: _Rows) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Dot maxima, cosine maxima and their frames, each `[K, S, Q]`, of `[K, L, Q]` products over the frames of each slot.

  One pass whatever the number of slots: the maxima run along the positions and start anew at the first frame of a slot;
  what they are at a slot's last frame is its result. Long loops of small steps: good on a CPU only.
  """
  rows, length, captions = products.shape
  real = part.slot >= 0
  starts = real & (
    jnp.take_along_axis(part.first, jnp.maximum(part.slot, 0), axis=1) == jnp.arange(length, dtype=jnp.int32)[None]
  )

  def step(best, position):
    value, scale, begins, counts = (
      jax.lax.dynamic_index_in_dim(x, position, axis=1, keepdims=x.ndim == 2)
      for x in (products, part.scale, starts, real)
    )
    results = []
    for candidate, old in ((value, best[0]), (value * scale, best[1])):
      # A value that is not a number is kept, as `max` keeps it.
      results.append(counts & (begins | (candidate > old) | jnp.isnan(candidate)))
    dot = jnp.where(results[0], value, best[0])
    cosine = jnp.where(results[1], value * scale, best[1])
    index = jnp.where(results[0], (best[2] & LOWER) | (position << 16), best[2])
    index = jnp.where(results[1], (index & ~LOWER) | position, index)
    return (dot, cosine, index), (dot, cosine, index)

  zeros = jnp.zeros((rows, captions), jnp.float32)
  start = vary_alike(products, zeros, zeros, jnp.zeros((rows, captions), jnp.int32))[1:]
  # Two positions a step: a third faster than one, while four make XLA's CPU code several times slower.
  _, running = jax.lax.scan(step, start, jnp.arange(length, dtype=jnp.int32), unroll=2)
  last = jnp.maximum(part.last, 0)
  at_last = [x[last, jnp.arange(rows)[:, None]] for x in running]
  empty = (part.last < 0)[:, :, None]
  fillers = (PADDED, PADDED, (length << 16) | length)
  return tuple(jnp.where(empty, f, x) for f, x in zip(fillers, at_last, strict=True))


def _reduce_slots(products: jax.Array, part: _Rows) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The same as `_reduce_running`, by one masked reduction over both values and all slots: for wide processors.

  Values and positions are reduced together, and what they are reduced from is written nowhere.
  """
  length = products.shape[1]
  slots = jnp.arange(part.first.shape[1], dtype=jnp.int32)
  mask = part.slot[None, :, None, :, None] == slots[None, None, :, None, None]  # [1, K, S, L, 1]
  scale = jnp.stack([jnp.ones_like(part.scale), part.scale])[:, :, None, :, None]  # Of dot product and cosine.
  values = jnp.where(mask, products[None, :, None] * scale, PADDED)  # [2, K, S, L, Q]
  position = jnp.where(mask, jax.lax.broadcasted_iota(jnp.int32, mask.shape, 3), length)

  def first_greatest(one, other):
    # A value that is not a number is kept, as `max` keeps it.
    greater = (one[0] > other[0]) | jnp.isnan(one[0])
    earlier = greater | ((one[0] == other[0]) & (one[1] < other[1]))
    return jnp.where(greater, one[0], other[0]), jnp.where(earlier, one[1], other[1])

  operands = values, jnp.broadcast_to(position, values.shape)
  best, index = jax.lax.reduce(operands, (jnp.float32(PADDED), jnp.int32(length)), first_greatest, (3,))
  return best[0], best[1], (index[0] << 16) | index[1]


def _maxima_backward(block, with_curve, kept, cotangents):
  """Builds each block's cotangent of the products and multiplies it with queries and frames.

  With s = 1/‖f‖ the cosine is c = s⟨x, f⟩, so ∂c/∂f = s·x − c·s²·f: the first part goes with the products, the second
  needs only the sum of c times its cotangent.
  """
  queries, frames, table, rows, index, cosine, curve = kept
  dot_cotangent, cosine_cotangent, curve_cotangent = cotangents
  through_norm = cosine_cotangent * cosine
  own_through_norm = curve_cotangent * curve

  def step(cotangents: tuple[jax.Array, jax.Array], part: _Rows, first: jax.Array) -> tuple[jax.Array, jax.Array]:
    query_cotangent, frame_cotangents = cotangents
    products, norms = _cotangent_of_products(part, index, dot_cotangent, cosine_cotangent, through_norm)
    if with_curve:
      own = _own_rows(part, first, rows)
      products += jnp.where(own, (curve_cotangent[None] * part.scale[:, :, None]), 0.0)
      norms += jnp.sum(jnp.where(own, own_through_norm[None], 0.0), axis=-1)
    products = products.astype(queries.dtype).reshape(-1, queries.shape[0])
    flat = part.frames.reshape(-1, queries.shape[1])
    contract_first = (((0,), (0,)), ((), ()))
    query_cotangent += jax.lax.dot_general(products, flat, contract_first, preferred_element_type=jnp.float32)
    frame_cotangent = jnp.matmul(products, queries, preferred_element_type=jnp.float32).reshape(part.frames.shape)
    # Where the norm is below epsilon the scale is a constant.
    factor = jnp.where(part.scale < 1 / NORM_EPSILON, norms * jnp.square(part.scale), 0.0)
    frame_cotangent -= factor[:, :, None] * part.frames.astype(jnp.float32)
    frame_cotangent = frame_cotangent.astype(frames.dtype)
    return query_cotangent, jax.lax.dynamic_update_slice_in_dim(frame_cotangents, frame_cotangent, first, axis=0)

  start = vary_alike(queries, jnp.zeros(queries.shape, jnp.float32), jnp.zeros_like(frames))[1:]
  query_cotangent, frame_cotangents = _over_blocks(block, _all_rows(frames, table), step, start)
  return query_cotangent.astype(queries.dtype), frame_cotangents, None, None


def _cotangent_of_products(
  part: _Rows, index: jax.Array, dot: jax.Array, cosine: jax.Array, through_norm: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Spreads cotangents of `[B, Q]` maxima over the frames that reached them.

  Returns the cotangent of the products `[K, L, Q]`, and `[K, L]` the sum over captions of cosine times its cotangent.
  """
  position = jnp.arange(part.slot.shape[1], dtype=jnp.int32)[None, :, None]
  column = jnp.take_along_axis(part.column, jnp.maximum(part.slot, 0), axis=1)
  real = ((part.slot >= 0) & (column < len(index)))[:, :, None]
  index, dot, cosine, through_norm = (x.at[column].get(mode='clip') for x in (index, dot, cosine, through_norm))
  at_dot = real & ((index >> 16) == position)
  at_cosine = real & ((index & LOWER) == position)
  products = jnp.where(at_dot, dot, 0.0) + jnp.where(at_cosine, cosine * part.scale[:, :, None], 0.0)
  return products, jnp.sum(jnp.where(at_cosine, through_norm, 0.0), axis=-1)


maxima.defvjp(_maxima_forward, _maxima_backward)
