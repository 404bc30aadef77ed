"""Search in two stages: candidates from compressed frame vectors, then their exact scores from the stored rows.

FAISS keeps two numbers of a frame vector in four bits, and scans all of them with table look-ups in the processor's
registers: 192 bytes of a stored frame become 96, and a scan costs a few milliseconds for a million frames. Every vector
is looked at, so it does not matter how the vectors are spread, as it does for an index of cells or of neighbours. The
best frames of each scorer name candidate videos; the best of those are scored exactly, all their frames.

Sizes: V videos, n frames, q queries, H hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.exact import check_queries, first_of
from dlkd_jax.gallery.quantization import JoinedRows, Rows, for_products
from dlkd_jax.gallery.windows import check_offsets

# Videos scored exactly for a query, and frames of each scorer that name them.
CANDIDATES = 500
FRAMES = 2000
# Rows scored at once, padded to one of these numbers; each is one compilation.
_BLOCK_SIZES = (1 << 11, 1 << 13)
_BLOCK_ROWS = _BLOCK_SIZES[-1]


class FrameSearch(Protocol):
  """Frame vectors of one scorer that are searched approximately: `FrameIndex`, several of them, or an engine's."""

  def check(self, rows: int, hidden: int, name: str) -> None:
    """Checks that they are of so many rows of that size, and else raises an error that names `name`."""
    ...

  def search(self, queries: np.ndarray, count: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[q, count]` float32 products of `[q, H]` queries, largest first, and `[q, count]` int64 rows; or -1.

    Rows of videos that are not `allowed`, `[V]` bool, may be left out, and are, where there is an attribute `filters`.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Found:
  """The best videos of one query.

  Attributes:
    videos: `[n]` int64, indexes of videos, the best first; of equal ones, the first of the gallery is first.
    fused: `[n]` float32, their weighted sums of scores.
    scores: scorer → `[n]` float32, their largest cosines, exact for the stored rows.
  """

  videos: np.ndarray
  fused: np.ndarray
  scores: dict[str, np.ndarray]


def search(
  indexes: Mapping[str, FrameSearch],
  stored: Mapping[str, Rows | JoinedRows],
  offsets: np.ndarray,
  queries: Mapping[str, np.ndarray],
  weights: Mapping[str, float],
  count: int,
  candidates: int = CANDIDATES,
  frames: int = FRAMES,
  allowed: np.ndarray | None = None,
) -> list[Found]:
  """Finds the videos of the largest fused scores, nearly always the same as exact search does.

  Args:
    indexes: scorer → frame vectors of the whole gallery, to be searched approximately.
    stored: scorer → the same frames' stored rows; memory-mapped arrays are read at candidates alone.
    offsets: `[V+1]` ints, first row of each video, then the number of rows.
    queries: scorer → `[q, H]`, normalised here.
    weights: scorer → weight, 0 or more; scorers without one, or with 0, take no part.
    count: how many videos to return; fewer if fewer are allowed.
    candidates: videos scored exactly; `count` at least. More give a better recall.
    frames: best frames of a scorer that name candidates; more are asked for where they lie in too few videos.
    allowed: `[V]` bool, the videos that may be returned; by default all.

  Returns:
    What was found, for each query.

  Raises:
    ValueError: arguments do not fit each other.
  """
  used = _check_weights(weights, queries, indexes, stored)
  offsets = check_offsets(offsets, {name: len(rows) for name, rows in stored.items()})
  for name in used:
    indexes[name].check(len(stored[name]), stored[name].hidden, f'the index of frames of {name}')
  queries = check_queries({name: queries[name] for name in used}, {name: stored[name].hidden for name in used})
  if count < 1 or frames < 1:
    raise UserError(f'count is {count} and frames {frames}; expected 1 or more.')
  candidates = max(candidates, count)
  videos = len(offsets) - 1
  if allowed is None:
    allowed = np.ones(videos, bool)
  elif allowed.shape != (videos,) or allowed.dtype != bool:
    raise UserError(f'allowed is {allowed.dtype} {list(allowed.shape)}; expected bool [{videos}].')
  few = np.flatnonzero(allowed)
  if len(few) <= candidates:
    chosen = [few] * len(queries[next(iter(used))])
  else:
    chosen = _candidates(indexes, offsets, queries, used, candidates, frames, allowed)
  vectors = {name: for_products(array, stored[name].dtype) for name, array in queries.items()}
  return [
    _rescore(stored, offsets, {name: array[i] for name, array in vectors.items()}, used, np.sort(videos), count)
    for i, videos in enumerate(chosen)
  ]


def _candidates(
  indexes: Mapping[str, FrameSearch],
  offsets: np.ndarray,
  queries: Mapping[str, np.ndarray],
  weights: Mapping[str, float],
  candidates: int,
  frames: int,
  allowed: np.ndarray,
) -> list[np.ndarray]:
  """Returns for each query the indexes of at most `candidates` allowed videos, by approximate fused scores."""
  number = len(next(iter(queries.values())))
  total = int(offsets[-1])
  filtered = all(getattr(indexes[name], 'filters', False) for name in weights)
  # Else frames of videos that are not allowed are found too.
  wanted = min(total, frames if filtered else int(frames * len(allowed) / allowed.sum()))
  chosen: list[np.ndarray | None] = [None] * number
  open_queries = np.arange(number)
  while len(open_queries):
    found = {name: indexes[name].search(queries[name][open_queries], wanted, allowed) for name in weights}
    left = []
    for place, query in enumerate(open_queries):
      own = {name: (scores[place], rows[place]) for name, (scores, rows) in found.items()}
      videos = _best_videos(own, offsets, weights, allowed, wanted == total)
      chosen[query] = videos[:candidates]
      if len(videos) < candidates and wanted < total:
        left.append(query)
    open_queries = np.asarray(left, np.int64)
    wanted = min(total, 4 * wanted)
  return chosen


def _best_videos(
  found: Mapping[str, tuple[np.ndarray, np.ndarray]],
  offsets: np.ndarray,
  weights: Mapping[str, float],
  allowed: np.ndarray,
  everything: bool,
) -> np.ndarray:
  """Returns the allowed videos of the frames found, the best first; with `everything`, the others follow.

  A video that a scorer has not found counts there as its last frame found does: it cannot be better.
  """
  fused = np.zeros(len(allowed), np.float32)
  seen = np.full(len(allowed), everything)
  for name, (scores, rows) in found.items():
    scores, rows = scores[rows >= 0], rows[rows >= 0]
    videos = np.searchsorted(offsets, rows, 'right') - 1
    best = np.full(len(allowed), scores.min(initial=1), np.float32)
    np.maximum.at(best, videos, scores)
    fused += np.float32(weights[name]) * best
    seen[videos] = True
  videos = np.flatnonzero(seen & allowed)
  return videos[np.argsort(-fused[videos], kind='stable')]


def _rescore(
  stored: Mapping[str, Rows | JoinedRows],
  offsets: np.ndarray,
  queries: Mapping[str, np.ndarray],
  weights: Mapping[str, float],
  videos: np.ndarray,
  count: int,
) -> Found:
  """Scores the given videos exactly, with queries as `for_products` returns them, and returns the best of them."""
  scores = {name: _exact(stored[name], offsets, videos, queries[name]) for name in weights}
  fused = sum(np.float32(weights[name]) * scores[name] for name in sorted(weights))
  best = first_of(fused, min(count, len(videos)))
  return Found(videos[best], fused[best], {name: array[best] for name, array in scores.items()})


def _exact(rows: Rows | JoinedRows, offsets: np.ndarray, videos: np.ndarray, query: np.ndarray) -> np.ndarray:
  """Returns `[m]` float32, the largest cosine over the frames of each of the videos."""
  if not len(videos):
    return np.empty(0, np.float32)
  starts = offsets[videos]
  ends = np.cumsum(offsets[videos + 1] - starts)  # Of each video among the frames of all these.
  begins = np.concatenate([[0], ends[:-1]])
  cosines = np.empty(ends[-1], np.float32)
  for first in range(0, len(cosines), _BLOCK_ROWS):
    last = min(first + _BLOCK_ROWS, len(cosines))
    part = slice(np.searchsorted(ends, first, 'right'), np.searchsorted(begins, last, 'left'))
    shift = starts[part] - begins[part]
    block = rows.gather(np.maximum(begins[part], first) + shift, np.minimum(ends[part], last) + shift)
    cosines[first:last] = _cosines(block, query)
  return np.maximum.reduceat(cosines, begins)


def _cosines(rows: Rows, query: np.ndarray) -> np.ndarray:
  """Returns `[n]` float32; the scales of int8 rows come after the product, where there is less to multiply.

  By XLA: NumPy takes twice as long to widen float16, and its product waits for other processes where cores are busy.
  """
  size = next(size for size in _BLOCK_SIZES if size >= len(rows))
  values = np.pad(rows.values, ((0, size - len(rows)), (0, 0)))
  cosines = np.asarray(_products(values, query))[: len(rows)]
  return cosines if rows.scales is None else cosines * rows.scales


@jax.jit
def _products(values: jax.Array, query: jax.Array) -> jax.Array:
  """Returns `[n]` products of rows `[n, H]` with a query `[H]`, in float32; rows multiplied at once fit the cache."""
  tiles = values.reshape(-1, _BLOCK_SIZES[0], values.shape[1])
  product = lambda tile: jnp.dot(tile.astype(jnp.float32), query, precision=lax.Precision.HIGHEST)  # noqa: E731
  return lax.map(product, tiles).reshape(-1)


def _check_weights(weights, queries, indexes, stored) -> dict[str, float]:
  used = {name: float(weight) for name, weight in weights.items() if weight != 0}
  if not used or not np.isfinite(list(used.values())).all() or min(used.values()) < 0:
    raise UserError(
      f'weights are {dict(weights)}; expected numbers of 0 or more, one of them more. Exact search takes others too.'
    )
  for what, given in (('query vectors', queries), ('an index of frames', indexes), ('stored rows', stored)):
    if missing := sorted(set(used) - set(given)):
      raise UserError(f'weights name {missing}, and there is {what} of {sorted(given)} alone.')
  return used
