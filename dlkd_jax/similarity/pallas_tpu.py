"""The similarity as Pallas kernels for TPUs: nothing of the size of captions × frames is ever in the TPU's main memory.

XLA keeps the `[Q, R, L]` products of an einsum that a maximum follows. Here a tile's products are made, reduced and
dropped in VMEM, and the backward pass builds a tile of their cotangent there, from the frames of the maxima.

Sizes: B videos, Q captions, R rows of L frames, S slots a row, H hidden.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dlkd_jax.errors import UserError
from dlkd_jax.similarity import pallas_kernels as kernels
from dlkd_jax.similarity.common import SlotTable, inverse_norm, vary_alike
from dlkd_jax.similarity.pallas_kernels import LANES, Tile

MOST_FRAMES = 0x7FFF
# Frames of the smallest tile that bfloat16 fills.
_FRAMES = 16
_MOST_ROWS = 8
_MOST_QUERIES = 512
# Share of VMEM that a tile may take; compilers allow a kernel 16 MB by default.
_TILE_BYTES = 10 << 20


def maxima(
  queries: jax.Array, frames: jax.Array, table: SlotTable, rows: jax.Array | None, interpret: bool | None = None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Computes maxima over frames, and own curves, with a kernel.

  Args:
    queries: `[Q, H]`, float32 or bfloat16.
    frames: `[R, L, H]`, of the same dtype.
    table: of the slots that the videos lie in.
    rows: `[Q]` int32, row that holds each caption's own video, -1 where none does; None: no own curves.
    interpret: runs the kernels by the interpreter of Pallas, on any platform; by default wherever the program is not
      lowered for a TPU.

  Returns:
    Cosine maxima without the norm of the query `[Q, B]`, dot maxima `[Q, B]`, own curves without the norm of the query
    `[Q, L]` or None; all float32. What stands in columns that are not present is unspecified, with a zero gradient.

  Raises:
    UserError: L is over 32767.
  """
  if frames.shape[1] > MOST_FRAMES:
    raise UserError(
      f'rows of {frames.shape[1]} frames; the kernel goes up to {MOST_FRAMES}: lower config.data.max_frames, or set '
      'config.similarity.form=plain'
    )
  with_curve = rows is not None
  if rows is None:
    rows = jnp.full(queries.shape[:1], -1, jnp.int32)
  queries, frames, rows, *fields = vary_alike(queries, frames, rows, *jax.tree.leaves(table))
  table = jax.tree.unflatten(jax.tree.structure(table), fields)
  dot, cosine, curve = _maxima(with_curve, interpret, queries, frames, table, rows)
  return cosine.T, dot.T, curve.T if with_curve else None


def _tile(queries: jax.Array, frames: jax.Array, slots: int, with_curve: bool) -> Tile:
  """Chooses the tile: as many rows as VMEM takes, and queries such that little of the last tile is padding."""
  length = _up(frames.shape[1], _FRAMES)
  tiles = -(-queries.shape[0] // _MOST_QUERIES)
  width = _up(-(-queries.shape[0] // tiles), LANES)
  # Frames twice, their result twice, its sum; products; all in 4 bytes.
  row_bytes = 4 * length * (5 * _up(queries.shape[1], LANES) + 2 * width)
  return Tile(max(1, min(_MOST_ROWS, frames.shape[0], _TILE_BYTES // row_bytes)), length, slots, width, with_curve)


def _up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


def _pad(array: jax.Array, axis: int, size: int, filler: float = 0) -> jax.Array:
  if array.shape[axis] == size:
    return array
  widths = [(0, 0)] * array.ndim
  widths[axis] = (0, size - array.shape[axis])
  return jnp.pad(array, widths, constant_values=filler)


def _tile_inputs(
  tile: Tile, queries: jax.Array, frames: jax.Array, table: SlotTable, rows: jax.Array
) -> list[jax.Array]:
  """Brings the inputs of the kernels to whole tiles; see `pallas_kernels` for what they are."""
  row_count = _up(frames.shape[0], tile.rows)
  query_count = _up(queries.shape[0], tile.queries)
  scale = _pad(_pad(inverse_norm(frames), 1, tile.length), 0, row_count)
  slot = _pad(_pad(table.slot, 1, tile.length, -1), 0, row_count, -1).astype(jnp.float32)
  columns = jnp.stack([x.reshape(-1, tile.rows, tile.length) for x in (scale, slot)], axis=1)
  columns = columns.reshape(-1, 2 * tile.rows, tile.length).transpose(0, 2, 1)
  # An empty slot's first frame is L and its last one -1: no chunks.
  first = _pad(table.first // kernels.CHUNK, 0, row_count)
  end = _pad(jnp.where(table.last >= 0, table.last // kernels.CHUNK + 1, 0), 0, row_count)
  bounds = jnp.stack([first, end], axis=-1).reshape(-1, 1, 2 * tile.rows * tile.slots)
  own = _pad(rows, 0, query_count, -1)
  by_tile = own.reshape(-1, tile.queries)
  least = jnp.min(jnp.where(by_tile >= 0, by_tile, row_count), axis=1)
  spans = jnp.stack([least, jnp.max(by_tile, axis=1)], axis=-1)[:, None]
  frames = _pad(_pad(frames, 1, tile.length), 0, row_count).reshape(-1, frames.shape[-1])
  return [bounds, spans, _pad(queries, 0, query_count), frames, columns, own[None]]


def _call(tile, kernel, interpret, rows_outermost, inputs, result_specs, results, scratch):
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

  if interpret is not None:
    return run(interpret, *inputs)
  return jax.lax.platform_dependent(*inputs, tpu=functools.partial(run, False), default=functools.partial(run, True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _maxima(with_curve, interpret, queries, frames, table, rows):
  return _maxima_forward(with_curve, interpret, queries, frames, table, rows)[0]


def _maxima_forward(with_curve, interpret, queries, frames, table, rows):
  slots = table.first.shape[1]
  tile = _tile(queries, frames, slots, with_curve)
  inputs = _tile_inputs(tile, queries, frames, table, rows)
  captions, query_count = queries.shape[0], inputs[2].shape[0]
  shape = (inputs[0].shape[0], tile.rows * slots, query_count)
  results = [jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.float32, jnp.float32, jnp.int32)]
  curve_shape = jax.ShapeDtypeStruct((tile.length, query_count), jnp.float32)
  *by_slot, curve = _call(
    tile, kernels.forward, interpret, False, inputs, ['slots'] * 3 + ['curve'], [*results, curve_shape],
    [(tile.frames, tile.queries)],
  )  # fmt: skip
  dot, cosine, index = (x.reshape(-1, query_count)[table.slot_of, :captions] for x in by_slot)
  curve = curve[: frames.shape[1], :captions]
  if not with_curve:
    curve = jnp.zeros_like(curve)  # The kernel left it as it was.
  return (dot, cosine, curve), (queries, frames, table, rows, index, cosine, curve)


def _maxima_backward(with_curve, interpret, kept, cotangents):
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
    tile, kernels.frames_backward, interpret, True, inputs, ['frames'], [inputs[3]],
    [spread, (tile.frames, queries.shape[1]), (tile.frames, LANES)],
  )  # fmt: skip
  (queries_cotangent,) = _call(
    tile, kernels.queries_backward, interpret, False, inputs, ['queries'], [inputs[2]],
    [spread, (tile.queries, queries.shape[1])],
  )  # fmt: skip
  frames_cotangent = frames_cotangent.reshape(-1, tile.length, frames.shape[2])
  return queries_cotangent[: queries.shape[0]], frames_cotangent[: frames.shape[0], : frames.shape[1]], None, None


_maxima.defvjp(_maxima_forward, _maxima_backward)
