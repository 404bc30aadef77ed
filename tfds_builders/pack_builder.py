"""The builder that the three collections share; each adds its name and default features."""

from __future__ import annotations

import pathlib
from typing import Any, ClassVar

from tfds_builders import base_builder, errors, pack, release_layout
from tfds_builders.options import BuildOptions


class PackBuilder(base_builder.PrvrBuilder, skip_registration=True):
  """Builds one collection from a feature pack in the release's layout."""

  COLLECTION: ClassVar[str]
  DEFAULT_FEATURE: ClassVar[str]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'manual_dir must hold <collection>/TextData and <collection>/FeatureData, the feature packs in '
    "the layout of the method's release."
  )

  def __init__(self, *, options: BuildOptions | None = None, **kwargs: Any):
    """Opens the data set below `data_dir`, built or not.

    Args:
      options: what to build; the default options where it is None.
      **kwargs: of `tfds.core.DatasetBuilder`: data_dir, version.
    """
    self.options = options or BuildOptions()
    super().__init__(**kwargs)
    self._original_state['options'] = options  # So that a pickled builder keeps them.

  @property
  def feature(self) -> str:
    """The name of the student features."""
    return self.options.feature or self.DEFAULT_FEATURE

  def _requested(self) -> dict[str, Any]:
    return {**self.options.as_json(), 'feature': self.feature}

  def _open_source(self, manual_dir: pathlib.Path | None) -> pack.Pack:
    if manual_dir is None:
      raise errors.MissingFileError(
        f'{self.name}: no manual_dir given; pass --manual_dir=DIR, where '
        f'DIR/{self.COLLECTION}/TextData and DIR/{self.COLLECTION}/FeatureData are (in Python: '
        'download_config=tfds.download.DownloadConfig(manual_dir=DIR))'
      )
    return pack.Pack(manual_dir, self.COLLECTION, self.feature, self.options)

  def _source_files(self, manual_dir: pathlib.Path | None) -> dict[str, int] | None:
    if manual_dir is None or not (manual_dir / self.COLLECTION).is_dir():
      return None  # A pack may go once its set is built.
    files = release_layout.locate(manual_dir, self.COLLECTION, self.feature, self.options)
    return files.sizes(manual_dir)
