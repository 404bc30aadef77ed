"""A finished version of a data set, and how a later version with more videos goes on from it.

The later version is a folder of its own that takes its name in one step. The files of the earlier one are linked into
it under their new names: their bytes are neither copied nor written again.
"""

from __future__ import annotations

import os
import pathlib
import shutil

import tensorflow_datasets as tfds

from tfds_builders import lengths, records


class EarlierVersion:
  """A finished set that is gone on from."""

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens the set in `folder`, which holds its dataset_info.json."""
    self.folder = pathlib.Path(folder)
    self.info = tfds.builder_from_directory(str(folder)).info

  def splits(self) -> list[str]:
    """Returns the names of its splits."""
    return list(self.info.splits)

  def shards(self, split: str) -> tuple[list[pathlib.Path], list[int]]:
    """Returns the files of a split and the records of each; nothing where it has no such split."""
    if split not in self.info.splits:
      return [], []
    info = self.info.splits[split]
    return [pathlib.Path(path) for path in info.filepaths], list(info.shard_lengths)

  def continue_from(self, split: str, counts: records.SplitCounts, noted: lengths.SplitLengths) -> None:
    """Puts the counts and lengths of a split before those that are to come."""
    counts.continue_from(dict(self.info.metadata['splits'][split]))
    noted.continue_from(self.folder, split)


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
