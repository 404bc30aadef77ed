"""The data sets of which features are published in the release's layout: one row of a table each.

A set of your own is one more row, in a file of yours that builds it, too (`python my_set.py mine --manual_dir=…`):

    import sys
    from tfds_builders import build, packs

    packs.add(packs.Collection('mine', 'i3d', 'What it holds.'))
    if __name__ == '__main__':
      sys.exit(build.main())
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
from typing import Any, ClassVar

from tensorflow_datasets.core import dataset_metadata

from tfds_builders.base_builder import PrvrBuilder
from tfds_builders.errors import MissingFileError, PackError
from tfds_builders.options import BuildOptions
from tfds_builders.pack_source import PackSource
from tfds_builders.release_layout import locate


@dataclasses.dataclass(frozen=True)
class Collection:
  """A data set in the release's layout.

  Attributes:
    name: of its folder in a pack; the data set is called `<name>_prvr`.
    feature: the student features that are taken by default, a name below FeatureData.
    about: what it holds.
    cited: what to cite for it, besides the task and its method: entries of CITATIONS.bib.
  """

  name: str
  feature: str
  about: str
  cited: tuple[str, ...] = ()


class PackBuilder(PrvrBuilder, skip_registration=True):
  """Builds one collection from a feature pack."""

  COLLECTION: ClassVar[Collection]
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

  @classmethod
  def get_metadata(cls) -> dataset_metadata.DatasetMetadata:
    """Returns what TFDS keeps with the data set: what it holds and what to cite."""
    row = cls.COLLECTION
    return dataset_metadata.DatasetMetadata(row.about, cls.citations(*row.cited), tags=[])

  @property
  def feature(self) -> str:
    """The name of the student features."""
    return self.options.feature or self.COLLECTION.feature

  def _requested(self) -> dict[str, Any]:
    return {**self.options.as_json(), 'feature': self.feature}

  def _open_source(self, manual_dir: pathlib.Path | None) -> PackSource:
    name = self.COLLECTION.name
    if manual_dir is None:
      raise MissingFileError(
        f'{self.name}: no manual_dir given; pass --manual_dir=DIR, where DIR/{name}/TextData and '
        f'DIR/{name}/FeatureData are (in Python: download_config=tfds.download.DownloadConfig(manual_dir=DIR))'
      )
    return PackSource(manual_dir, name, self.feature, self.options)

  def _source_files(self, manual_dir: pathlib.Path | None) -> dict[str, int] | None:
    if manual_dir is None or not (manual_dir / self.COLLECTION.name).is_dir():
      return None  # A pack may go once its set is built.
    return locate(manual_dir, self.COLLECTION.name, self.feature, self.options).sizes(manual_dir)


PACKS: dict[str, type[PackBuilder]] = {}


def add(row: Collection) -> type[PackBuilder]:
  """Adds a row to the table: TFDS knows `<name>_prvr` from now on, and the command line the collection.

  Returns:
    The class of its builder, as `TvrPrvr`, which is an attribute of this module, too.

  Raises:
    PackError: there is a data set of that name, or it can be no name.
  """
  if not re.fullmatch(r'[a-z][a-z0-9_]*', row.name):
    raise PackError(f'a collection is called {row.name!r}; expected small letters, digits and _, as my_set')
  name = f'{row.name.title().replace("_", "")}Prvr'
  try:
    # TFDS needs a class each; a builder that is pickled is found by its module and name.
    builder = type(name, (PackBuilder,), {'__doc__': row.about, '__module__': __name__, 'COLLECTION': row})
  except ValueError as error:
    raise PackError(f'there is a collection {row.name!r} already ({error}); choose another name') from error
  setattr(sys.modules[__name__], name, builder)
  PACKS[row.name] = builder
  return builder


for _row in (
  Collection(
    'tvr',
    'i3d_resnet',
    'TV show Retrieval: 21,793 clips of six TV shows, each with five queries. Videos come without subtitles: the '
    'queries were written for video and dialogue, and only the video is searched.',
    ('lei2020tvr',),
  ),
  Collection(
    'activitynet',
    'i3d',
    'ActivityNet Captions: long videos of human activities, each with several sentences, one for each of its moments.',
    ('krishna2017dense',),
  ),
  Collection(
    'charades',
    'i3d_rgb_lgi',
    'Charades-STA: scripted activities at home, about half a minute long; sentences with the moment that each '
    'describes.',
    ('gao2017tall', 'sigurdsson2016hollywood'),
  ),
  Collection(
    'composites',
    'efficientnet_lite0',
    'Untrimmed videos whose moments are known exactly: each is some short clips, one after another, and has their '
    'sentences.',
    ('xu2016msrvtt',),
  ),
):
  add(_row)
