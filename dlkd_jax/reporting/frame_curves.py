"""Frame curves of captions over videos: how well each frame fits, by every scorer.

The score of a caption and a video is the largest value of their curve. Only the pairs asked for are computed, while
the videos of the split are encoded block by block, so that nothing of the size of the gallery is kept.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from dlkd_jax.data.evaluation_blocks import Block, caption_blocks, video_blocks
from dlkd_jax.data.sources import text
from dlkd_jax.gallery.encoding import spread
from dlkd_jax.reporting.split_data import SplitData
from dlkd_jax.reporting.trained_run import TrainedRun
from dlkd_jax.retrieval.evaluate import Encoders, encoders_of
from dlkd_jax.retrieval.metrics import FUSED, TEACHER
from dlkd_jax.training import recipe
from dlkd_jax.vectors import unit

Pair = tuple[int, int]  # Row of a caption and column of a video.
_BLOCK = 32


def pair_curves(run: TrainedRun, data: SplitData, pairs: Sequence[Pair]) -> dict[str, dict[Pair, np.ndarray]]:
  """Computes the frame curves of pairs of captions and videos.

  Args:
    run: whose scorers.
    data: the split.
    pairs: rows and columns of `data`.

  Returns:
    scorer → pair → `[n]` cosine of each frame: branches and 'fused' over `student_times` of the video, 'teacher' over
    `teacher_times`; scorers are those of `data.ranks`.
  """
  source = recipe.open_split(run.config, data.name)
  options = recipe.make_pipeline_options(run.config, 1, TEACHER in data.ranks)
  encoders = encoders_of(run.student)
  wanted = collections.defaultdict(list)
  for row, column in dict.fromkeys(pairs):
    wanted[data.video_ids[column]].append((row, column))
  row_of = {name: row for row, name in enumerate(data.caption_ids)}
  vectors = _caption_vectors(run, caption_blocks(source, options, _BLOCK), encoders.tokens, row_of, wanted)
  indices = [index for index in range(len(source)) if text(source[index]['video_id']) in wanted]
  indices.sort(key=lambda index: len(source[index]['student_frames']))  # Blocks of similar lengths.
  curves: dict[str, dict[Pair, np.ndarray]] = {name: {} for name in data.ranks}
  for block in video_blocks(source, options, _BLOCK, indices):
    for name, (frames, mask) in _frame_vectors(run, block, encoders).items():
      times = block.teacher_mask if name == TEACHER else block.mask
      for video, vectors_of_frames, real, at in zip(block.ids, frames, mask, times, strict=False):
        for pair in wanted[video]:  # A branch with fewer vectors than frames has each at several of them.
          curves[name][pair] = spread(vectors_of_frames[real] @ vectors[name][pair[0]], int(np.sum(at)))
  if FUSED in curves:
    for pair in dict.fromkeys(pairs):
      # The teacher may have other frames than the student.
      of_student = len(curves[next(name for name in data.weights if name != TEACHER)][pair])
      terms = (
        weight * spread(curves[name][pair], of_student) for name, weight in data.weights.items() if name in curves
      )
      curves[FUSED][pair] = sum(terms)
  return curves


def _caption_vectors(run, blocks, encode, row_of: Mapping[str, int], wanted) -> dict[str, dict[int, np.ndarray]]:
  """Returns scorer → row → unit vector, of the captions of wanted pairs."""
  rows = {row for some in wanted.values() for row, _ in some}
  found: dict[str, dict[int, np.ndarray]] = collections.defaultdict(dict)
  block: Block
  for block in blocks:
    vectors = dict(encode(run.params, block.features, block.mask))
    if block.teacher is not None:
      vectors[TEACHER] = block.teacher
    for name, array in vectors.items():
      for caption, vector in zip(block.ids, unit(array), strict=False):
        if (row := row_of[caption]) in rows:
          found[name][row] = vector
  return found


def _frame_vectors(run, block: Block, encoders: Encoders) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns scorer → unit vectors of a block's videos `[b, L_b, H]`, and which are real `[b, L_b]`."""
  frames = encoders.frames(run.params, block.features, block.mask)
  masks = encoders.masks(block.mask) if encoders.masks else dict.fromkeys(frames, block.mask)
  found = {name: (unit(x), np.asarray(masks[name])) for name, x in frames.items()}
  if block.teacher is not None:
    found[TEACHER] = (unit(block.teacher), block.teacher_mask)
  return found
