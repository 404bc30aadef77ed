"""Data sets for partially relevant video retrieval, built and read with TFDS, without TensorFlow.

Importing this package registers the collections of `packs` (tvr_prvr, activitynet_prvr, charades_prvr and
composites_prvr, from feature packs), custom_prvr (from videos) and synthetic_prvr (generated), so that
`tfds.builder('charades_prvr', data_dir=…)` finds them.
"""

from tfds_builders.custom_prvr.custom_prvr_dataset_builder import Builder as CustomPrvr
from tfds_builders.errors import PackError
from tfds_builders.options import BuildOptions
from tfds_builders.packs import PACKS
from tfds_builders.synthetic_prvr.synthetic_prvr_dataset_builder import Builder as SyntheticPrvr

TvrPrvr, ActivitynetPrvr, CharadesPrvr, CompositesPrvr = PACKS.values()

__all__ = [
  'PACKS',
  'ActivitynetPrvr',
  'BuildOptions',
  'CharadesPrvr',
  'CompositesPrvr',
  'CustomPrvr',
  'PackError',
  'SyntheticPrvr',
  'TvrPrvr',
]
