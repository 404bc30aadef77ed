"""Anybody's own videos as a data set for partially relevant video retrieval."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Collection
from typing import Any

import tensorflow_datasets as tfds

from dlkd_jax import files
from tfds_builders.base_builder import PrvrBuilder
from tfds_builders.custom_prvr.extracted import Extracted
from tfds_builders.earlier import EarlierVersion, versions
from tfds_builders.errors import EmptyError, MalformedFileError, MissingFileError
from tfds_builders.options import BuildOptions

PACKED = 'videos.json'


class Builder(PrvrBuilder):
  """Packs extracted features: see README.md beside this file.

  A set with N additions has version 1.0.N; the newest is opened. Where the extraction holds videos that the newest
  version lacks, or that are to be taken anew, the builder stands for the next version, which is not built yet.
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = 'extracted is the folder that `dlkd extract` leaves beside a data set.'

  def __init__(
    self,
    *,
    options: BuildOptions | None = None,
    extracted: pathlib.Path | str | None = None,
    update: bool | Collection[str] = (),
    without: Collection[str] = (),
    **kwargs: Any,
  ):
    """Opens the newest version below `data_dir`, or the one that adds what is new in `extracted`.

    Args:
      options: dtype and num_shards (files of the videos that are added) are used; the defaults where it is None.
      extracted: the folder of an extraction; None opens the newest version.
      update: videos whose records are written anew where `extracted` holds others of them; True: all.
      without: videos of `extracted` that are left alone.
      **kwargs: of `tfds.core.DatasetBuilder`: data_dir, version.

    Raises:
      PackError: the folder is damaged.
    """
    self.options = options or BuildOptions()
    self._update, self._without = update, frozenset(without)
    self._extracted = None if extracted is None else pathlib.Path(extracted)
    self._before: EarlierVersion | None = None
    self._source: Extracted | None = None
    self._asked_dir = kwargs.get('data_dir')
    super().__init__(**kwargs)
    # So that a pickled builder keeps them.
    self._original_state |= {'options': options, 'extracted': extracted, 'update': update, 'without': without}

  def _pick_version(self, requested_version: tfds.core.Version | str | None) -> tfds.core.Version:
    self.VERSION = self._find_version(requested_version)  # TFDS builds no other version than this.
    return self.VERSION

  def _find_version(self, requested_version: tfds.core.Version | str | None) -> tfds.core.Version:
    folder = pathlib.Path(self._asked_dir or tfds.core.constants.DATA_DIR).expanduser() / self.name
    there = versions(folder)
    if requested_version is not None:
      return tfds.core.Version(str(requested_version))
    if self._extracted is None:
      return tfds.core.Version(there[-1].name) if there else self.VERSION
    if not there:
      self._source = Extracted(self._extracted, without=self._without)
      return self.VERSION
    newest_there = EarlierVersion(there[-1])
    splits, starts = newest_there.splits(), 'start' in newest_there.info.features
    self._source = Extracted(self._extracted, packed_videos(there[-1]), splits, self._update, starts, self._without)
    if not self._source.digests:
      return tfds.core.Version(there[-1].name)
    self._before = EarlierVersion(there[-1], without=self._source.replaced)
    major, minor, patch = map(int, there[-1].name.split('.'))
    return tfds.core.Version(f'{major}.{minor}.{patch + 1}')

  def _earlier(self) -> EarlierVersion | None:
    return self._before

  def _requested(self) -> dict[str, Any]:
    made_with = self._source.options if self._source else dict(self.info.metadata.get('options', {}))
    return {**made_with, 'dtype': self.options.dtype}

  def _open_source(self, manual_dir: pathlib.Path | None) -> Extracted:
    del manual_dir
    if self._source is None:
      raise MissingFileError(
        f'{self.name}: nothing to build from; give `extracted`, on the command line '
        '--manual_dir: the folder that `dlkd extract` left'
      )
    if not self._source.digests:
      raise EmptyError(f'{self._extracted}: holds no videos; the report.json there says why')
    if self._before is not None:
      self._check_like(self._before.info, None)
    return self._source

  def _download_and_prepare(self, dl_manager: Any, download_config: tfds.download.DownloadConfig) -> None:
    super()._download_and_prepare(dl_manager, download_config)
    packed = packed_videos(self._before.folder) if self._before else {}
    text = json.dumps({**packed, **self._source.digests}, indent=0)
    files.write_text(pathlib.Path(self.data_dir) / PACKED, text)


def packed_videos(folder: pathlib.Path) -> dict[str, str]:
  """Returns video → digest of all that a finished version in `folder` holds.

  Raises:
    MalformedFileError: the file that says it is absent or damaged.
  """
  path = folder / PACKED
  try:
    return dict(json.loads(path.read_text(encoding='utf-8')))
  except (OSError, ValueError, TypeError) as error:
    raise MalformedFileError(f'{path}: cannot be read ({error}); copy the data set again') from error


def newest(data_dir: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the newest finished version below `data_dir`; None where there is none."""
  there = versions(pathlib.Path(data_dir) / 'custom_prvr')
  return there[-1] if there else None
