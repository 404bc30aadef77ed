"""Exact evaluation of a whole split, spread over the devices of a mesh and over processes, with ids joined.

Three passes. The first encodes every caption and keeps one vector a branch. The second encodes every video, block by
block, and keeps the frames on the devices, each its share. The third scores the captions against the gallery, a block
of captions at a time, and ranks them where the scores are: neither the query × frame × video array nor the matrix of
scores ever exists. What grows with the split is the encoded gallery, and one vector a caption.

Each process encodes only the blocks that it is given. Ids and caption vectors are exchanged, since they are small. The
blocks of a split that is kept stay on the devices, where they fit: each travels there once, and not at every call.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from dlkd_jax import sharding
from dlkd_jax.allocation import KEPT_SHARE, free_on_devices
from dlkd_jax.data.batch import unit_rows
from dlkd_jax.data.evaluation_blocks import Block, EvaluationSplit
from dlkd_jax.errors import UserError
from dlkd_jax.layout import padded_layout
from dlkd_jax.models.students import Student
from dlkd_jax.multihost import Processes
from dlkd_jax.retrieval import ranking
from dlkd_jax.retrieval.metrics import FUSED, TEACHER, RetrievalMetrics, metrics_from_ranks
from dlkd_jax.retrieval.ranking import Array
from dlkd_jax.sharding import encoding_mesh, shard_batch

_IN_FLIGHT = 4  # Blocks that are being encoded at once.
_JOINED = 64  # Arrays that are joined at once on devices.


class Encoders(NamedTuple):
  """Two jitted functions of the parameters, so that new parameters do not compile anew.

  Attributes:
    tokens: (params, tokens `[q, W, Dq]`, mask `[q, W]`) → `{branch: [q, H]}`.
    frames: (params, frames `[b, L, Dv]`, mask `[b, L]`) → `{branch: [b, L_b, H]}`.
    masks: mask `[b, L]` of the frames → `{branch: [b, L_b]}`, true at vectors that there are; None: one a frame.
  """

  tokens: Callable[[Any, Array, Array], Mapping[str, Array]]
  frames: Callable[[Any, Array, Array], Mapping[str, Array]]
  masks: Callable[[Array], Mapping[str, Array]] | None = None


@functools.lru_cache(maxsize=8)
def encoders_of(student: Student) -> Encoders:
  """Returns the jitted encoders of a student; those of equal students are the same, so they compile once a process."""

  def encode(method: str):
    def apply(params, rows, mask):
      # float32 means float32, also where the hardware multiplies faster in less.
      with jax.default_matmul_precision('highest' if student.dtype == jnp.float32 else 'default'):
        return student.apply({'params': params}, unit_rows(rows), mask, deterministic=True, method=method)

    return jax.jit(apply)

  def masks(mask):
    return {name: layout.mask for name, layout in student.layouts(padded_layout(mask)).items()}

  one = padded_layout(np.ones((1, 1), bool))
  plain = all(layout is one for layout in student.layouts(one).values())
  return Encoders(encode('encode_tokens'), encode('encode_frames'), None if plain else jax.jit(masks))


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """How to evaluate.

  Attributes:
    weights: scorer → weight in the fused score, which exists where all of these branches do; the teacher is left out
      of it where it is not scored.
    teacher: also score the teacher alone, where the split has its features. That does not depend on the parameters:
      once a run is enough, and a call can leave it out.
    keep_scores: keep all score matrices in the result, the fused one too; for small galleries.
    product_bytes: what a product of queries and videos may take on a device; None: what suits the platform.
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
  vectors: dict[str, Array]  # scorer → [Q, H]
  caption_ids: list[str]
  video_ids: list[str]  # of each caption's own video


class Evaluator:
  """Evaluates parameters on one split, whose blocks every call walks; made once a run, called after every epoch."""

  def __init__(self, encoders: Encoders, split: EvaluationSplit, options: EvaluationOptions):
    self.encoders, self._split, self._options = encoders, split, options
    first = Mesh(np.asarray(jax.local_devices()[:1]), ('data',), axis_types=(AxisType.Auto,))
    self._mesh = options.mesh or first
    self._local, self._processes = encoding_mesh(self._mesh), Processes(self._mesh)
    self._room: int | None = None  # Bytes of the devices that blocks may still stay in.

  def __call__(
    self, params: Any, should_stop: Callable[[], bool] | None = None, teacher: bool = True
  ) -> EvaluationResult:
    """Ranks the whole gallery for every caption.

    With a mesh over several processes all of them call this together, each with its own share of the blocks, and all
    get the same result. Rows and columns of the result are in the order of the blocks, process after process.

    Args:
      params: parameters, handed to the encoders.
      should_stop: polled between blocks; one process that is asked to stop stops all.
      teacher: score the teacher where the options ask for it and every block has its features.

    Raises:
      Stopped: `should_stop` returned true.
      UserError: an id occurs twice, a score is not finite or the like: the message names it. Or another process failed.
    """
    should_stop = should_stop or (lambda: False)
    # Asked here and not before, so that a training has shown what its steps take.
    if self._room is None:
      self._room = int(KEPT_SHARE * free_on_devices(self._local.devices.flat)) * self._local.size
    params = self._on_this_process(params)
    queries = self._encode_captions(params, teacher and self._options.teacher, should_stop)
    gallery = self._encode_videos(params, TEACHER in queries.vectors, should_stop)
    return self._rank(queries, gallery, should_stop)

  def again(self, options: EvaluationOptions) -> Evaluator:
    """Returns one with other options for the same split, whose blocks are not read again where they were kept."""
    return Evaluator(self.encoders, self._split, options)

  def compile_ahead(self, params: Any) -> None:
    """Compiles the encoders for all blocks of the split, which stay in memory where they fit, and parameters as these.

    Nothing is exchanged with other processes, so a thread may do it.
    """
    whole, rows = sharding.replicated(self._local), sharding.rows(self._local)
    abstract = lambda x, placement: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)  # noqa: E731
    params = jax.tree.map(lambda x: abstract(x, whole if self._processes.several else x.sharding), params)
    sides = (self.encoders.tokens, self._split.captions()), (self.encoders.frames, self._split.videos())
    for encode, blocks in sides:
      for block in {(x.features.shape, x.features.dtype): x for x in blocks}.values():
        encode.lower(params, abstract(block.features, rows), abstract(block.mask, rows)).compile()

  def _on_this_process(self, params: Any) -> Any:
    """Puts parameters on the devices that this process encodes on; one process leaves those on the mesh as they lie."""
    if self._processes.several:
      # Parameters may be split over processes, and the encoders run in each process apart.
      params = jax.tree.map(np.asarray, _gather(self._mesh)(params))
    devices, whole = set(self._mesh.devices.flat), sharding.replicated(self._local)

    def place(array):
      there = isinstance(array, jax.Array) and array.sharding.device_set == devices
      return array if there else jax.device_put(array, whole)

    return jax.tree.map(place, params)

  def _place(self, block: Block, *fields: str) -> list[jax.Array]:
    """Puts arrays of a block on the devices, where they stay as long as the block, as far as there is room."""
    placed = shard_batch([getattr(block, name) for name in fields], self._local)
    for name, array in zip(fields, placed, strict=True):
      if isinstance(getattr(block, name), np.ndarray) and array.nbytes <= self._room:
        self._room -= array.nbytes
        setattr(block, name, array)
    return placed

  def _encode_captions(self, params, teacher: bool, should_stop) -> _Queries:
    """First pass: one vector a caption for each branch, and the teacher's."""
    found, caption_ids, video_ids, in_flight = [], [], [], collections.deque()

    def encode(block: Block) -> None:
      caption_ids.extend(block.ids)
      video_ids.extend(block.video_ids)
      vectors = dict(self.encoders.tokens(params, *self._place(block, 'features', 'mask')))
      if teacher and block.teacher is not None:
        vectors[TEACHER] = block.teacher
      if found and vectors.keys() != found[0].keys():
        raise ValueError(f'blocks of captions gave vectors for {sorted(found[0])} and for {sorted(vectors)}')
      count = len(block.ids)
      found.append(vectors if count == len(block.mask) else {name: rows[:count] for name, rows in vectors.items()})
      _wait_for_earlier(in_flight, vectors)

    progress = lambda: f'{len(caption_ids)} captions were encoded'  # noqa: E731
    self._processes.run(self._split.captions(), encode, should_stop, progress)
    join = _concatenate_few
    if not self._room or self._processes.several:
      found, join = jax.device_get(found), np.concatenate  # Once for all blocks: the devices wait for no block.
    mine = {name: join([vectors[name] for vectors in found]) for name in (found[0] if found else ())}
    shapes = {name: [x.shape[1], str(x.dtype)] for name, x in mine.items()}
    others = self._processes.gather({'captions': caption_ids, 'videos': video_ids, 'vectors': shapes})
    caption_ids, video_ids = ([name for other in others for name in other[what]] for what in ('captions', 'videos'))
    if not caption_ids:
      raise UserError('there is no caption to evaluate; check the split that the captions come from')
    shapes = [other['vectors'] for other in others if other['captions']]
    if any(other != shapes[0] for other in shapes):
      raise ValueError(f'the processes encoded captions for different scorers: {shapes}')
    joined = {}
    for name, (hidden, dtype) in sorted(shapes[0].items()):
      joined[name] = self._processes.gather_rows(mine.pop(name, np.zeros((0, hidden), dtype)))
    return _Queries(joined, caption_ids, video_ids)

  def _encode_videos(self, params, teacher: bool, should_stop) -> ranking.ShardedGallery:
    """Second pass: the frames of all videos, on the devices."""
    builder, expected, in_flight = ranking.GalleryBuilder(self._mesh), self._split.num_videos, collections.deque()

    def encode(block: Block) -> None:
      _require_frames(block.mask, block.ids, 'student')
      features, mask = self._place(block, 'features', 'mask')
      frames = dict(self.encoders.frames(params, features, mask))
      masks = dict(self.encoders.masks(mask)) if self.encoders.masks else dict.fromkeys(frames, mask)
      if teacher and block.teacher is not None:
        _require_frames(block.teacher_mask, block.ids, TEACHER)
        frames[TEACHER], masks[TEACHER] = self._place(block, 'teacher', 'teacher_mask')
      _wait_for_earlier(in_flight, builder.add(frames, masks, block.ids))

    progress = lambda: f'{len(builder.video_ids)} of {expected} videos were encoded'  # noqa: E731
    self._processes.run(self._split.videos(), encode, should_stop, progress)
    in_flight.clear()
    gallery = builder.finish(self._processes)
    if (count := len(gallery.video_ids)) != expected:
      raise UserError(f'the gallery was said to hold {expected} videos, found {count}: check the split')
    return gallery

  def _rank(self, queries: _Queries, gallery: ranking.ShardedGallery, should_stop) -> EvaluationResult:
    """Third pass: blocks of captions against the gallery. Two blocks are in flight, so that the devices never wait."""
    options, processes = self._options, self._processes
    own = _own_columns(queries.caption_ids, queries.video_ids, gallery.video_ids)
    # A scorer needs vectors of captions and frames of videos.
    names = [name for name in gallery.segments[0] if name in queries.vectors]
    weights = {name: weight for name, weight in options.weights.items() if name in names or name != TEACHER}
    fused = len(weights) > 1 and all(name in names for name in weights)
    # jit returns the branches sorted by name; results come in the order that they are read in.
    order = [
      x
      for x in dict.fromkeys((*(name for name in weights if name != TEACHER), FUSED, TEACHER, *names))
      if x in names or (fused and x == FUSED)
    ]
    ranker = ranking.Ranker(
      gallery, self._mesh, len(own), weights if fused else {}, options.keep_scores, options.product_bytes
    )
    ranks = {name: np.empty(len(own), np.int64) for name in order}
    scores, columns = {}, None
    if options.keep_scores:
      columns = processes.whole(gallery.columns)
      scores = {name: np.empty((len(own), len(gallery.video_ids)), np.float32) for name in order}
    pending, done = collections.deque(), 0

    def start(index: int) -> None:
      rows = slice(index * ranker.plan.block, min((index + 1) * ranker.plan.block, len(own)))
      pending.append((rows, ranker({name: queries.vectors[name][rows] for name in names}, own[rows])))
      if len(pending) > 1:
        collect()

    def collect() -> None:
      nonlocal done
      rows, (block_ranks, bad, block_scores) = pending.popleft()
      count = rows.stop - rows.start
      for name in names:
        _require_finite(np.asarray(bad[name])[:count], name, queries.caption_ids[rows], gallery.video_ids)
      for name in order:
        ranks[name][rows] = np.asarray(block_ranks[name])[:count]
        if options.keep_scores:
          there = columns >= 0
          scores[name][rows, columns[there]] = processes.whole(block_scores[name])[:count, there]
      done = rows.stop

    progress = lambda: f'{done} of {len(own)} captions were ranked'  # noqa: E731
    # Where scores are kept, `collect` waits for the other processes.
    processes.run(range(ranker.plan.blocks), start, should_stop, progress, every=1)
    while pending:
      collect()
    return EvaluationResult(
      metrics={name: metrics_from_ranks(ranks[name]) for name in order},
      ranks=ranks,
      caption_ids=queries.caption_ids,
      video_ids=gallery.video_ids,
      own_columns=own,
      scores=scores,
      gallery_bytes=gallery.nbytes,
    )


def _wait_for_earlier(in_flight: collections.deque, block: Any) -> None:
  """Waits until only a few blocks are in flight: their inputs do not pile up, and the devices always have work."""
  in_flight.append(block)
  if len(in_flight) > _IN_FLIGHT:
    jax.block_until_ready(in_flight.popleft())


def _concatenate_few(arrays: list[Array]) -> Array:
  """Joins arrays on their devices, a few at once: no program has hundreds of arguments."""
  while len(arrays) > 1:
    arrays = [jnp.concatenate(arrays[start : start + _JOINED]) for start in range(0, len(arrays), _JOINED)]
  return jnp.asarray(arrays[0])


@functools.lru_cache(maxsize=8)
def _gather(mesh: Mesh) -> Callable[[Any], Any]:
  """Returns what makes arrays whole on every device of a mesh; one function a mesh, so that it compiles once."""
  return jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))


def _own_columns(caption_ids: Sequence[str], own_ids: Sequence[str], video_ids: Sequence[str]) -> np.ndarray:
  """Returns the column of each caption's own video, `[Q]` int64; every id must be there once."""
  for what, ids in (('video', video_ids), ('caption', caption_ids)):
    twice = [name for name, count in collections.Counter(ids).items() if count > 1]
    if twice:
      raise UserError(
        f'{len(twice)} {what} ids occur more than once, the first is {twice[0]!r}: every {what} must be '
        'evaluated once; check the split for duplicates'
      )
  column = {name: index for index, name in enumerate(video_ids)}
  absent = [row for row, name in enumerate(own_ids) if name not in column]
  if absent:
    raise UserError(
      f'{len(absent)} captions belong to videos that are not among the {len(video_ids)} of the gallery, '
      f'the first is caption {caption_ids[absent[0]]!r} of video {own_ids[absent[0]]!r}: '
      'take captions and videos of the same split'
    )
  return np.array([column[name] for name in own_ids], np.int64)


def _require_frames(mask: Array, ids: Sequence[str], what: str) -> None:
  """Names the first of a block's videos whose frame mask, of `[b, L]`, is empty."""
  if isinstance(mask, jax.Array):
    return  # It was looked at before it was placed.
  empty = np.flatnonzero(~mask[: len(ids)].any(axis=1))
  if empty.size:
    remedy = 'remove it from the split, or give its features'
    if what == TEACHER:
      remedy = 'evaluate without the teacher, or give every video of the split its teacher features'
    raise UserError(f'video {ids[empty[0]]!r} has no {what} frames, so it cannot be scored; {remedy}')


def _require_finite(first_bad: np.ndarray, scorer: str, caption_ids: Sequence[str], video_ids: Sequence[str]) -> None:
  """Names the first score that is not finite; `first_bad` `[Q]` is its column, V or more where all are finite."""
  rows = np.flatnonzero(first_bad < len(video_ids))
  if rows.size:
    caption, video = caption_ids[rows[0]], video_ids[first_bad[rows[0]]]
    raise UserError(
      f'the {scorer} score of caption {caption!r} and video {video!r} is not finite: '
      'check their features and the parameters for NaN or infinity'
    )
