"""Kernels for TPUs of the similarity and of its backward pass; `pallas_tpu` calls them.

A tile has `rows` rows of `length` frames and some queries. Its products, `[rows · length, queries]`, stand in VMEM:
frames along sublanes, queries along lanes, so that maxima over frames go element by element. A slot's frames are gone
through in chunks of eight, from its first to its last; the work hardly depends on the number of slots.

Every kernel starts with the same references, `TILE_INPUTS`:
  bounds: SMEM `[1, 1, rows · slots · 2]` int32, first chunk of each slot and the one after its last.
  spans: SMEM `[1, 1, 2]` int32, least and greatest row of the tile's queries' own videos.
  queries: `[queries, H]`; frames: `[rows · length, H]`.
  columns: `[1, length, 2 · rows]` float32, of each row the inverse norms of its frames, then their slots.
  own: `[1, queries]` int32, row that holds each query's own video.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from dlkd_jax.similarity.common import NORM_EPSILON, PADDED

CHUNK = 8  # Sublanes of a float32 register.
LANES = 128
LOWER = 0xFFFF
TILE_INPUTS = 6


@dataclasses.dataclass(frozen=True)
class Tile:
  """Static sizes of a tile; `length` is a multiple of 16 and `queries` one of 128."""

  rows: int
  length: int
  slots: int
  queries: int
  with_curve: bool

  @property
  def frames(self) -> int:
    return self.rows * self.length


def _scale(columns, row, at=0, size=None):
  """Inverse norms of a row's frames, `[size, 1]`."""
  rows = slice(None) if size is None else pl.ds(at, size)
  return columns[0, rows, row : row + 1]


def _for_each_slot(tile, bounds, row, function):
  """Calls `function(slot of the tile, slot of the row, first chunk, end)` for each slot of a row."""

  def step(slot, carry):
    place = row * tile.slots + slot
    function(place, slot, bounds[0, 0, 2 * place], bounds[0, 0, 2 * place + 1])
    return carry

  jax.lax.fori_loop(0, tile.slots, step, 0)


def _own(tile, spans, own, row_tile, function):
  """Calls `function(row, mask [1, queries])` for each row that may hold the own video of one of the tile's queries."""
  for row in range(tile.rows):
    number = row_tile * tile.rows + row

    @pl.when((spans[0, 0, 0] <= number) & (number <= spans[0, 0, 1]))
    def _(row=row, number=number):
      function(row, own[...] == number)


def forward(tile, bounds, spans, queries, frames, columns, own, dot, cosine, index, curve, products):
  """Products, both maxima of every slot, their frames, and own curves; the grid is (queries, rows).

  Writes dot, cosine `[1, rows · slots, queries]` float32; index, the same shape, int32: frame of the dot maximum · 2¹⁶
  plus frame of the cosine maximum, `length` where a slot is empty; curve `[length, queries]`, summed over all rows.
  """
  products[...] = jax.lax.dot_general(
    frames[...], queries[...], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
  )
  sublane = jax.lax.broadcasted_iota(jnp.int32, (CHUNK, tile.queries), 0)
  lowest = jnp.full((CHUNK, tile.queries), PADDED, jnp.float32)
  nowhere = jnp.full((CHUNK, tile.queries), tile.length // CHUNK, jnp.int32)

  def reduce(best, chunk):
    top = jnp.max(best, axis=0, keepdims=True)
    at = jnp.where(best == top, chunk * CHUNK + sublane, tile.length)
    return top, jnp.minimum(jnp.min(at, axis=0, keepdims=True), tile.length)

  for row in range(tile.rows):

    def of_slot(place, slot, first, end, row=row):
      def step(chunk, best):
        at = pl.multiple_of(chunk * CHUNK, CHUNK)
        member = columns[0, pl.ds(at, CHUNK), tile.rows + row : tile.rows + row + 1] == slot.astype(jnp.float32)
        value = products[pl.ds(row * tile.length + at, CHUNK), :]
        scaled = jnp.where(member, value * _scale(columns, row, at, CHUNK), PADDED)
        value = jnp.where(member, value, PADDED)
        dot_best, dot_at, cosine_best, cosine_at = best
        # A value that is not a number is kept, as `max` keeps it.
        dot_new = (value > dot_best) | (value != value)
        cosine_new = (scaled > cosine_best) | (scaled != scaled)
        return (
          jnp.where(dot_new, value, dot_best),
          jnp.where(dot_new, chunk, dot_at),
          jnp.where(cosine_new, scaled, cosine_best),
          jnp.where(cosine_new, chunk, cosine_at),
        )

      best = jax.lax.fori_loop(first, end, step, (lowest, nowhere, lowest, nowhere))
      dot_top, dot_at = reduce(*best[:2])
      cosine_top, cosine_at = reduce(*best[2:])
      dot[0, pl.ds(place, 1), :] = dot_top
      cosine[0, pl.ds(place, 1), :] = cosine_top
      index[0, pl.ds(place, 1), :] = (dot_at << 16) | cosine_at

    _for_each_slot(tile, bounds, row, of_slot)

  if not tile.with_curve:
    return
  row_tile = pl.program_id(1)

  @pl.when(row_tile == 0)
  def _():
    curve[...] = jnp.zeros_like(curve)

  def add(row, mask):
    values = products[row * tile.length : (row + 1) * tile.length, :] * _scale(columns, row)
    curve[...] += jnp.where(mask, values, 0.0)

  _own(tile, spans, own, row_tile, add)


def _fill(tile, row_tile, inputs, cotangents, spread, through_norm=None):
  """Builds the cotangent of a tile's products in `spread`, and adds to `through_norm` cosine times its cotangent.

  `through_norm` is `[rows · length, 128]`: its sum over lanes is the sum over queries.
  """
  bounds, spans, _, _, columns, own = inputs
  index, dot, cosine, norm, curve, curve_norm = cotangents
  spread[...] = jnp.zeros_like(spread)

  def fold(values):
    return sum(values[:, lane : lane + LANES] for lane in range(0, tile.queries, LANES))

  for row in range(tile.rows):

    def of_slot(place, slot, first, end, row=row):
      del slot
      at_dot, at_cosine = index[0, pl.ds(place, 1), :] >> 16, index[0, pl.ds(place, 1), :] & LOWER
      dot_slot, cosine_slot = dot[0, pl.ds(place, 1), :], cosine[0, pl.ds(place, 1), :]
      norm_slot = norm[0, pl.ds(place, 1), :]

      def step(chunk, carry):
        at = pl.multiple_of(chunk * CHUNK, CHUNK)
        frame = at + jax.lax.broadcasted_iota(jnp.int32, (CHUNK, 1), 0)
        scale = _scale(columns, row, at, CHUNK)
        here = pl.ds(row * tile.length + at, CHUNK)
        hit = at_cosine == frame
        spread[here, :] += jnp.where(at_dot == frame, dot_slot, 0.0) + jnp.where(hit, cosine_slot * scale, 0.0)
        if through_norm is not None:
          through_norm[here, :] += fold(jnp.where(hit, norm_slot, 0.0))
        return carry

      jax.lax.fori_loop(first, end, step, 0)

    _for_each_slot(tile, bounds, row, of_slot)

  if not tile.with_curve:
    return

  def add(row, mask):
    here = slice(row * tile.length, (row + 1) * tile.length)
    spread[here, :] += jnp.where(mask, curve[...] * _scale(columns, row), 0.0)
    if through_norm is not None:
      through_norm[here, :] += fold(jnp.where(mask, curve_norm[...], 0.0))

  _own(tile, spans, own, row_tile, add)


def frames_backward(tile, *references):
  """Cotangent of the frames; the grid is (rows, queries).

  After the tile's inputs: index, and cotangents of dot and cosine, and cosine times its cotangent, each
  `[1, rows · slots, queries]`; cotangent of the curve, and curve times it, `[length, queries]`. Writes
  `[rows · length, H]`.
  """
  inputs, cotangents = references[:TILE_INPUTS], references[TILE_INPUTS : TILE_INPUTS + 6]
  result, spread, total, through_norm = references[TILE_INPUTS + 6 :]
  queries, frames, columns = inputs[2:5]
  query_tile = pl.program_id(1)

  @pl.when(query_tile == 0)
  def _():
    total[...] = jnp.zeros_like(total)
    through_norm[...] = jnp.zeros_like(through_norm)

  _fill(tile, pl.program_id(0), inputs, cotangents, spread, through_norm)
  total[...] += jnp.dot(spread[...].astype(queries.dtype), queries[...], preferred_element_type=jnp.float32)

  @pl.when(query_tile == pl.num_programs(1) - 1)
  def _():
    for row in range(tile.rows):
      here = slice(row * tile.length, (row + 1) * tile.length)
      scale = _scale(columns, row)
      factor = jnp.sum(through_norm[here, :], axis=1, keepdims=True) * jnp.square(scale)
      # Where the norm is below epsilon the scale is a constant.
      factor = jnp.where(scale < 1 / NORM_EPSILON, factor, 0.0)
      result[here, :] = (total[here, :] - factor * frames[here, :].astype(jnp.float32)).astype(result.dtype)


def queries_backward(tile, *references):
  """Cotangent of the queries, without that of their norms; the grid is (queries, rows).

  Takes what `frames_backward` takes. Writes `[queries, H]`.
  """
  inputs, cotangents = references[:TILE_INPUTS], references[TILE_INPUTS : TILE_INPUTS + 6]
  result, spread, total = references[TILE_INPUTS + 6 :]
  row_tile = pl.program_id(1)

  @pl.when(row_tile == 0)
  def _():
    total[...] = jnp.zeros_like(total)

  _fill(tile, row_tile, inputs, cotangents, spread)
  frames = inputs[3]
  total[...] += jax.lax.dot_general(
    spread[...].astype(frames.dtype), frames[...], (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
  )

  @pl.when(row_tile == pl.num_programs(1) - 1)
  def _():
    result[...] = total[...].astype(result.dtype)
