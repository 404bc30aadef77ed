"""The splits of the configured data set: opening them, their feature sizes, and evaluating a student on one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
from jax.sharding import Mesh

from dlkd_jax.data.evaluation_blocks import caption_blocks, video_blocks
from dlkd_jax.data.sources import open_source, split_names
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


class SplitEvaluator:
  """Evaluates parameters on one split; compiled once, called after every epoch."""

  def __init__(self, config: ml_collections.ConfigDict, student: Student, mesh: Mesh, split: str, teacher=False):
    """Opens the split.

    Args:
      config: the configuration.
      student: the module to evaluate.
      mesh: devices to evaluate on.
      split: 'val', 'test' or 'train'.
      teacher: also score the teacher alone, where its features exist.
    """
    self._source = open_split(config, split)
    options = recipe.make_pipeline_options(config, mesh.size, teacher)
    block = lambda size: -(-size // mesh.size) * mesh.size  # noqa: E731 - blocks divide over the devices
    self._captions = functools.partial(caption_blocks, self._source, options, block(config.evaluation.block_captions))
    self._videos = functools.partial(video_blocks, self._source, options, block(config.evaluation.block_videos))
    self._evaluator = Evaluator(student, recipe.make_evaluation_options(config, mesh, teacher))

  def __call__(self, params: Any) -> EvaluationResult:
    """Evaluates the parameters on the whole split."""
    return self._evaluator(params, self._captions, self._videos, len(self._source))
