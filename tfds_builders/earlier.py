"""A finished version of a data set, and how a later version with other videos goes on from it.

The later version is a folder of its own that takes its name in one step. The files of the earlier one are linked into
it under their new names: their bytes are neither copied nor written again. Only a file that holds a video which is
replaced is written again, without it: its other records are copied byte by byte.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Collection, Iterator

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from tfds_builders.errors import MalformedFileError


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of records.

  Attributes:
    path: the file.
    records: how many it holds.
    dropped: positions of those that are left out.
  """

  path: pathlib.Path
  records: int
  dropped: tuple[int, ...] = ()

  @property
  def kept(self) -> int:
    """How many records stay."""
    return self.records - len(self.dropped)

  def examples(self) -> Iterator[bytes]:
    """Yields the records that stay, as they are stored.

    Raises:
      MalformedFileError: the file is damaged.
    """
    for position, record in _read(self.path):
      if position not in self.dropped:
        yield record


class EarlierVersion:
  """A finished set that is gone on from."""

  def __init__(self, folder: str | os.PathLike[str], without: Collection[str] = ()):
    """Opens the set in `folder`, which holds its dataset_info.json; records of the videos in `without` are left out."""
    self.folder = pathlib.Path(folder)
    self.info = tfds.builder_from_directory(str(self.folder.absolute())).info
    self._without = frozenset(without)
    self._shards: dict[str, list[Shard]] = {}

  def splits(self) -> list[str]:
    """Returns the names of its splits."""
    return list(self.info.splits)

  def shards(self, split: str) -> list[Shard]:
    """Returns the files of a split; none where it has no such split.

    Raises:
      MalformedFileError: records are to be left out, and a file is damaged.
    """
    if split not in self.info.splits:
      return []
    if split not in self._shards:
      info = self.info.splits[split]
      each = zip(map(pathlib.Path, info.filepaths), info.shard_lengths, strict=True)
      self._shards[split] = [Shard(path, count, self._positions(path)) for path, count in each]
    return self._shards[split]

  def dropped(self, split: str) -> set[int]:
    """Returns the positions in a split of the records that are left out."""
    found, start = set(), 0
    for shard in self.shards(split):
      found |= {start + position for position in shard.dropped}
      start += shard.records
    return found

  def _positions(self, path: pathlib.Path) -> tuple[int, ...]:
    if not self._without:
      return ()
    return tuple(position for position, record in _read(path) if _video(record) in self._without)


def _read(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
  """Yields position and bytes of each record of a file."""
  try:
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    try:
      for position in range(reader.num_records()):
        yield position, reader.read([position])[0]
    finally:
      reader.close()
  except (OSError, RuntimeError, ValueError, IndexError) as error:
    raise MalformedFileError(
      f'{path}: cannot be read ({" ".join(str(error).split())[:300]}); copy the data set again'
    ) from error


def _video(record: bytes) -> str:
  return tf_example_pb2.Example.FromString(record).features.feature['video_id'].bytes_list.value[0].decode()


def link(old: pathlib.Path, new: pathlib.Path) -> None:
  """Gives a file a second name; copies it where the file system has no links."""
  try:
    os.link(old, new)
  except OSError:
    shutil.copy2(old, new)


def versions(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the finished versions in the folder of a data set, the oldest first."""
  found = []
  for info in folder.glob('*.*.*/dataset_info.json'):
    parts = info.parent.name.split('.')
    if len(parts) == 3 and all(part.isdigit() for part in parts):
      found.append((tuple(map(int, parts)), info.parent))
  return [path for _, path in sorted(found)]
