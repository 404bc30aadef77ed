"""Data sets for partially relevant video retrieval, built and read with TFDS, without TensorFlow.

Importing this package registers tvr_prvr, activitynet_prvr, charades_prvr and composites_prvr (from feature packs),
custom_prvr (from videos) and synthetic_prvr (generated), so that `tfds.builder('charades_prvr', data_dir=…)` finds
them.
"""

from tfds_builders.activitynet_prvr.activitynet_prvr_dataset_builder import (
  Builder as ActivitynetPrvr,
)
from tfds_builders.charades_prvr.charades_prvr_dataset_builder import Builder as CharadesPrvr
from tfds_builders.composites_prvr.composites_prvr_dataset_builder import Builder as CompositesPrvr
from tfds_builders.custom_prvr.custom_prvr_dataset_builder import Builder as CustomPrvr
from tfds_builders.errors import PackError
from tfds_builders.options import BuildOptions
from tfds_builders.synthetic_prvr.synthetic_prvr_dataset_builder import Builder as SyntheticPrvr
from tfds_builders.tvr_prvr.tvr_prvr_dataset_builder import Builder as TvrPrvr

__all__ = [
  'ActivitynetPrvr',
  'BuildOptions',
  'CharadesPrvr',
  'CompositesPrvr',
  'CustomPrvr',
  'PackError',
  'SyntheticPrvr',
  'TvrPrvr',
]
