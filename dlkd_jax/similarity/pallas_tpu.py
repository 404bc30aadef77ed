"""The similarity as Pallas kernels for TPUs: nothing of the size of captions × frames is ever in the TPU's main memory.

XLA keeps the `[Q, R, L]` products of an einsum that a maximum follows. Here a tile's products are made, reduced and
dropped in VMEM, and the backward pass builds a tile of their cotangent there, from the frames of the maxima.

A tile has `rows` rows of `length` frames and some queries. Its products, `[rows · length, queries]`, have frames along
sublanes and queries along lanes, so that maxima over frames go element by element. A slot's frames are gone through in
chunks of eight, from its first to its last; the work hardly depends on the number of slots.

Every kernel starts with the same references, `_TILE_INPUTS` of them:
  bounds: SMEM `[1, 1, rows · slots · 2]` int32, first chunk of each slot and the one after its last.
  spans: SMEM `[1, 1, 2]` int32, least and greatest row of the tile's queries' own videos.
  queries: `[queries, H]`; frames: `[rows · length, H]`.
  columns: `[1, length, 2 · rows]` float32, of each row the inverse norms of its frames, then their slots.
  own: `[1, queries]` int32, row that holds each query's own video.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dlkd_jax.similarity.common import LOWER, NORM_EPSILON, PADDED, SlotTable, inverse_norm

_CHUNK = 8  # Sublanes of a float32 register.
_LANES = 128
_TILE_INPUTS = 6
# Frames of the smallest tile that bfloat16 fills.
_FRAMES = 16
_MOST_ROWS = 8
_MOST_QUERIES = 512
# Share of VMEM that a tile may take; compilers allow a kernel 16 MB by default.
_TILE_BYTES = 10 << 20


@dataclasses.dataclass(frozen=True)
class _Tile:
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
  sublane = jax.lax.broadcasted_iota(jnp.int32, (_CHUNK, tile.queries), 0)
  lowest = jnp.full((_CHUNK, tile.queries), PADDED, jnp.float32)
  nowhere = jnp.full((_CHUNK, tile.queries), tile.length // _CHUNK, jnp.int32)

  def reduce(best, chunk):
    top = jnp.max(best, axis=0, keepdims=True)
    at = jnp.where(best == top, chunk * _CHUNK + sublane, tile.length)
    return top, jnp.minimum(jnp.min(at, axis=0, keepdims=True), tile.length)

  for row in range(tile.rows):

    def of_slot(place, slot, first, end, row=row):
      def step(chunk, best):
        at = pl.multiple_of(chunk * _CHUNK, _CHUNK)
        member = columns[0, pl.ds(at, _CHUNK), tile.rows + row : tile.rows + row + 1] == slot.astype(jnp.float32)
        value = products[pl.ds(row * tile.length + at, _CHUNK), :]
        scaled = jnp.where(member, value * _scale(columns, row, at, _CHUNK), PADDED)
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
    return sum(values[:, lane : lane + _LANES] for lane in range(0, tile.queries, _LANES))

  for row in range(tile.rows):

    def of_slot(place, slot, first, end, row=row):
      del slot
      at_dot, at_cosine = index[0, pl.ds(place, 1), :] >> 16, index[0, pl.ds(place, 1), :] & LOWER
      dot_slot, cosine_slot = dot[0, pl.ds(place, 1), :], cosine[0, pl.ds(place, 1), :]
      norm_slot = norm[0, pl.ds(place, 1), :]

      def step(chunk, carry):
        at = pl.multiple_of(chunk * _CHUNK, _CHUNK)
        frame = at + jax.lax.broadcasted_iota(jnp.int32, (_CHUNK, 1), 0)
        scale = _scale(columns, row, at, _CHUNK)
        here = pl.ds(row * tile.length + at, _CHUNK)
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
  inputs, cotangents = references[:_TILE_INPUTS], references[_TILE_INPUTS : _TILE_INPUTS + 6]
  result, spread, total, through_norm = references[_TILE_INPUTS + 6 :]
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
  inputs, cotangents = references[:_TILE_INPUTS], references[_TILE_INPUTS : _TILE_INPUTS + 6]
  result, spread, total = references[_TILE_INPUTS + 6 :]
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


def _tile(queries: jax.Array, frames: jax.Array, slots: int, with_curve: bool) -> _Tile:
  """Chooses the tile: as many rows as VMEM takes, and queries such that little of the last tile is padding."""
  length = _up(frames.shape[1], _FRAMES)
  tiles = -(-queries.shape[0] // _MOST_QUERIES)
  width = _up(-(-queries.shape[0] // tiles), _LANES)
  # Frames twice, their result twice, its sum; products; all in 4 bytes.
  row_bytes = 4 * length * (5 * _up(queries.shape[1], _LANES) + 2 * width)
  return _Tile(max(1, min(_MOST_ROWS, frames.shape[0], _TILE_BYTES // row_bytes)), length, slots, width, with_curve)


def _up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


def _pad(array: jax.Array, axis: int, size: int, filler: float = 0) -> jax.Array:
  if array.shape[axis] == size:
    return array
  widths = [(0, 0)] * array.ndim
  widths[axis] = (0, size - array.shape[axis])
  return jnp.pad(array, widths, constant_values=filler)


def _tile_inputs(
  tile: _Tile, queries: jax.Array, frames: jax.Array, table: SlotTable, rows: jax.Array
) -> list[jax.Array]:
  """Brings the inputs of the kernels to whole tiles; see the module for what they are."""
  row_count = _up(frames.shape[0], tile.rows)
  query_count = _up(queries.shape[0], tile.queries)
  scale = _pad(_pad(inverse_norm(frames), 1, tile.length), 0, row_count)
  slot = _pad(_pad(table.slot, 1, tile.length, -1), 0, row_count, -1).astype(jnp.float32)
  columns = jnp.stack([x.reshape(-1, tile.rows, tile.length) for x in (scale, slot)], axis=1)
  columns = columns.reshape(-1, 2 * tile.rows, tile.length).transpose(0, 2, 1)
  # An empty slot's first frame is L and its last one -1: no chunks.
  first = _pad(table.first // _CHUNK, 0, row_count)
  end = _pad(jnp.where(table.last >= 0, table.last // _CHUNK + 1, 0), 0, row_count)
  bounds = jnp.stack([first, end], axis=-1).reshape(-1, 1, 2 * tile.rows * tile.slots)
  own = _pad(rows, 0, query_count, -1)
  by_tile = own.reshape(-1, tile.queries)
  least = jnp.min(jnp.where(by_tile >= 0, by_tile, row_count), axis=1)
  spans = jnp.stack([least, jnp.max(by_tile, axis=1)], axis=-1)[:, None]
  frames = _pad(_pad(frames, 1, tile.length), 0, row_count).reshape(-1, frames.shape[-1])
  return [bounds, spans, _pad(queries, 0, query_count), frames, columns, own[None]]


def _call(tile, kernel, rows_outermost, inputs, result_specs, results, scratch):
  """Runs a kernel over all tiles.

  `result_specs` are `(block shape, index)` where index maps (row tile, query tile) to a block; the tile's own inputs
  need none, and the rest of the inputs are cotangents in the layout of the results of `forward`.
  """
  row_tiles, query_tiles = inputs[0].shape[0], inputs[1].shape[0]
  hidden = inputs[2].shape[1]

  def spec(block, index, memory=pltpu.VMEM):
    if rows_outermost:
      return pl.BlockSpec(block, index, memory_space=memory)
    return pl.BlockSpec(block, lambda q, r: index(r, q), memory_space=memory)

  slot_spec = spec((1, tile.rows * tile.slots, tile.queries), lambda r, q: (r, 0, q))
  curve_spec = spec((tile.length, tile.queries), lambda r, q: (0, q))
  in_specs = [
    spec((1, 1, inputs[0].shape[2]), lambda r, q: (r, 0, 0), pltpu.SMEM),
    spec((1, 1, 2), lambda r, q: (q, 0, 0), pltpu.SMEM),
    spec((tile.queries, hidden), lambda r, q: (q, 0)),
    spec((tile.frames, hidden), lambda r, q: (r, 0)),
    spec((1, tile.length, 2 * tile.rows), lambda r, q: (r, 0, 0)),
    spec((1, tile.queries), lambda r, q: (0, q)),
    *[slot_spec] * 4,
    *[curve_spec] * 2,
  ][: len(inputs)]
  named = {'slots': slot_spec, 'curve': curve_spec, 'queries': in_specs[2], 'frames': in_specs[3]}
  axes = jax.typeof(inputs[2]).manual_axis_type
  products = row_tiles * query_tiles * tile.frames * tile.queries

  def run(interpreted, *arrays):
    return pl.pallas_call(
      functools.partial(kernel, tile),
      out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=axes) for x in results],
      grid=(row_tiles, query_tiles) if rows_outermost else (query_tiles, row_tiles),
      in_specs=in_specs,
      out_specs=[named[name] for name in result_specs],
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
      compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
      cost_estimate=pl.CostEstimate(
        flops=2 * products * hidden,
        transcendentals=0,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *results)),
      ),
      interpret=interpreted,
      name=f'similarity_{kernel.__name__}',
    )(*arrays)

  return jax.lax.platform_dependent(*inputs, tpu=functools.partial(run, False), default=functools.partial(run, True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def maxima(
  with_curve: bool, queries: jax.Array, frames: jax.Array, table: SlotTable, rows: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes maxima over frames, and own curves, with a kernel; see `blocked.maxima` for arguments and results.

  The kernels are interpreted wherever the program is not lowered for a TPU.
  """
  return _maxima_forward(with_curve, queries, frames, table, rows)[0]


def _maxima_forward(with_curve, queries, frames, table, rows):
  slots = table.first.shape[1]
  tile = _tile(queries, frames, slots, with_curve)
  inputs = _tile_inputs(tile, queries, frames, table, rows)
  captions, query_count = queries.shape[0], inputs[2].shape[0]
  shape = (inputs[0].shape[0], tile.rows * slots, query_count)
  results = [jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.float32, jnp.float32, jnp.int32)]
  curve_shape = jax.ShapeDtypeStruct((tile.length, query_count), jnp.float32)
  *by_slot, curve = _call(
    tile, forward, False, inputs, ['slots'] * 3 + ['curve'], [*results, curve_shape],
    [(tile.frames, tile.queries)],
  )  # fmt: skip
  dot, cosine, index = (x.reshape(-1, query_count)[table.slot_of, :captions] for x in by_slot)
  curve = curve[: frames.shape[1], :captions]
  if not with_curve:
    curve = jnp.zeros_like(curve)  # The kernel left it as it was.
  return (dot, cosine, curve), (queries, frames, table, rows, index, cosine, curve)


def _maxima_backward(with_curve, kept, cotangents):
  queries, frames, table, rows, index, cosine, curve = kept
  dot_cotangent, cosine_cotangent, curve_cotangent = cotangents
  slots = table.first.shape[1]
  tile = _tile(queries, frames, slots, with_curve)
  inputs = _tile_inputs(tile, queries, frames, table, rows)
  row_tiles, query_count = inputs[0].shape[0], inputs[2].shape[0]
  column = _pad(table.column, 0, row_tiles * tile.rows, table.columns).reshape(row_tiles, -1)
  nowhere = (tile.length << 16) | tile.length
  for array, filler in ((index, nowhere), (dot_cotangent, 0), (cosine_cotangent, 0), (cosine_cotangent * cosine, 0)):
    by_slot = array.at[column].get(mode='fill', fill_value=filler)
    inputs.append(_pad(by_slot, 2, query_count, filler))
  for array in (curve_cotangent, curve_cotangent * curve):
    inputs.append(_pad(_pad(array, 0, tile.length), 1, query_count))

  spread = (tile.frames, tile.queries)
  (frames_cotangent,) = _call(
    tile, frames_backward, True, inputs, ['frames'], [inputs[3]],
    [spread, (tile.frames, queries.shape[1]), (tile.frames, _LANES)],
  )  # fmt: skip
  (queries_cotangent,) = _call(
    tile, queries_backward, False, inputs, ['queries'], [inputs[2]],
    [spread, (tile.queries, queries.shape[1])],
  )  # fmt: skip
  frames_cotangent = frames_cotangent.reshape(-1, tile.length, frames.shape[2])
  return queries_cotangent[: queries.shape[0]], frames_cotangent[: frames.shape[0], : frames.shape[1]], None, None


maxima.defvjp(_maxima_forward, _maxima_backward)
