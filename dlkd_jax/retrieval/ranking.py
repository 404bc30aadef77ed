"""Encoded videos that stay on the devices, each holding its share, and the ranks of queries among them.

Every process encodes its own videos on its own devices, block by block. Blocks of the same number of frames are joined
into segments; a segment is one array a scorer over all devices of the mesh. Every device scores the queries against its
own videos only; what crosses devices is one number a query: the score of its own video, how many other videos reach it,
and where a score is not finite.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dlkd_jax import sharding
from dlkd_jax.errors import UserError
from dlkd_jax.multihost import Processes
from dlkd_jax.retrieval.metrics import FUSED
from dlkd_jax.sharding import encoding_mesh, local_mesh, over_devices, shard_batch
from dlkd_jax.similarity.common import product_bytes, unit

Array = Any  # numpy on the host, jax.Array on the device.

# Queries ranked at once, and what their scores may take on a device, for one scorer. Where no products lie in memory,
# that is all that limits a block; more queries would only leave the host less to do meanwhile.
_QUERY_BLOCK, _QUERY_BLOCK_IN_REGISTERS = 1024, 4096
_SCORE_BYTES = 128 << 20
_QUERY_MULTIPLE = 8
# Bytes of a segment on one device. Joining takes as much again for a moment; scoring is one dispatch a segment.
_SEGMENT_BYTES = 128 << 20


@dataclasses.dataclass(frozen=True)
class ShardedGallery:
  """The encoded videos of a split.

  Attributes:
    segments: in each, scorer → `[n, L, H]` unit vectors, split over the devices; no frame needs a mask.
    columns: `[V']` int32, index into `video_ids` of the devices' videos, over all segments; -1 at empty places. Split
      over the devices.
    video_ids: ids of all processes' videos, V of them.
  """

  segments: list[dict[str, jax.Array]]
  columns: jax.Array
  video_ids: list[str]

  @property
  def nbytes(self) -> int:
    """Bytes of the encoded features, over all devices."""
    return sum(array.nbytes for segment in self.segments for array in segment.values())


class GalleryBuilder:
  """Collects encoded blocks of videos, then joins those of all processes into one gallery."""

  def __init__(self, mesh: Mesh, segment_bytes: int = _SEGMENT_BYTES):
    self.video_ids: list[str] = []
    self._mesh, self._local, self._encoding = mesh, local_mesh(mesh), encoding_mesh(mesh)
    # Blocks are joined by a program over the process's devices; where there can be none, each is a segment.
    self._segment_bytes = segment_bytes if self._encoding == self._local else 0
    self._shape: dict | None = None  # What all blocks share: videos of a block, size and type of each scorer.
    # By frames: each block, and its columns `[devices, videos a device]`.
    self._blocks: dict[int, list[tuple[dict[str, jax.Array], np.ndarray]]] = collections.defaultdict(list)

  def add(self, frames: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], ids: list[str]) -> dict:
    """Adds one block, frames `[b, L, H]` and masks `[b, L]` of each scorer, split over the devices of `encoding_mesh`.

    Its real videos, which the ids are of, come first. Returns what is kept of it.

    Raises:
      UserError: earlier blocks had other scorers, or another size.
    """
    rows, length = next(iter(frames.values())).shape[:2]
    shape = {'videos': rows, 'scorers': {name: [x.shape[-1], str(x.dtype)] for name, x in sorted(frames.items())}}
    if self._shape not in (None, shape):
      raise UserError(
        f'earlier blocks of videos were {self._shape}, the one from {ids[:1]} is {shape}; blocks must be of one size, '
        'and give teacher frames in all or in none'
      )
    self._shape = shape
    columns = np.full(rows, -1, np.int32)
    columns[: len(ids)] = len(self.video_ids) + np.arange(len(ids))
    self.video_ids += ids
    block = prepare_frames(frames, masks, mesh=self._encoding)
    if self._encoding != self._local:
      block = {name: shard_batch(array, self._local) for name, array in block.items()}
    self._blocks[length].append((block, columns.reshape(self._local.size, -1)))
    return block

  def finish(self, processes: Processes) -> ShardedGallery:
    """Joins the blocks of all processes. Empties the builder.

    Raises:
      UserError: there is no video, or the processes' blocks differ in size or scorers.
    """
    counts = {str(length): len(blocks) for length, blocks in self._blocks.items()}
    found = processes.gather({'ids': self.video_ids, 'blocks': counts, 'shape': self._shape})
    shapes = [other['shape'] for other in found if other['shape'] is not None]
    if not shapes:
      raise UserError('there is no video to evaluate; check the split that the videos come from')
    if any(shape != shapes[0] for shape in shapes):
      raise UserError(f'the processes encoded blocks of different sizes or scorers: {shapes}')
    segments, columns = [], []
    for length in sorted({int(length) for other in found for length in other['blocks']}):
      blocks = self._blocks.pop(length, [])
      most = max(other['blocks'].get(str(length), 0) for other in found)
      blocks += [self._empty_block(length, shapes[0]) for _ in range(most - len(blocks))]
      columns += [places for _, places in blocks]
      together = max(1, self._segment_bytes * self._local.size // sum(x.nbytes for x in blocks[0][0].values()))
      while blocks:
        # Blocks go as their segments come, so that the gallery is there twice nowhere.
        some, blocks = [block for block, _ in blocks[:together]], blocks[together:]
        joined = join_blocks(some, mesh=self._local) if len(some) > 1 else some[0]
        segments.append(self._over_all_devices(jax.block_until_ready(joined)))
    mine = sum(len(other['ids']) for other in found[: jax.process_index() if processes.several else 0])
    local = np.concatenate(columns, axis=1).reshape(-1)
    local = np.where(local >= 0, local + mine, -1).astype(np.int32)
    placement = sharding.rows(self._mesh)
    return ShardedGallery(
      segments=segments,
      columns=jax.make_array_from_process_local_data(placement, local),
      video_ids=[name for other in found for name in other['ids']],
    )

  def _empty_block(self, length: int, shape: dict) -> tuple[dict[str, jax.Array], np.ndarray]:
    """Makes a block without videos, where other processes have more blocks of a number of frames."""
    zeros = {
      name: shard_batch(jnp.zeros((shape['videos'], length, hidden), dtype), self._local)
      for name, (hidden, dtype) in shape['scorers'].items()
    }
    return zeros, np.full((self._local.size, shape['videos'] // self._local.size), -1, np.int32)

  def _over_all_devices(self, segment: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Views the shares of all processes as one array over the whole mesh; nothing is copied."""
    placement = sharding.rows(self._mesh)

    def view(array: jax.Array) -> jax.Array:
      share = {shard.device: shard.data for shard in array.addressable_shards}
      rows = array.shape[0] // self._local.size * self._mesh.size
      shards = [share[device] for device in self._local.devices.flat]
      return jax.make_array_from_single_device_arrays((rows, *array.shape[1:]), placement, shards)

    return jax.tree.map(view, segment)


@functools.partial(jax.jit, static_argnames='mesh')
def prepare_frames(
  frames: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, mesh: Mesh
) -> dict[str, jax.Array]:
  """Makes encoded frames, scorer → `[n, L, H]`, ready for scoring: of unit norm, and without their masks `[n, L]`.

  A padded frame becomes a copy of its video's first real frame, which leaves the maximum over frames as it is. One that
  is not finite makes its whole video NaN, as the maximum of a GPU passes over NaN. Both are split over the mesh, of
  devices of this process.
  """

  def prepare(array, mask):
    first = jnp.take_along_axis(array, jnp.argmax(mask, axis=1)[:, None, None], axis=1)
    vectors = unit(jnp.where(mask[..., None], array, first))
    finite = jnp.isfinite(vectors.sum(axis=(1, 2), keepdims=True))
    return jnp.where(finite, vectors, jnp.nan).astype(array.dtype)

  split = over_devices(mesh)
  apply = lambda arrays, masks: {name: prepare(arrays[name], masks[name]) for name in arrays}  # noqa: E731
  return jax.shard_map(apply, mesh=mesh, in_specs=split, out_specs=split)(dict(frames), dict(masks))


@functools.partial(jax.jit, static_argnames='mesh')
def join_blocks(blocks: Sequence[Mapping[str, jax.Array]], *, mesh: Mesh) -> dict[str, jax.Array]:
  """Joins blocks of frames, each device its own parts, so that nothing moves between devices."""
  split = over_devices(mesh)
  join = lambda parts: jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)  # noqa: E731
  return jax.shard_map(join, mesh=mesh, in_specs=split, out_specs=split)(list(blocks))


class QueryPlan(NamedTuple):
  """How queries are cut: `blocks` of `block` queries, each multiplied `tile` queries at a time."""

  block: int
  tile: int
  blocks: int


def plan_queries(
  queries: int, videos: int, frames: int, most_bytes: int, most_queries: int = _QUERY_BLOCK
) -> QueryPlan:
  """Cuts Q queries into equal blocks, and those into equal tiles, so that few padded queries are scored.

  The videos are those of one device, the frames the most of a video. The float32 product of a tile of queries with a
  tile of videos may take `most_bytes`; eight queries with one video are multiplied in any case.
  """
  elements = most_bytes // 4
  # Between a product of few queries and one of few frames, both slower than one in between.
  wanted = min(math.isqrt(elements) // 2, elements // max(1, frames))
  wanted = max(_QUERY_MULTIPLE, 1 << max(0, wanted.bit_length() - 1))
  largest = min(most_queries, _SCORE_BYTES // (4 * max(1, videos))) // _QUERY_MULTIPLE * _QUERY_MULTIPLE
  largest = max(_QUERY_MULTIPLE, largest)
  blocks = -(-queries // largest)
  block = -(-queries // blocks)
  tiles = -(-block // wanted)
  tile = -(-block // (tiles * _QUERY_MULTIPLE)) * _QUERY_MULTIPLE
  return QueryPlan(tiles * tile, tile, blocks)


def video_tile(videos: int, frames: int, query_tile: int, most_bytes: int) -> int:
  """Returns how many of a device's `videos` to multiply at once: a divisor of them, as large as the product allows."""
  most = max(1, most_bytes // (4 * query_tile * max(1, frames)))
  return next(tile for tile in range(min(most, videos), 0, -1) if videos % tile == 0)


def takes_maxima_in_registers(mesh: Mesh) -> bool:
  """Whether the devices of a mesh run the kernel of `similarity.pallas_gpu`: NVIDIA GPUs since Ampere."""
  device = mesh.devices.flat[0]
  return device.device_kind.startswith('NVIDIA') and float(device.compute_capability) >= 8


@functools.partial(jax.jit, static_argnames=('mesh', 'query_tile', 'most_bytes', 'in_registers'))
def score_segment(
  queries: Mapping[str, jax.Array],
  frames: Mapping[str, jax.Array],
  *,
  mesh: Mesh,
  query_tile: int,
  most_bytes: int,
  in_registers: bool = False,
) -> dict[str, jax.Array]:
  """Maximum over the frames of the cosine, for every query of a block and every video of a segment.

  Args:
    queries: scorer → `[q, H]` on all devices, not normalised; q is a multiple of `query_tile`.
    frames: scorer → `[n, L, H]` as `prepare_frames` leaves them, split over the devices.
    mesh: the devices.
    query_tile: queries multiplied at once.
    most_bytes: what one product may take.
    in_registers: no product of bfloat16 takes anything; for devices that `takes_maxima_in_registers` names. float32
      means float32, which a GPU's fast products do not give.

  Returns:
    scorer → `[q, n]` float32, columns split over the devices.
  """

  def score(rows, videos):
    (block, hidden), (count, length, _) = rows.shape, videos.shape
    vectors = unit(rows).astype(videos.dtype)
    if in_registers and videos.dtype == jnp.bfloat16:
      from dlkd_jax.similarity import pallas_gpu  # Pallas takes long to import, and few need it.

      return pallas_gpu.max_products(vectors, videos).T
    tile = video_tile(count, length, query_tile, most_bytes)
    tiles = vectors.reshape(block // query_tile, query_tile, hidden)

    def product(some, vectors):
      # Queries come last, so that the maximum runs over whole vectors of queries.
      with jax.default_matmul_precision('highest' if some.dtype == jnp.float32 else 'default'):
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
  fused: tuple[str, ...],
  keep: bool,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
  """Ranks the own videos of a block of queries, ties pessimistic as in `metrics`.

    rank = 1 + Σ_devices #{v other than the own video: score[v] >= score[own]}

  Args:
    scores: for each segment of the gallery, scorer → `[q, n]`, columns split over the devices.
    terms: the same, of the weighted scores that the fused score is the sum of.
    columns: of the gallery, see `ShardedGallery`.
    own: `[q]` int32, column of each query's own video; -2 for a padded query.
    mesh: the devices.
    fused: the terms in the order of summation; empty where nothing is fused.
    keep: also return the scores.

  Returns:
    scorer → `[q]` int32 ranks; scorer → `[q]` int32, the first column whose score is not finite, or the largest int32;
    scorer → `[q, V']` scores, columns as in `columns`, or nothing.
  """
  axes = mesh.axis_names
  nowhere = jnp.iinfo(jnp.int32).max

  def rank(scores, terms, columns, own):
    joined = {name: jnp.concatenate([part[name] for part in scores], axis=1) for name in scores[0]}
    if fused:
      joined[FUSED] = functools.reduce(jnp.add, [jnp.concatenate([part[x] for part in terms], axis=1) for x in fused])
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


class Ranker:
  """Ranks blocks of Q queries, cut as `plan` says, against a gallery.

  `weights` are those of the terms of the fused score, in the order of summation; none where nothing is fused. With
  `keep` scores are returned, too. `most_bytes` is what one product may take; None: what suits the platform.
  """

  def __init__(
    self,
    gallery: ShardedGallery,
    mesh: Mesh,
    queries: int,
    weights: Mapping[str, float],
    keep: bool,
    most_bytes: int | None = None,
  ):
    self._gallery, self._mesh, self._keep = gallery, mesh, keep
    self._weights = tuple(weights.items())
    most_bytes = most_bytes or product_bytes(mesh.devices.flat[0].platform)
    longest = max(frames.shape[1] for segment in gallery.segments for frames in segment.values())
    in_registers = takes_maxima_in_registers(mesh)
    most_queries = _QUERY_BLOCK_IN_REGISTERS if in_registers else _QUERY_BLOCK
    self.plan = plan_queries(queries, gallery.columns.shape[0] // mesh.size, longest, most_bytes, most_queries)
    self._score = functools.partial(
      score_segment, mesh=mesh, query_tile=self.plan.tile, most_bytes=most_bytes, in_registers=in_registers
    )

  def __call__(self, vectors: Mapping[str, Array], own: np.ndarray):
    """Starts to rank one block: vectors `[n, H]` by scorer, and the column of each query's own video, `[n]`.

    n is at most `plan.block`. Returns what `rank_block` does, padded to it.
    """
    queries = {name: self._place(rows, 0) for name, rows in vectors.items()}
    scores = [self._score(queries, {name: segment[name] for name in queries}) for segment in self._gallery.segments]
    terms = weigh(scores, weights=self._weights)
    fused = tuple(name for name, _ in self._weights)
    own = self._place(own.astype(np.int32), -2)
    return rank_block(scores, terms, self._gallery.columns, own, mesh=self._mesh, fused=fused, keep=self._keep)

  def _place(self, rows: Array, filler: int) -> jax.Array:
    """Pads rows to a block and gives them to every device."""
    padding = [(0, self.plan.block - len(rows)), *[(0, 0)] * (rows.ndim - 1)]
    pad = jnp.pad if isinstance(rows, jax.Array) else np.pad
    return sharding.replicate(pad(rows, padding, constant_values=filler), self._mesh)
