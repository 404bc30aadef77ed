"""Exact evaluation of a whole gallery in blocks, with ids joined.

Two passes over a split. The first encodes every caption and keeps one vector a branch. The second streams blocks of
videos, encodes their frames and scores all queries against them, a chunk of queries at a time; neither the encoded
gallery nor the query × frame × video array ever exists. What grows with the split is one float32 score matrix
`[Q, V]` a scorer, on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from dlkd_jax.data.evaluation_blocks import CaptionBlock, VideoBlock
from dlkd_jax.retrieval.join import own_columns, real_ids, require_finite, require_frames
from dlkd_jax.retrieval.metrics import (
  FUSION_WEIGHTS,
  RetrievalMetrics,
  fused_rows,
  metrics_from_ranks,
  rank_fused,
  rank_own_videos,
)
from dlkd_jax.retrieval.scoring import Array, Placement, query_chunk, score_block

TEACHER = 'teacher'
FUSED = 'fused'
CaptionSource = Iterable[CaptionBlock] | Callable[[], Iterable[CaptionBlock]]
VideoSource = Iterable[VideoBlock] | Callable[[], Iterable[VideoBlock]]


class EvaluationInterrupted(Exception):
  """`should_stop` asked to leave; nothing was computed that could be used. The message says how far it had come."""


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
    keep_scores: keep all score matrices in the result, the fused one too.
    product_bytes: largest `[q, b, L]` array of products, in bytes; the CPU program holds two of them.
    mesh: devices to split each block over, along its first axis; None uses the default device.
  """

  weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(FUSION_WEIGHTS))
  teacher: bool = True
  keep_scores: bool = False
  product_bytes: int = 32 << 20
  mesh: Mesh | None = None


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
  """

  metrics: dict[str, RetrievalMetrics]
  ranks: dict[str, np.ndarray]
  caption_ids: list[str]
  video_ids: list[str]
  own_columns: np.ndarray
  scores: dict[str, np.ndarray]

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
  vectors: dict[str, np.ndarray]  # scorer → [Q, H] float32
  caption_ids: list[str]
  video_ids: list[str]  # of each caption's own video


def evaluate(
  params: Any,
  captions: CaptionSource,
  videos: VideoSource,
  num_videos: int,
  encoders: Encoders,
  options: EvaluationOptions | None = None,
  should_stop: Callable[[], bool] | None = None,
) -> EvaluationResult:
  """Ranks the whole gallery for every caption.

  Args:
    params: parameters, handed to the encoders.
    captions: blocks of all captions, or a function that returns them.
    videos: blocks of all videos, or a function that returns them.
    num_videos: V, the size of the gallery.
    encoders: the two jitted encoders.
    options: fusion weights, memory, devices and what to keep.
    should_stop: polled before each block.

  Returns:
    Metrics per branch, fused, and of the teacher alone where every block has its features.

  Raises:
    EvaluationInterrupted: `should_stop` returned true.
    ValueError: an id occurs twice, a caption's video is not in the gallery, the gallery's size is not `num_videos`, a
      video has no frame, a score is not finite, or a block does not divide over the devices. The message names it.
  """
  options = options or EvaluationOptions()
  should_stop = should_stop or (lambda: False)
  queries = _encode_captions(params, _blocks(captions), encoders.tokens, options, should_stop)
  scores, video_ids = _score_gallery(
    params, _blocks(videos), num_videos, queries, encoders.frames, options, should_stop
  )
  own = own_columns(queries.caption_ids, queries.video_ids, video_ids)
  return _rank(scores, own, queries.caption_ids, video_ids, options)


def _blocks(source):
  return source() if callable(source) else source


def _encode_captions(params, blocks, encode_tokens, options, should_stop) -> _Queries:
  """First pass: one vector a caption for each branch, and the teacher's."""
  placement = Placement(options.mesh)
  collected: dict[str, list[np.ndarray]] = {}
  caption_ids: list[str] = []
  video_ids: list[str] = []
  for block in blocks:
    _poll(should_stop, f'{len(caption_ids)} captions were encoded')
    real = np.asarray(block.caption_mask)
    caption_ids += real_ids(block.caption_ids, real, 'caption')
    video_ids += real_ids(block.video_ids, real, "caption's video")
    vectors = dict(
      encode_tokens(
        params,
        placement.split(block.student_tokens, 'captions'),
        placement.split(block.token_mask, 'captions'),
      )
    )
    if options.teacher and block.teacher_text is not None:
      vectors[TEACHER] = block.teacher_text
    for name, array in vectors.items():
      collected.setdefault(name, []).append(np.asarray(array, np.float32)[real])
  if not caption_ids:
    raise ValueError('there is no caption to evaluate; check the split that the captions come from')
  joined = {name: np.concatenate(collected.pop(name)) for name in list(collected)}
  partial = {name: len(x) for name, x in joined.items() if len(x) != len(caption_ids)}
  if partial:
    raise ValueError(f'only some caption blocks gave {partial} of {len(caption_ids)} vectors')
  return _Queries(joined, caption_ids, video_ids)


def _score_gallery(params, blocks, num_videos, queries, encode_frames, options, should_stop):
  """Second pass: returns ({scorer: `[Q, V]`}, video ids). Empties `queries.vectors` as it places them."""
  placement = Placement(options.mesh)
  placed = {name: placement.replicate(queries.vectors.pop(name)) for name in list(queries.vectors)}
  matrices: dict[str, np.ndarray] = {}
  video_ids: list[str] = []
  for block in blocks:
    _poll(should_stop, f'{len(video_ids)} of {num_videos} videos were scored')
    real = np.asarray(block.video_mask)
    start = len(video_ids)
    video_ids += real_ids(block.video_ids, real, 'video')
    ids = video_ids[start:]
    if len(video_ids) > num_videos:
      raise ValueError(f'the gallery was said to hold {num_videos} videos, but more arrived')
    encoded = _encode_block(params, block, encode_frames, placed, placement, ids)
    if not matrices:
      shape = (len(queries.caption_ids), num_videos)
      matrices = {name: np.empty(shape, np.float32) for name in encoded}
    elif matrices.keys() != encoded.keys():
      raise ValueError(
        f'earlier video blocks gave scores of {sorted(matrices)}, the one from {ids[0]!r} of '
        f'{sorted(encoded)}: give teacher frames in all blocks or in none'
      )
    # One scorer after another, each waited for: programs in flight would hold their products at the same time.
    for name, (frames, mask) in encoded.items():
      chunk = query_chunk(*mask.shape, options.product_bytes)
      scores = np.asarray(score_block(placed[name], frames, mask, chunk=chunk))[:, real]
      require_finite(scores, name, queries.caption_ids, ids)
      matrices[name][:, start : len(video_ids)] = scores
  if len(video_ids) != num_videos:
    raise ValueError(f'the gallery was said to hold {num_videos} videos, found {len(video_ids)}: check the split')
  return matrices, video_ids


def _encode_block(params, block, encode_frames, queries, placement, ids) -> dict[str, tuple[Array, Array]]:
  """Returns {scorer: (frames `[b, L, H]`, mask `[b, L]`)} for the scorers that have queries."""
  real = np.asarray(block.video_mask)
  require_frames(block.frame_mask, real, ids, 'student')
  mask = placement.split(block.frame_mask, 'videos')
  frames = encode_frames(params, placement.split(block.student_frames, 'videos'), mask)
  encoded = {name: (array, mask) for name, array in frames.items()}
  if TEACHER in queries and block.teacher_frames is not None:
    require_frames(block.teacher_mask, real, ids, TEACHER)
    encoded[TEACHER] = (
      placement.split(block.teacher_frames, 'videos'),
      placement.split(block.teacher_mask, 'videos'),
    )
  return encoded


def _rank(matrices, own, caption_ids, video_ids, options) -> EvaluationResult:
  """Ranks every scorer; drops each matrix when it is needed no more."""
  ranks: dict[str, np.ndarray] = {}
  scores: dict[str, np.ndarray] = {}
  weights = options.weights
  if len(weights) > 1 and all(name in matrices for name in weights):
    ranks[FUSED] = rank_fused(matrices, weights, own)
    if options.keep_scores:
      blocks = fused_rows(matrices, weights)
      scores[FUSED] = np.empty(matrices[next(iter(weights))].shape, np.float32)
      for rows, block in blocks:
        scores[FUSED][rows] = block
  for name in list(matrices):
    matrix = matrices.pop(name)
    ranks[name] = rank_own_videos(matrix, own)
    if options.keep_scores:
      scores[name] = matrix
  # jit returns the branches sorted by name; results come in the order that they are read in.
  order = [name for name in (*weights, FUSED, TEACHER) if name in ranks]
  order += [name for name in ranks if name not in order]
  return EvaluationResult(
    metrics={name: metrics_from_ranks(ranks[name]) for name in order},
    ranks={name: ranks[name] for name in order},
    caption_ids=caption_ids,
    video_ids=video_ids,
    own_columns=own,
    scores={name: scores[name] for name in order if name in scores},
  )


def _poll(should_stop, done: str) -> None:
  if should_stop():
    raise EvaluationInterrupted(f'evaluation was asked to stop after {done}')
