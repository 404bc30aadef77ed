"""A generated data set for partially relevant video retrieval."""

from __future__ import annotations

import pathlib
from typing import Any, ClassVar

from tfds_builders.base_builder import PrvrBuilder
from tfds_builders.options import BuildOptions
from tfds_builders.synthetic_prvr.config import DEMO, SMALL
from tfds_builders.synthetic_prvr.world import World


class Builder(PrvrBuilder):
  """Generates videos, captions and a teacher: see README.md beside this file."""

  BUILDER_CONFIGS: ClassVar = [SMALL, DEMO]

  def __init__(self, *, options: BuildOptions | None = None, **kwargs: Any):
    """Opens the data set below `data_dir`, built or not.

    Args:
      options: dtype, num_shards and teacher of it are used; the defaults where it is None.
      **kwargs: of `tfds.core.DatasetBuilder`: data_dir, config (a name or a `SyntheticConfig`).
    """
    self.options = options or BuildOptions()
    super().__init__(**kwargs)
    self._original_state['options'] = options  # So that a pickled builder keeps them.

  def _requested(self) -> dict[str, Any]:
    options = self.options
    return {
      'dtype': options.dtype,
      'num_shards': options.num_shards,
      'teacher': options.teacher,
      **self.builder_config.options(),
    }

  def _open_source(self, manual_dir: pathlib.Path | None) -> World:
    del manual_dir
    return World(self.builder_config, teacher=self.options.teacher)
