"""Exact search: the largest cosine over each video's frames, from rows in their stored form.

The rows are scored in windows of equal size, cut between videos, so that one program serves galleries of all sizes and
lengths. A window is a view of the stored array: on a CPU even a memory-mapped file is read in place; on other devices
it is copied there once. The devices of a mesh hold adjacent shares of the videos and score them at the same time.

The maximum over the frames of a video needs neither a scatter nor padding of the videos: with the maxima of all spans
of 2^k frames, each from two of 2^(k-1), the maximum of n frames is that of the first and of the last span of
2^⌊log₂ n⌋ frames of the video, which together cover it.

Sizes: V videos, q queries, H hidden, R rows of a window, S videos of a window (padded), D devices.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.quantization import Rows, for_products, unit_rows
from dlkd_jax.gallery.windows import check_offsets, cut
from dlkd_jax.sharding import make_mesh

# Rows of a window, and rows multiplied at once. On a CPU those are turned into float32 on the way to the product and
# must stay in the cache: with 2,048 rows of 384 a query takes a tenth of the time that it takes with all rows at once.
_WINDOW_ROWS = {'cpu': 1 << 16}
_WINDOW_ROWS_ELSEWHERE = 1 << 18
_PRODUCT_ROWS = {'cpu': 1 << 11}
# Queries are padded to one of these numbers, and scored in parts of the largest; each number is one compilation.
_QUERY_SIZES = (1, 8, 64)
# Windows that are being scored at once: enough for the devices never to wait.
_WAITING = 32


class ExactSearch:
  """Stored rows of a gallery, ready for queries.

  Attributes:
    videos: V, the number of videos.
    sizes: scorer → H.
  """

  def __init__(
    self,
    stored: Mapping[str, Rows],
    offsets: np.ndarray,
    mesh: Mesh | None = None,
    block_rows: int | None = None,
    resident: bool = True,
  ):
    """Cuts the rows into windows; nothing is read yet.

    Args:
      stored: scorer → rows of all videos, one after another; memory-mapped arrays are read as they are needed.
      offsets: `[V+1]` ints, first row of each video, then the number of rows.
      mesh: devices of this process that share the videos; by default one device, since those of a CPU share its cores.
      block_rows: R, at least; the longest video may need more. By default what suits the devices.
      resident: whether other devices than CPUs keep the rows after the first query. Without, they get them again for
        each batch of queries, and hold two windows at a time.

    Raises:
      ValueError: offsets or numbers of rows do not fit, there is no video, or the mesh is of several processes.
    """
    self._stored = dict(stored)
    self._offsets = check_offsets(offsets, {name: len(rows) for name, rows in self._stored.items()})
    self._mesh = make_mesh(jax.local_devices()[:1]) if mesh is None else mesh
    if self._mesh.is_multi_process:
      raise UserError('the mesh has devices of several processes; search runs in one, over jax.local_devices().')
    platform = self._mesh.devices.flat[0].platform
    block_rows = block_rows or _WINDOW_ROWS.get(platform, _WINDOW_ROWS_ELSEWHERE)
    self._windows = cut(self._offsets, block_rows, self._mesh.size)
    self._tile = min(self._windows.rows, _PRODUCT_ROWS.get(platform, self._windows.rows))
    self._kept: dict[int, tuple] | None = {} if resident else None
    self.videos = len(self._offsets) - 1
    self.sizes = {name: rows.hidden for name, rows in self._stored.items()}

  def video_scores(self, queries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores queries against all videos.

    Args:
      queries: scorer → `[q, H]`, normalised here. Scorers without queries are not scored.

    Returns:
      scorer → `[q, V]` float32, the largest cosine over the frames of the video.

    Raises:
      ValueError: a scorer is unknown, or queries differ in number or size or are not finite.
    """
    queries = check_queries(queries, self.sizes)
    queries = {name: for_products(array, self._stored[name].dtype) for name, array in queries.items()}
    count = len(next(iter(queries.values())))
    scores = {name: np.empty((count, self.videos), np.float32) for name in queries}
    parts = [slice(start, start + _QUERY_SIZES[-1]) for start in range(0, count, _QUERY_SIZES[-1])]
    placed = [self._place_queries({name: array[part] for name, array in queries.items()}) for part in parts]
    waiting: list[tuple[int, slice, dict[str, jax.Array]]] = []
    for step in range(self._windows.steps if parts else 0):
      values, scales, spans = self._window(step, tuple(queries))
      for part, vectors in zip(parts, placed, strict=True):
        found = _score_windows(
          values, scales, vectors, spans, mesh=self._mesh, tile=self._tile, levels=self._windows.levels
        )
        waiting.append((step, part, found))
        # Devices that do not keep the rows hold those of two windows at most.
        if len(waiting) > (_WAITING if self._kept is not None else 1):
          self._collect(*waiting.pop(0), scores)
    for each in waiting:
      self._collect(*each, scores)
    return scores

  def _place_queries(self, queries: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Pads some queries to one of the sizes, on all devices."""
    count = len(next(iter(queries.values())))
    size = next(size for size in _QUERY_SIZES if size >= count)
    padded = {name: np.pad(array, ((0, size - count), (0, 0))) for name, array in queries.items()}
    return jax.device_put(padded, NamedSharding(self._mesh, PartitionSpec()))

  def _collect(self, step: int, part: slice, found: dict[str, jax.Array], into: dict[str, np.ndarray]) -> None:
    for name, array in found.items():
      array, mine = np.asarray(array), into[name][part]  # [size, D * S], a view of [q, V]
      for device, (first, last) in enumerate(self._windows.videos[step]):
        place = device * self._windows.most_videos
        mine[:, first:last] = array[: len(mine), place : place + last - first]

  def _window(self, step: int, names: Sequence[str]) -> tuple[dict, dict, jax.Array]:
    """Returns the rows of one window on each device: scorer → `[D*R, H]`, scorer → `[D*R]`, `[D*S, 3]` spans."""
    split = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
    if self._kept is not None and step in self._kept:
      values, scales, spans = self._kept[step]
    else:
      values, scales = {}, {}
      spans = jax.device_put(self._windows.spans[step].reshape(-1, 3), split)
    for name in names:
      if name not in values:
        rows = self._stored[name]
        values[name] = self._place(rows.values, step, split)
        if rows.scales is not None:
          scales[name] = self._place(rows.scales, step, split)
    if self._kept is not None:
      self._kept[step] = values, scales, spans
    return {n: values[n] for n in names}, {n: scales[n] for n in names if n in scales}, spans

  def _place(self, array: np.ndarray, step: int, split: NamedSharding) -> jax.Array:
    size = self._windows.rows
    shards = []
    for start, device in zip(self._windows.starts[step], self._mesh.devices.flat, strict=True):
      share = array[start : start + size]
      if len(share) < size:  # A gallery smaller than one window.
        share = np.pad(share, [(0, size - len(share)), *[(0, 0)] * (array.ndim - 1)])
      # What lies on a CPU's own memory at a multiple of 64 bytes is not copied.
      shards.append(jax.device_put(share, device, may_alias=True))
    shape = (size * len(shards), *array.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, split, shards)


def video_scores(
  stored: Mapping[str, Rows],
  offsets: np.ndarray,
  queries: Mapping[str, np.ndarray],
  mesh: Mesh | None = None,
  block_rows: int | None = None,
) -> dict[str, np.ndarray]:
  """Scores queries against a gallery once; arguments, result and errors as `ExactSearch` has them."""
  return ExactSearch(stored, offsets, mesh, block_rows, resident=False).video_scores(queries)


def frame_scores(
  stored: Mapping[str, Rows], offsets: np.ndarray, video: int, queries: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the cosine of queries with each frame of one video: scorer → `[q, n]` float32, for its n frames.

  Args:
    stored: as for `ExactSearch`.
    offsets: likewise.
    video: index of the video.
    queries: scorer → `[q, H]`, normalised here.

  Raises:
    ValueError: as `ExactSearch.video_scores` does.
  """
  queries = check_queries(queries, {name: rows.hidden for name, rows in stored.items()})
  span = slice(int(offsets[video]), int(offsets[video + 1]))
  return {name: array @ stored[name][span].decode().T for name, array in queries.items()}


def check_queries(queries: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
  """Returns queries of unit norm, as float32.

  Args:
    queries: scorer → `[q, H]`.
    sizes: scorer → H of the gallery.

  Raises:
    ValueError: there are none, or they do not fit the gallery or each other.
  """
  if not queries:
    raise UserError(f'there are no query vectors; expected some of the scorers {sorted(sizes)}.')
  if unknown := sorted(set(queries) - set(sizes)):
    raise UserError(f'there are query vectors for {unknown}, and the gallery has the scorers {sorted(sizes)}.')
  unit = {}
  for name, array in queries.items():
    try:
      unit[name] = unit_rows(np.asarray(array))
    except ValueError as error:
      raise UserError(f'query vectors of {name}: {error}') from error
    if unit[name].shape[1] != sizes[name]:
      raise UserError(
        f'query vectors of {name} have {unit[name].shape[1]} numbers, and the frames of the gallery {sizes[name]}; '
        'encode both with the same checkpoint.'
      )
  if len(counts := {name: len(array) for name, array in unit.items()}) and len(set(counts.values())) > 1:
    raise UserError(f'the scorers have different numbers of queries: {counts}.')
  return unit


def fuse(scores: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
  """Returns the weighted sum of scores `[q, V]`, in float32; scorers without a weight, or with 0, are left out.

  Raises:
    ValueError: no scorer has a weight, a weight is not finite, or there are no scores for one.
  """
  used = {name: weight for name, weight in weights.items() if weight != 0}
  if not used or not np.isfinite(list(used.values())).all():
    raise UserError(f'weights are {dict(weights)}; expected finite numbers, one of them other than 0.')
  if missing := sorted(set(used) - set(scores)):
    raise UserError(f'weights name {missing}, and there are scores of {sorted(scores)}.')
  return sum(np.float32(weight) * np.asarray(scores[name], np.float32) for name, weight in sorted(used.items()))


def top_videos(
  scores: Mapping[str, np.ndarray], weights: Mapping[str, float], count: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks videos by their fused score; of equal ones, the video that comes first in the gallery is first.

  Args:
    scores: scorer → `[q, V]`.
    weights: scorer → weight, as `fuse` takes them.
    count: how many videos to return.
    allowed: `[V]` bool, the videos that may be returned; by default all.

  Returns:
    `[q, n]` int64 indexes of videos, and `[q, n]` float32 fused scores; n is `count`, or as many as are allowed.

  Raises:
    ValueError: as `fuse` does, or `count` is less than 1, or `allowed` is of another size.
  """
  if count < 1:
    raise UserError(f'count is {count}; expected 1 or more.')
  fused = fuse(scores, weights)
  videos = np.arange(fused.shape[1])
  if allowed is not None:
    if allowed.shape != videos.shape or allowed.dtype != bool:
      raise UserError(f'allowed is {allowed.dtype} {list(allowed.shape)}; expected bool [{len(videos)}].')
    videos = np.flatnonzero(allowed)
    fused = fused[:, videos]
  count = min(count, len(videos))
  indexes = np.empty((len(fused), count), np.int64)
  for row, values in enumerate(fused):
    indexes[row] = first_of(values, count)
  return videos[indexes], np.take_along_axis(fused, indexes, axis=1)


def first_of(values: np.ndarray, count: int) -> np.ndarray:
  """Returns the indexes of the `count` largest of `[n]` values, largest first, of equal ones the first."""
  if count < len(values):
    least = np.partition(values, len(values) - count)[len(values) - count] if count else np.inf
    reach = np.flatnonzero(values >= least)
  else:
    reach = np.arange(len(values))
  return reach[np.argsort(-values[reach], kind='stable')][:count]


@functools.partial(jax.jit, static_argnames=('mesh', 'tile', 'levels'))
def _score_windows(
  values: Mapping[str, jax.Array],
  scales: Mapping[str, jax.Array],
  queries: Mapping[str, jax.Array],
  spans: jax.Array,
  *,
  mesh: Mesh,
  tile: int,
  levels: int,
) -> dict[str, jax.Array]:
  """Scores one window on each device.

  Args:
    values: scorer → `[D*R, H]`, split over the devices.
    scales: scorer → `[D*R]`, where it has them.
    queries: scorer → `[q, H]` of unit norm, on all devices.
    spans: `[D*S, 3]` int32, for each video the first row of its first and last span, and the spans' k; -1 where there
      is no video.
    mesh: the devices.
    tile: rows multiplied at once; a divisor of R.
    levels: how many k there are.

  Returns:
    scorer → `[q, D*S]`, split over the devices; arbitrary where there is no video.
  """
  split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()

  def local(values, scales, queries, spans):
    return {
      name: _span_maxima(_cosines(values[name], scales.get(name), queries[name], tile), spans, levels)
      for name in queries
    }

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(split, split, whole, split),
    out_specs=PartitionSpec(None, mesh.axis_names),
  )(dict(values), dict(scales), dict(queries), spans)


def _cosines(values: jax.Array, scales: jax.Array | None, queries: jax.Array, tile: int) -> jax.Array:
  """Returns `[q, R]` products of queries with rows `[R, H]`, in float32."""
  rows, hidden = values.shape

  def product(block):
    # Rows of float16 and int8 are exact in float32; its products are asked for on devices that would round them.
    return lax.dot_general(
      queries, block.astype(jnp.float32), (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
    )

  if tile == rows:
    cosines = product(values)
  else:
    cosines = lax.map(product, values.reshape(rows // tile, tile, hidden))
    cosines = jnp.moveaxis(cosines, 0, 1).reshape(len(queries), rows)
  return cosines if scales is None else cosines * scales[None, :]


def _span_maxima(cosines: jax.Array, spans: jax.Array, levels: int) -> jax.Array:
  """Returns `[q, S]`, the largest of the cosines `[q, R]` of each video's frames."""
  first, last, level = spans[:, 0], spans[:, 1], spans[:, 2]
  found = jnp.zeros((len(cosines), len(spans)), cosines.dtype)
  maxima = cosines  # Of the 2^k rows from each on; wrong near the end, where no video's span begins.
  for k in range(levels):
    if k:
      maxima = jnp.maximum(maxima, jnp.roll(maxima, -(1 << (k - 1)), axis=1))
    found = jnp.where(level[None, :] == k, jnp.maximum(maxima[:, first], maxima[:, last]), found)
  return found
