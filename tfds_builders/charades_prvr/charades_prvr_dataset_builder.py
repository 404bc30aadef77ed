"""Charades-STA for partially relevant video retrieval, from a feature pack."""

from tfds_builders import pack_builder


class Builder(pack_builder.PackBuilder):
  """Charades-STA: see README.md beside this file."""

  COLLECTION = 'charades'
  DEFAULT_FEATURE = 'i3d_rgb_lgi'
