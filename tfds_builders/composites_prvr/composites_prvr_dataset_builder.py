"""Composite untrimmed videos for partially relevant video retrieval, from a feature pack."""

from tfds_builders import pack_builder


class Builder(pack_builder.PackBuilder):
  """Composites: see README.md beside this file."""

  COLLECTION = 'composites'
  DEFAULT_FEATURE = 'efficientnet_lite0'
