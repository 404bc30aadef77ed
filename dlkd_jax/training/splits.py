"""The splits of the configured data set: opening them, their feature sizes, and evaluating a student on one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from dlkd_jax.data.evaluation_blocks import caption_blocks, video_blocks
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.data.sources import Lengths, open_lengths, open_source, split_names
from dlkd_jax.models.student import Student
from dlkd_jax.retrieval.evaluation import EvaluationResult
from dlkd_jax.retrieval.evaluator import Evaluator
from dlkd_jax.training import recipe


class FeatureSizes(NamedTuple):
  """Feature sizes of a data set: Dv of student frames and Dq of student tokens."""

  frames: int
  tokens: int


class _First(Sequence):
  """The first so many records of a source."""

  def __init__(self, source, count: int):
    self._source, self._count = source, min(count, len(source))

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int):
    if not 0 <= index < self._count:
      raise IndexError(index)
    return self._source[index]


def open_split(config: ml_collections.ConfigDict, split: str):
  """Opens a split of the configured data set, cut to `config.data.max_videos` where that is set.

  Raises:
    FileNotFoundError: the data set was not built; the message says how.
  """
  source = open_source(config.data.data_dir, config.data.dataset, split)
  return source if config.data.max_videos is None else _First(source, config.data.max_videos)


def names(config: ml_collections.ConfigDict, wanted: Sequence[str]) -> list[str]:
  """Returns which of the wanted splits the configured data set has."""
  there = split_names(config.data.data_dir, config.data.dataset)
  return [split for split in wanted if split in there]


def feature_sizes(source) -> FeatureSizes:
  """Reads the feature sizes off the first record of a source."""
  record = source[0]
  return FeatureSizes(record['student_frames'].shape[-1], record['student_tokens'].shape[-1])


def gallery_order(
  lengths: Lengths | None, videos: int, options: PipelineOptions, block: int, process: int, processes: int
) -> np.ndarray:
  """Chooses which videos a process encodes, and in which order.

  Longest first, so that the videos of a block are of similar length and little is padding. Blocks are dealt to the
  processes in turn, so that all have about as many of every length.

  Args:
    lengths: of the split's records; None: they are taken in their own order.
    videos: in the split.
    options: the limit of frames, and whether the teacher's count too.
    block: videos in a block.
    process: index of this process.
    processes: how many there are.

  Returns:
    Records of this process, `block` after `block`.
  """
  order = np.arange(videos)
  if lengths is not None:
    frames = np.maximum(lengths.student, lengths.teacher) if options.teacher else lengths.student
    order = np.argsort(-np.minimum(frames, options.max_frames), kind='stable')
  mine = [order[start : start + block] for start in range(process * block, videos, processes * block)]
  return np.concatenate([*mine, np.zeros(0, np.int64)])


class SplitEvaluator:
  """Evaluates parameters on one split; compiled once, called after every epoch."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    student: Student,
    mesh: Mesh,
    split: str,
    teacher: bool = False,
    keep_scores: bool = False,
  ):
    """Opens the split.

    Args:
      config: the configuration.
      student: the module to evaluate.
      mesh: devices to evaluate on, those of all processes.
      split: 'val', 'test' or 'train'.
      teacher: also score the teacher alone, where its features exist.
      keep_scores: keep all score matrices in the results.
    """
    self._source = source = open_split(config, split)
    options = recipe.make_pipeline_options(config, mesh.size, teacher)
    lengths = open_lengths(config.data.data_dir, config.data.dataset, split)
    lengths = None if lengths is None else lengths.first(len(source))
    processes = len({device.process_index for device in mesh.devices.flat})
    process = jax.process_index() if processes > 1 else 0
    devices = mesh.local_mesh.size
    block = lambda size: -(-size // devices) * devices  # noqa: E731 - blocks divide over this process's devices
    block_captions, block_videos = block(config.evaluation.block_captions), block(config.evaluation.block_videos)
    order = gallery_order(lengths, len(source), options, block_videos, process, processes)
    share = range(process, len(source), processes)
    self._captions = functools.partial(caption_blocks, source, options, block_captions, share)
    self._videos = functools.partial(video_blocks, source, options, block_videos, order)
    self._evaluator = Evaluator(student, recipe.make_evaluation_options(config, mesh, teacher, keep_scores))

  def __call__(self, params: Any, should_stop: Callable[[], bool] | None = None) -> EvaluationResult:
    """Evaluates the parameters on the whole split; all processes of the mesh call it together.

    Args:
      params: the parameters.
      should_stop: polled between blocks; see `dlkd_jax.retrieval.evaluation.evaluate`.

    Raises:
      Stopped: `should_stop` returned true, in this process or in another.
    """
    return self._evaluator(params, self._captions, self._videos, len(self._source), should_stop)
