"""What all builders here share: streaming writes, finished or absent, reuse or refusal."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module
from tensorflow_datasets.core import dataset_metadata, example_serializer

from dlkd_jax import begun, files
from dlkd_jax.progress import Progress
from tfds_builders.earlier import EarlierVersion, link
from tfds_builders.errors import BuiltDifferentlyError, BusyError
from tfds_builders.lengths import SplitLengths
from tfds_builders.options import BuildOptions
from tfds_builders.records import Source, choose_num_shards, schema, store

_RECORD_VERSION = 1


class PrvrBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
  """Writes the records of a source as sharded array_record, one video after another.

  Beside the records of each split lies a small file of their lengths (`tfds_builders.lengths`).

  Feature sizes come from the data: before a set is built, `info.features` is None; of a built one,
  it is what was written. `info.metadata` holds `sizes` (Dv, Dq, Dt), `dtype`, `splits` (counts),
  `options` and `source`.
  """

  VERSION = tfds.core.Version('1.0.0')
  options = BuildOptions()  # Of a builder that takes none.

  def __init__(self, *, file_format: str | None = None, **kwargs: Any):
    """Opens the data set below `data_dir`, built or not.

    Args:
      file_format: 'array_record', the only one, and the default.
      **kwargs: of `tfds.core.DatasetBuilder`: data_dir, config, version.
    """
    super().__init__(file_format=file_format or 'array_record', **kwargs)

  @abc.abstractmethod
  def _open_source(self, manual_dir: pathlib.Path | None) -> Source:
    """Returns the source of the records; raises PackError where it is bad."""

  @abc.abstractmethod
  def _requested(self) -> dict[str, Any]:
    """Returns every option that changes what is written, as plain values: dtype, num_shards, …"""

  def _source_files(self, manual_dir: pathlib.Path | None) -> dict[str, int] | None:
    """Returns the files that would be read, with their bytes; None where that is not known."""
    del manual_dir

  @staticmethod
  def citations(*keys: str) -> str:
    """Returns entries of CITATIONS.bib, and those of the task and its method."""
    path = pathlib.Path(__file__).with_name('CITATIONS.bib')
    entries = {re.search(r'{(.+?),', each)[1]: each for each in path.read_text(encoding='utf-8').strip().split('\n\n')}
    return '\n\n'.join(entries[key] for key in (*keys, 'dong2022partially', 'dong2023dual'))

  @classmethod
  def get_metadata(cls) -> dataset_metadata.DatasetMetadata:
    """Returns what TFDS keeps with the data set: the README beside the builder and what to cite."""
    return dataclasses.replace(super().get_metadata(), citation=cls.citations())

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(metadata=tfds.core.MetadataDict(), disable_shuffling=True)

  def download_and_prepare(
    self,
    *,
    download_config: tfds.download.DownloadConfig | None = None,
    **kwargs: Any,
  ) -> None:
    """Builds the set, or finds it finished.

    A set is written into a temporary folder that takes its name in one step at the end, so what
    has the name is finished. Temporary folders of killed builds are removed first.

    Args:
      download_config: `manual_dir` in it holds the feature packs.
      **kwargs: of `tfds.core.DatasetBuilder.download_and_prepare`; a `download_dir` is of no use.

    Raises:
      PackError: the pack is bad, another process builds here, or the folder holds a set that was
        made from other options or files.
    """
    kwargs.pop('download_dir', None)
    download_config = download_config or tfds.download.DownloadConfig()
    manual_dir = pathlib.Path(download_config.manual_dir) if download_config.manual_dir else None
    if self._is_there(manual_dir, download_config):  # Also in a folder that can only be read.
      return
    with only_builder(pathlib.Path(self.data_path).parent):
      self._remove_leftovers()
      if self._is_there(manual_dir, download_config):
        return
      # TFDS makes its download folder even where nothing is downloaded.
      with tempfile.TemporaryDirectory() as nowhere:
        super().download_and_prepare(download_dir=nowhere, download_config=download_config, **kwargs)
      self._sync()
      files.sync(pathlib.Path(self.data_path).parent)

  def _is_there(self, manual_dir: pathlib.Path | None, download_config: tfds.download.DownloadConfig) -> bool:
    """Whether the set is finished; errors of `check_same`."""
    if not self.data_path.exists() or download_config.download_mode.overwrite_dataset:
      return False
    self.check_same(manual_dir)
    logging.info('Found finished data set %s', self.data_dir)
    return True

  def is_built(self) -> bool:
    """Returns whether the folder holds a finished set."""
    return self.data_path.exists()

  def describe(self) -> str:
    """Returns sizes, splits and how to open a built set, for a terminal."""
    metadata = dict(self.info.metadata.items())
    sizes = metadata['sizes']
    teacher = f'Dt {sizes["Dt"]}' if sizes['Dt'] is not None else 'no teacher'
    lines = [f'  features  Dv {sizes["Dv"]}, Dq {sizes["Dq"]}, {teacher}; {metadata["dtype"]}']
    for split, info in self.info.splits.items():
      counts = metadata['splits'][split]
      untaught = '' if counts['teacher'] or sizes['Dt'] is None else ', no teacher features'
      lines.append(
        f'  {split:<9} {counts["videos"]:,} videos, {counts["captions"]:,} captions, '
        f'{counts["frames"]:,} frames ({counts["max_frames"]} at most), '
        f'{counts["max_tokens"]} tokens at most{untaught}; '
        f'{info.num_shards} files, {info.num_bytes / 2**20:,.1f} MiB'
      )
    lines.append(f"  open it   tfds.builder_from_directory('{self.data_dir}')")
    return '\n'.join(lines)

  def check_same(self, manual_dir: pathlib.Path | None) -> None:
    """Checks that the finished set is what this builder would write.

    Args:
      manual_dir: where the packs are; None compares the options only.

    Raises:
      BuiltDifferentlyError: it is not; the message says where the two differ.
    """
    self._check_like(self.info, manual_dir)

  def _check_like(self, info: tfds.core.DatasetInfo, manual_dir: pathlib.Path | None) -> None:
    """Checks that the finished set of `info` was made as this builder would; arguments and errors of `check_same`."""
    built = json.loads(json.dumps(dict(info.metadata.items())))
    differences = begun.differences(begun.given(built.get('options', {})), begun.given(self._requested()))
    read = self._source_files(manual_dir)
    if read is not None:
      before = built.get('source', {}).get('files', {})
      differences += [f'bytes of {text}' for text in begun.differences(before, read)]
    if differences:
      raise BuiltDifferentlyError(
        f'{self.data_dir}: {self.name} is already built here, but differently (there → here): '
        f'{"; ".join(differences[:6])}. Ask for the same, choose another --data_dir, or remove the '
        'folder to build it anew'
      )

  def _remove_leftovers(self) -> None:
    path = pathlib.Path(self.data_path)
    for leftover in path.parent.glob(f'incomplete.*_{path.name}'):
      logging.warning('Removing what an interrupted build left: %s', leftover)
      shutil.rmtree(leftover, ignore_errors=True)

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig,
  ) -> None:
    # The inherited form keeps all examples of a shard in memory until the shard is closed.
    manual_dir = pathlib.Path(download_config.manual_dir) if download_config.manual_dir else None
    del dl_manager
    source = self._open_source(manual_dir)
    sizes, dtype = source.sizes(), np.dtype(self._requested()['dtype'])
    # There is no public way to set features that only the data tells.
    self.info._features = schema(sizes, dtype)
    written = self._write_splits(source, dtype)
    self.info.set_splits(tfds.core.SplitDict([split for split, _ in written]))
    self.info.metadata.update(
      record_version=_RECORD_VERSION,
      sizes=sizes.as_json(),
      dtype=dtype.name,
      options=self._requested(),
      source=source.description(),
      splits={split.name: noted.counts() for split, noted in written},
    )

    self._sync()  # Before the folder takes its name.

  def _sync(self) -> None:
    """Waits until all files are on the disk."""
    folder = pathlib.Path(self.data_dir)
    for path in (*folder.iterdir(), folder):
      files.sync(path)

  def _earlier(self) -> EarlierVersion | None:
    """Returns a finished version of this set that the one to be written goes on from; None: it starts anew."""
    return None

  def _write_splits(self, source: Source, dtype: np.dtype) -> list[tuple[tfds.core.SplitInfo, SplitLengths]]:
    """Writes all splits; returns what TFDS notes of each, and the lengths of its records."""
    with Progress(sum(map(len, source.videos().values())), 'videos') as bar:
      written = [self._write_split(source, split, dtype, bar) for split in source.videos()]
    # A split whose only videos went to another is none any more.
    return [(info, noted) for info, noted in written if info.num_examples or self._earlier() is None]

  def _write_split(
    self, source: Source, split: str, dtype: np.dtype, bar: Progress
  ) -> tuple[tfds.core.SplitInfo, SplitLengths]:
    """Writes the videos of one split behind those of an earlier version, where there is one."""
    features, videos = self.info.features, source.videos()[split]
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    noted = SplitLengths()

    def examples(names: Sequence[str]) -> Iterator[bytes]:
      for video in names:
        record = store(source.record(split, video), dtype)
        noted.add(record)
        yield serializer.serialize_example(features.encode_example(record))
        bar.step(split)

    before = self._earlier()
    old = [shard for shard in before.shards(split) if shard.kept] if before else []
    if before and before.shards(split):
      noted.continue_from(before.folder, split, before.dropped(split))
    asked = self.options.num_shards
    fewest = {'fewest': 1} if old else {}
    more = min(asked, len(videos)) if asked else choose_num_shards(source, split, dtype, **fewest)
    template = self._get_filename_template(split_name=split)
    total = len(old) + more
    paths = [pathlib.Path(template.sharded_filepath(shard_index=i, num_shards=total)) for i in range(total)]
    for shard, path in zip(old, paths, strict=False):
      if shard.dropped:
        _write_shard(path, shard.examples())
      else:
        link(shard.path, path)
    borders = [round(shard * len(videos) / more) for shard in range(more + 1)] if more else []
    for path, (start, end) in zip(paths[len(old) :], itertools.pairwise(borders), strict=True):
      _write_shard(path, examples(videos[start:end]))
    if paths:
      noted.write(self.data_dir, split)
    info = tfds.core.SplitInfo(
      name=split,
      shard_lengths=[*(shard.kept for shard in old), *(end - start for start, end in itertools.pairwise(borders))],
      num_bytes=sum(path.stat().st_size for path in paths),
      filename_template=template,
    )
    return info, noted

  def _log_download_bytes(self) -> None:
    logging.info('Building %s in %s', self.name, self.data_dir)  # Nothing is downloaded.

  def _log_download_done(self) -> None:
    logging.info('Built %s in %s', self.name, self.data_dir)

  def _shard_iterators_per_split(self, dl_manager):
    raise NotImplementedError('records are written by _write_splits')


def _write_shard(path: os.PathLike[str], examples: Iterator[bytes]) -> None:
  """Writes serialised examples to one array_record file, a record a chunk, so that any of them is read alone.

  They are not compressed, which TFDS would do: features are noise to a compressor, which saves 9% of the room and
  takes two thirds of the time of reading.

  Raises:
    OSError: it cannot be written, as where the disk is full.
  """
  try:
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), 'group_size:1,uncompressed')
    try:
      for example in examples:
        writer.write(example)
    finally:
      writer.close()
  except RuntimeError as error:
    if os.fspath(path) not in str(error):  # It is not the library's, which names the file.
      raise
    raise OSError(f'{path}: cannot be written ({" ".join(str(error).split())[:300]})') from error


@contextlib.contextmanager
def only_builder(folder: pathlib.Path) -> Iterator[None]:
  """Holds a lock on a folder, so that nobody removes the temporary folder of a live build."""
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.build.lock').open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise BusyError(
        f'{folder}: another process is building here; wait for it or choose another --data_dir'
      ) from error
    yield
