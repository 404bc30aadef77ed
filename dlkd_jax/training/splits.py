"""The splits of the configured data set: opening them, their feature sizes, and what evaluates a student on one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from dlkd_jax.data.evaluation_blocks import EvaluationSplit
from dlkd_jax.data.sources import Lengths, open_lengths, open_source, split_names
from dlkd_jax.models.students import Student
from dlkd_jax.retrieval.evaluate import Evaluator, encoders_of
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


def lengths_of(config: ml_collections.ConfigDict, split: str, source) -> Lengths | None:
  """Returns the lengths of the records of an opened split, or None where the data set was built without them."""
  lengths = open_lengths(config.data.data_dir, config.data.dataset, split)
  return None if lengths is None else lengths.first(len(source))


def names(config: ml_collections.ConfigDict, wanted: Sequence[str]) -> list[str]:
  """Returns which of the wanted splits the configured data set has."""
  there = split_names(config.data.data_dir, config.data.dataset)
  return [split for split in wanted if split in there]


def feature_sizes(source) -> FeatureSizes:
  """Reads the feature sizes off the first record of a source."""
  record = source[0]
  return FeatureSizes(record['student_frames'].shape[-1], record['student_tokens'].shape[-1])


def make_evaluator(
  config: ml_collections.ConfigDict,
  student: Student,
  mesh: Mesh,
  split: str,
  *,
  teacher: bool = False,
  keep_scores: bool = False,
  again: bool = False,
) -> Evaluator:
  """Makes what evaluates a student's parameters on a split.

  Args:
    config: the configuration.
    student: the module to evaluate.
    mesh: devices to evaluate on, those of all processes.
    split: 'val', 'test' or 'train'.
    teacher: also score the teacher alone, where its features exist.
    keep_scores: keep all score matrices in the results.
    again: whether it is called more than once; the split then stays in memory, where it fits.
  """
  source = open_split(config, split)
  processes, devices = len({device.process_index for device in mesh.devices.flat}), mesh.local_mesh.size
  blocks = EvaluationSplit(
    source,
    recipe.make_pipeline_options(config, mesh.size, teacher),
    # Blocks divide over this process's devices.
    -(-config.evaluation.block_captions // devices) * devices,
    -(-config.evaluation.block_videos // devices) * devices,
    lengths=lengths_of(config, split, source),
    process=jax.process_index() if processes > 1 else 0,
    processes=processes,
    keep=again,
  )
  return Evaluator(encoders_of(student), blocks, recipe.make_evaluation_options(config, mesh, teacher, keep_scores))
