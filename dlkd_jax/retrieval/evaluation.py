"""Exact evaluation of a whole gallery, spread over the devices of a mesh and over processes, with ids joined.

Three passes. The first encodes every caption and keeps one vector a branch. The second encodes every video, block by
block, and keeps the frames on the devices, each its share. The third scores the captions against the gallery, a block
of captions at a time, and ranks them where the scores are: neither the query × frame × video array nor the matrix of
scores ever exists. What grows with the split is the encoded gallery, and one vector a caption.

Each process reads and encodes only the blocks that it is given. Ids and caption vectors are exchanged, since they are
small.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlkd_jax.data.evaluation_blocks import CaptionBlock, VideoBlock
from dlkd_jax.errors import UserError
from dlkd_jax.multihost import Processes
from dlkd_jax.retrieval import scoring
from dlkd_jax.retrieval.join import own_columns, real_ids, require_finite, require_frames
from dlkd_jax.retrieval.metrics import RetrievalMetrics, metrics_from_ranks
from dlkd_jax.retrieval.scoring import Array
from dlkd_jax.retrieval.sharded_gallery import GalleryBuilder, ShardedGallery, encoding_mesh, split_rows

__all__ = ['Encoders', 'EvaluationOptions', 'EvaluationResult', 'evaluate']

TEACHER = 'teacher'
FUSED = 'fused'
CaptionSource = Iterable[CaptionBlock] | Callable[[], Iterable[CaptionBlock]]
VideoSource = Iterable[VideoBlock] | Callable[[], Iterable[VideoBlock]]


class Encoders(NamedTuple):
  """Two jitted functions of the parameters, so that new parameters do not compile anew.

  Attributes:
    tokens: (params, tokens `[q, W, Dq]`, mask `[q, W]`) → `{branch: [q, H]}`.
    frames: (params, frames `[b, L, Dv]`, mask `[b, L]`) → `{branch: [b, L, H]}`.
  """

  tokens: Callable[[Any, Array, Array], Mapping[str, Array]]
  frames: Callable[[Any, Array, Array], Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """How to evaluate.

  Attributes:
    weights: branch → weight in the fused score, which exists where all of these branches do.
    teacher: also score the teacher alone, where the split has its features. Its scores do not depend on the
      parameters: once a run is enough.
    keep_scores: keep all score matrices in the result, the fused one too; for small galleries.
    product_bytes: what the product of a few queries and videos may take on a device, `[n, L, q]` in bytes; None: what
      suits the platform.
    mesh: devices that share the gallery, of one process or of all; None: this process's first device.
  """

  weights: Mapping[str, float]
  teacher: bool
  keep_scores: bool
  product_bytes: int | None
  mesh: Mesh | None


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
  """What an evaluation found, for Q captions and V videos.

  Attributes:
    metrics: scorer → metrics; scorers are the branches, 'fused' and 'teacher', as far as they exist.
    ranks: scorer → `[Q]` int64 rank of each caption's own video, from 1.
    caption_ids: ids of the captions, in the order of the rows.
    video_ids: ids of the videos, in the order of the columns.
    own_columns: `[Q]` int64, column of each caption's own video.
    scores: scorer → `[Q, V]` float32 where `keep_scores` asked for them, else empty.
    gallery_bytes: size of the encoded gallery, over all devices.
  """

  metrics: dict[str, RetrievalMetrics]
  ranks: dict[str, np.ndarray]
  caption_ids: list[str]
  video_ids: list[str]
  own_columns: np.ndarray
  scores: dict[str, np.ndarray]
  gallery_bytes: int

  @property
  def primary(self) -> RetrievalMetrics:
    """The student's result: fused, or that of the only branch. Its SumR chooses the best epoch."""
    if FUSED in self.metrics:
      return self.metrics[FUSED]
    branches = [name for name in self.metrics if name != TEACHER]
    if len(branches) != 1:
      raise ValueError(f'no weight was given to fuse the branches {branches}; read `metrics` by name')
    return self.metrics[branches[0]]

  def as_dict(self, prefix: str = '') -> dict[str, float]:
    """Returns `{prefix + 'fused/SumR': …}` for every scorer and metric."""
    named: dict[str, float] = {}
    for name, metrics in self.metrics.items():
      named.update(metrics.as_dict(f'{prefix}{name}/'))
    return named


class _Queries(NamedTuple):
  vectors: dict[str, np.ndarray]  # scorer → [Q, H]
  caption_ids: list[str]
  video_ids: list[str]  # of each caption's own video


def evaluate(
  params: Any,
  captions: CaptionSource,
  videos: VideoSource,
  num_videos: int,
  encoders: Encoders,
  options: EvaluationOptions,
  should_stop: Callable[[], bool] | None = None,
) -> EvaluationResult:
  """Ranks the whole gallery for every caption.

  With a mesh over several processes all of them call this together, each with its own share of the blocks, and all get
  the same result. Rows and columns of the result are in the order of the blocks, process after process.

  Args:
    params: parameters, handed to the encoders.
    captions: this process's blocks of captions, or a function that returns them.
    videos: this process's blocks of videos, or a function that returns them. Blocks of few different frame sizes, each
      of similar videos, cost least.
    num_videos: V, the size of the gallery, over all processes.
    encoders: the two jitted encoders.
    options: fusion weights, memory, devices and what to keep.
    should_stop: polled before each block; one process that is asked to stop stops all.

  Returns:
    Metrics per branch, fused, and of the teacher alone where every block has its features.

  Raises:
    Stopped: `should_stop` returned true.
    RuntimeError: another process failed.
    ValueError: an id occurs twice, a caption's video is not in the gallery, the gallery's size is not `num_videos`, a
      video has no frame, a score is not finite, or a block does not divide over the devices. The message names it.
  """
  should_stop = should_stop or (lambda: False)
  mesh = options.mesh or _one_device()
  processes = Processes(mesh)
  params = _on_this_process(params, mesh, processes)
  queries = _encode_captions(params, _blocks(captions), encoders.tokens, options, mesh, processes, should_stop)
  gallery = _encode_gallery(
    params, _blocks(videos), num_videos, encoders.frames, TEACHER in queries.vectors, mesh, processes, should_stop
  )
  own = own_columns(queries.caption_ids, queries.video_ids, gallery.video_ids)
  ranking = _Ranking(queries, gallery, own, options, mesh, processes)
  blocks = range(ranking.plan.blocks)
  processes.run(blocks, ranking.start, should_stop, lambda: f'{ranking.done} of {len(own)} captions were ranked')
  return ranking.result()


def _blocks(source):
  return source() if callable(source) else source


def _one_device() -> Mesh:
  return Mesh(np.asarray(jax.local_devices()[:1]), ('data',), axis_types=(AxisType.Auto,))


def _on_this_process(params: Any, mesh: Mesh, processes: Processes) -> Any:
  """Puts parameters on the devices that this process encodes on, whole on each where there are several processes.

  One process leaves parameters as they lie on the mesh, split or not.
  """
  whole = NamedSharding(encoding_mesh(mesh), PartitionSpec())
  if processes.several:
    # Parameters may be split over processes, and the encoders run in each process apart.
    params = jax.tree.map(np.asarray, _gather(mesh)(params))
  devices = set(mesh.devices.flat)

  def place(array):
    there = isinstance(array, jax.Array) and array.sharding.device_set == devices
    return array if there else jax.device_put(array, whole)

  return jax.tree.map(place, params)


@functools.lru_cache(maxsize=8)
def _gather(mesh: Mesh) -> Callable[[Any], Any]:
  """Returns what makes arrays whole on every device of a mesh; one function a mesh, so that it compiles once."""
  return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _encode_captions(params, blocks, encode_tokens, options, mesh, processes, should_stop) -> _Queries:
  """First pass: one vector a caption for each branch, and the teacher's."""
  local = encoding_mesh(mesh)
  collected: dict[str, list[Array]] = {}
  caption_ids: list[str] = []
  video_ids: list[str] = []

  def encode(block: CaptionBlock) -> None:
    real = np.asarray(block.caption_mask)
    caption_ids.extend(real_ids(block.caption_ids, real, 'caption'))
    video_ids.extend(real_ids(block.video_ids, real, "caption's video"))
    tokens, mask = (split_rows(x, local, 'captions') for x in (block.student_tokens, block.token_mask))
    vectors = dict(encode_tokens(params, tokens, mask))
    if options.teacher and block.teacher_text is not None:
      vectors[TEACHER] = block.teacher_text
    for name, array in vectors.items():
      collected.setdefault(name, []).append(np.asarray(array)[real])

  processes.run(blocks, encode, should_stop, lambda: f'{len(caption_ids)} captions were encoded')
  mine = {name: np.concatenate(collected.pop(name)) for name in list(collected)}
  found = processes.gather(
    {
      'captions': caption_ids,
      'videos': video_ids,
      'vectors': {name: [*x.shape, str(x.dtype)] for name, x in mine.items()},
    }
  )
  caption_ids, video_ids = ([name for other in found for name in other[what]] for what in ('captions', 'videos'))
  if not caption_ids:
    raise UserError('there is no caption to evaluate; check the split that the captions come from')
  for other in found:
    partial = {name: shape[0] for name, shape in other['vectors'].items() if shape[0] != len(other['captions'])}
    if partial:
      raise ValueError(f'only some caption blocks gave {partial} of {len(other["captions"])} vectors')
  scorers = [{name: shape[1:] for name, shape in other['vectors'].items()} for other in found if other['captions']]
  if any(other != scorers[0] for other in scorers):
    raise ValueError(f'the processes encoded captions for different scorers: {scorers}')
  joined = {}
  for name, (hidden, dtype) in sorted(scorers[0].items()):
    joined[name] = processes.gather_rows(mine.pop(name, np.zeros((0, hidden), dtype)))
  return _Queries(joined, caption_ids, video_ids)


def _encode_gallery(params, blocks, num_videos, encode_frames, teacher, mesh, processes, should_stop) -> ShardedGallery:
  """Second pass: the frames of all videos, on the devices."""
  local, builder = encoding_mesh(mesh), GalleryBuilder(mesh)

  def encode(block: VideoBlock) -> None:
    real = np.asarray(block.video_mask)
    ids = real_ids(block.video_ids, real, 'video')
    require_frames(block.frame_mask, real, ids, 'student')
    mask = split_rows(block.frame_mask, local, 'videos')
    frames = dict(encode_frames(params, split_rows(block.student_frames, local, 'videos'), mask))
    masks = dict.fromkeys(frames, mask)
    if teacher and block.teacher_frames is not None:
      require_frames(block.teacher_mask, real, ids, TEACHER)
      frames[TEACHER] = split_rows(block.teacher_frames, local, 'videos')
      masks[TEACHER] = split_rows(block.teacher_mask, local, 'videos')
    builder.add(frames, masks, ids)
    builder.wait()

  processes.run(blocks, encode, should_stop, lambda: f'{len(builder.video_ids)} of {num_videos} videos were encoded')
  gallery = builder.finish(processes)
  found = len(gallery.video_ids)
  if found != num_videos:
    raise UserError(f'the gallery was said to hold {num_videos} videos, found {found}: check the split')
  return gallery


class _Ranking:
  """Third pass: blocks of captions against the gallery. Two blocks are in flight, so that the devices never wait."""

  def __init__(self, queries: _Queries, gallery: ShardedGallery, own, options, mesh, processes):
    self._queries, self._gallery, self._own, self._mesh, self._processes = queries, gallery, own, mesh, processes
    self._options = options
    # A scorer needs vectors of captions and frames of videos.
    self._names = [name for name in gallery.segments[0] if name in queries.vectors]
    # jit returns the branches sorted by name; results come in the order that they are read in.
    weights, there = options.weights, self._names
    fused = len(weights) > 1 and all(name in there for name in weights)
    self._weights = tuple(weights.items()) if fused else ()
    there = [*there, FUSED] if fused else there
    order = [name for name in (*weights, FUSED, TEACHER) if name in there]
    self._order = order + [name for name in there if name not in order]
    self._product_bytes = options.product_bytes or scoring.default_product_bytes(mesh)
    longest = max(next(iter(segment.values())).shape[1] for segment in gallery.segments)
    videos = gallery.columns.shape[0] // mesh.size
    self.plan = scoring.plan_queries(len(own), videos, longest, self._product_bytes)
    self._pending: list[tuple[slice, tuple]] = []
    self._ranks = {name: np.empty(len(own), np.int64) for name in self._order}
    self._scores: dict[str, np.ndarray] = {}
    self._columns = None
    if options.keep_scores:
      self._columns = processes.whole(gallery.columns)
      self._scores = {name: np.empty((len(own), len(gallery.video_ids)), np.float32) for name in self._order}
    self.done = 0

  def start(self, index: int) -> None:
    """Starts to rank a block of captions and collects the block before it."""
    plan, mesh = self.plan, self._mesh
    rows = slice(index * plan.block, min((index + 1) * plan.block, len(self._own)))
    queries = {name: self._place(self._queries.vectors[name][rows], 0) for name in self._names}
    scores = []
    for segment in self._gallery.segments:
      frames = {name: segment[name] for name in self._names}
      scores.append(
        scoring.score_segment(queries, frames, mesh=mesh, query_tile=plan.tile, product_bytes=self._product_bytes)
      )
    terms = scoring.weigh(scores, weights=self._weights)
    fused = (FUSED, tuple(name for name, _ in self._weights)) if self._weights else None
    own = self._place(self._own[rows].astype(np.int32), -2)
    found = scoring.rank_block(
      scores, terms, self._gallery.columns, own, mesh=mesh, fused=fused, keep=self._options.keep_scores
    )
    self._pending.append((rows, found))
    if len(self._pending) > 1:
      self._collect()

  def result(self) -> EvaluationResult:
    """Collects what is left and returns everything."""
    while self._pending:
      self._collect()
    return EvaluationResult(
      metrics={name: metrics_from_ranks(self._ranks[name]) for name in self._order},
      ranks=self._ranks,
      caption_ids=self._queries.caption_ids,
      video_ids=self._gallery.video_ids,
      own_columns=self._own,
      scores=self._scores,
      gallery_bytes=self._gallery.nbytes,
    )

  def _place(self, array: np.ndarray, fill: int) -> jax.Array:
    """Pads rows to a block and gives them to every device."""
    padded = np.full((self.plan.block, *array.shape[1:]), fill, array.dtype)
    padded[: len(array)] = array
    return scoring.replicate(padded, self._mesh)

  def _collect(self) -> None:
    rows, (ranks, bad, scores) = self._pending.pop(0)
    count = rows.stop - rows.start
    for name in self._names:
      columns = np.asarray(bad[name])[:count]
      require_finite(columns, name, self._queries.caption_ids[rows], self._gallery.video_ids)
    for name in self._order:
      self._ranks[name][rows] = np.asarray(ranks[name])[:count]
      if self._options.keep_scores:
        there = self._columns >= 0
        self._scores[name][rows, self._columns[there]] = self._processes.whole(scores[name])[:count, there]
    self.done = rows.stop
