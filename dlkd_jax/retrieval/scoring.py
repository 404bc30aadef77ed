"""Scores of a block of queries against a sharded gallery, and the ranks they give, without moving the scores.

Every device scores the queries against its own videos only. What crosses devices is one number a query: the score of
its own video, how many other videos reach it, and where a score is not finite.

Sizes: q queries of a block, n videos of a segment of the gallery, L frames, H hidden.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlkd_jax.similarity.common import inverse_norm

Array = Any  # numpy on the host, jax.Array on the device.

# What a product may take, by platform. On a CPU it should stay in the cache until its maxima are taken: with 2 MiB
# scoring runs at the rate of the bare product, with 32 MiB at about half of it.
_PRODUCT_BYTES = {'cpu': 2 << 20}
_PRODUCT_BYTES_ELSEWHERE = 256 << 20
# Queries ranked at once, and what their scores may take on a device, for one scorer.
_QUERY_BLOCK = 1024
_SCORE_BYTES = 128 << 20
_QUERY_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class QueryPlan:
  """How Q queries are cut: `blocks` of `block` queries, each multiplied `tile` queries at a time."""

  block: int
  tile: int
  blocks: int


def default_product_bytes(mesh: Mesh) -> int:
  """Returns how large a product should be on the devices of a mesh, in bytes."""
  return _PRODUCT_BYTES.get(mesh.devices.flat[0].platform, _PRODUCT_BYTES_ELSEWHERE)


def plan_queries(queries: int, videos: int, frames: int, product_bytes: int) -> QueryPlan:
  """Cuts the queries into equal blocks, and those into equal tiles, so that few padded queries are scored.

  Args:
    queries: Q.
    videos: of one device.
    frames: the most of a video.
    product_bytes: what the float32 product of a tile of queries with a tile of videos may take; eight queries with one
      video are multiplied in any case.
  """
  elements = product_bytes // 4
  # Between a product of few queries and one of few frames, both slower than one in between.
  wanted = min(math.isqrt(elements) // 2, elements // max(1, frames))
  wanted = max(_QUERY_MULTIPLE, 1 << max(0, wanted.bit_length() - 1))
  largest = min(_QUERY_BLOCK, _SCORE_BYTES // (4 * max(1, videos))) // _QUERY_MULTIPLE * _QUERY_MULTIPLE
  largest = max(_QUERY_MULTIPLE, largest)
  blocks = -(-queries // largest)
  block = -(-queries // blocks)
  tiles = -(-block // wanted)
  tile = -(-block // (tiles * _QUERY_MULTIPLE)) * _QUERY_MULTIPLE
  return QueryPlan(tiles * tile, tile, blocks)


def video_tile(videos: int, frames: int, query_tile: int, product_bytes: int) -> int:
  """Returns how many of a device's `videos` to multiply at once: a divisor of them, as large as the product allows."""
  most = max(1, product_bytes // (4 * query_tile * max(1, frames)))
  return next(tile for tile in range(min(most, videos), 0, -1) if videos % tile == 0)


def over_devices(mesh: Mesh, axis: int = 0) -> PartitionSpec:
  """Returns the split of one axis over all devices of a mesh."""
  return PartitionSpec(*[None] * axis, mesh.axis_names)


def replicate(array: np.ndarray, mesh: Mesh) -> jax.Array:
  """Gives every device of the mesh the whole array, which every process has."""
  placement = NamedSharding(mesh, PartitionSpec())
  if mesh.is_multi_process:
    return jax.make_array_from_process_local_data(placement, array)
  return jax.device_put(array, placement)


def unit(vectors: jax.Array) -> jax.Array:
  """Divides vectors by their norm, in float32; zero vectors stay zero."""
  vectors = vectors.astype(jnp.float32)
  return vectors * inverse_norm(vectors)[..., None]


@functools.partial(jax.jit, static_argnames='mesh')
def prepare_frames(
  frames: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, mesh: Mesh
) -> dict[str, jax.Array]:
  """Makes encoded frames ready for scoring: of unit norm, and without a mask.

  A padded frame becomes a copy of its video's first real frame, which leaves the maximum over frames as it is.

  Args:
    frames: scorer → `[n, L, H]`, split over the mesh.
    masks: scorer → `[n, L]` bool, true at real frames. A video without any gets an arbitrary one.
    mesh: devices of this process.

  Returns:
    scorer → `[n, L, H]` of the same type, each device's videos where they were.
  """

  def prepare(array, mask):
    first = jnp.take_along_axis(array, jnp.argmax(mask, axis=1)[:, None, None], axis=1)
    return unit(jnp.where(mask[..., None], array, first)).astype(array.dtype)

  split = over_devices(mesh)
  apply = lambda arrays, masks: {name: prepare(arrays[name], masks[name]) for name in arrays}  # noqa: E731
  return jax.shard_map(apply, mesh=mesh, in_specs=split, out_specs=split)(dict(frames), dict(masks))


@functools.partial(jax.jit, static_argnames='mesh')
def join_blocks(blocks: Sequence[Mapping[str, jax.Array]], *, mesh: Mesh) -> dict[str, jax.Array]:
  """Joins blocks of frames, each device its own parts, so that nothing moves between devices."""
  split = over_devices(mesh)
  join = lambda parts: jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)  # noqa: E731
  return jax.shard_map(join, mesh=mesh, in_specs=split, out_specs=split)(list(blocks))


@functools.partial(jax.jit, static_argnames=('mesh', 'query_tile', 'product_bytes'))
def score_segment(
  queries: Mapping[str, jax.Array],
  frames: Mapping[str, jax.Array],
  *,
  mesh: Mesh,
  query_tile: int,
  product_bytes: int,
) -> dict[str, jax.Array]:
  """Maximum over the frames of the cosine, for every query of a block and every video of a segment.

  Args:
    queries: scorer → `[q, H]` on all devices, not normalised; q is a multiple of `query_tile`.
    frames: scorer → `[n, L, H]` as `prepare_frames` leaves them, split over the devices.
    mesh: the devices.
    query_tile: queries multiplied at once.
    product_bytes: what one product may take; the program never holds `[q, n, L]`.

  Returns:
    scorer → `[q, n]` float32, columns split over the devices.
  """

  def score(rows, videos):
    (block, hidden), (count, length, _) = rows.shape, videos.shape
    tile = video_tile(count, length, query_tile, product_bytes)
    tiles = unit(rows).astype(videos.dtype).reshape(block // query_tile, query_tile, hidden)

    def product(some, vectors):
      # Queries come last, so that the maximum runs over whole vectors of queries.
      return jnp.einsum('nlh,qh->nlq', some, vectors, preferred_element_type=jnp.float32).max(axis=1)

    some_videos = lambda some: jax.lax.map(functools.partial(product, some), tiles)  # noqa: E731
    scores = jax.lax.map(some_videos, videos.reshape(count // tile, tile, length, hidden))
    return scores.transpose(1, 3, 0, 2).reshape(block, count)

  apply = lambda rows, videos: {name: score(rows[name], videos[name]) for name in videos}  # noqa: E731
  specs = (PartitionSpec(), over_devices(mesh))
  return jax.shard_map(apply, mesh=mesh, in_specs=specs, out_specs=over_devices(mesh, 1))(dict(queries), dict(frames))


@functools.partial(jax.jit, static_argnames='weights')
def weigh(scores: Sequence[Mapping[str, jax.Array]], *, weights: tuple[tuple[str, float], ...]):
  """Multiplies scores by their scorers' weights: the terms of the fused score, of each segment.

  A program of its own: compiled together with the sum, product and sum would be rounded once instead of twice, and
  differ from `metrics.rank_fused` in the last bit, which is enough to make or break a tie.
  """
  return [{name: part[name] * weight for name, weight in weights} for part in scores]


@functools.partial(jax.jit, static_argnames=('mesh', 'fused', 'keep'))
def rank_block(
  scores: Sequence[Mapping[str, jax.Array]],
  terms: Sequence[Mapping[str, jax.Array]],
  columns: jax.Array,
  own: jax.Array,
  *,
  mesh: Mesh,
  fused: tuple[str, tuple[str, ...]] | None,
  keep: bool,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
  """Ranks the own videos of a block of queries, ties pessimistic as in `metrics`.

    rank = 1 + Σ_devices #{v other than the own video: score[v] >= score[own]}

  Args:
    scores: for each segment of the gallery, scorer → `[q, n]`, columns split over the devices.
    terms: for each segment the weighted scores that the fused score is the sum of.
    columns: `[V']` int32, column in the gallery of each of the devices' videos, over all segments; -1 where a device's
      place is empty. Split over the devices.
    own: `[q]` int32, column of each query's own video; -2 for a padded query.
    mesh: the devices.
    fused: name of the fused scorer, and its terms in the order of summation; None without one.
    keep: also return the scores.

  Returns:
    scorer → `[q]` int32 ranks; scorer → `[q]` int32, the first column whose score is not finite, or the largest int32;
    scorer → `[q, V']` scores, columns as in `columns`, or nothing.
  """
  axes = mesh.axis_names
  nowhere = jnp.iinfo(jnp.int32).max

  def rank(scores, terms, columns, own):
    joined = {name: jnp.concatenate([part[name] for part in scores], axis=1) for name in scores[0]}
    if fused is not None:
      name, order = fused
      parts = [jnp.concatenate([part[term] for part in terms], axis=1) for term in order]
      joined[name] = functools.reduce(jnp.add, parts)
    real, mine = columns[None] >= 0, columns[None] == own[:, None]
    ranks, bad = {}, {}
    for name, values in joined.items():
      own_score = jax.lax.pmax(jnp.where(mine, values, -jnp.inf).max(axis=1), axes)
      ahead = (values >= own_score[:, None]) & real & ~mine
      ranks[name] = 1 + jax.lax.psum(ahead.sum(axis=1, dtype=jnp.int32), axes)
      wrong = jnp.where(real & ~jnp.isfinite(values), columns[None], nowhere)
      bad[name] = jax.lax.pmin(wrong.min(axis=1), axes)
    return ranks, bad, joined if keep else {}

  split = over_devices(mesh, 1)
  specs = (split, split, over_devices(mesh), PartitionSpec())
  outs = (PartitionSpec(), PartitionSpec(), split)
  return jax.shard_map(rank, mesh=mesh, in_specs=specs, out_specs=outs)(list(scores), list(terms), columns, own)
