"""ActivityNet Captions for partially relevant video retrieval, from a feature pack."""

from tfds_builders import pack_builder


class Builder(pack_builder.PackBuilder):
  """ActivityNet Captions: see README.md beside this file."""

  COLLECTION = 'activitynet'
  DEFAULT_FEATURE = 'i3d'
