"""TVR for partially relevant video retrieval, from a feature pack."""

from tfds_builders import pack_builder


class Builder(pack_builder.PackBuilder):
  """TVR: see README.md beside this file."""

  COLLECTION = 'tvr'
  DEFAULT_FEATURE = 'i3d_resnet'
