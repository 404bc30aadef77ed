"""Where records come from: a built data set on disk, opened for random access.

A source is any object with `__len__` and `__getitem__` that gives the record of a video as a dictionary of numpy
arrays; a TFDS data source is one, a list is another. A record holds

| feature | shape | |
|---|---|---|
| video_id | | text |
| student_frames | `[n, Dv]` | as extracted: neither resampled nor normalised |
| teacher_frames | `[m, Dt]` | m may differ from n; absent, or 0 rows, without a teacher |
| teacher_pixels | `[m, S, S, 3]` uint8 | the pictures that the teacher made `teacher_frames` of; mostly absent |
| student_tokens | `[sum(token_lengths), Dq]` | tokens of all captions, one after another, not cut |
| token_lengths | `[k]` | tokens of each caption |
| teacher_text | `[k, Dt]` | absent, or 0 rows, without a teacher |
| captions, caption_ids | `[k]` | texts |
| moments | `[k, 2]` | start and end in seconds, NaN where unknown |
| duration | | seconds, NaN where unknown |
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from dlkd_jax.data import transforms
from dlkd_jax.errors import UserError
from dlkd_jax.files import expand

Record = dict[str, Any]

_VERSION = re.compile(r'\d+\.\d+\.\d+')


class Source(Protocol):
  """Records of videos by their position."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


def open_source(data_dir: str | os.PathLike[str], name: str, split: str) -> Source:
  """Opens one split of a data set that was built under `data_dir`, without TensorFlow.

  Args:
    data_dir: the folder that data sets were built in.
    name: the data set, as `charades_prvr`, or as `synthetic_prvr/small` where it has several configurations, or
      with a version as `charades_prvr/1.0.0`. The latest version is taken where none is named.
    split: train, val or test.

  Returns:
    A source with one record a video.

  Raises:
    FileNotFoundError: no finished data set of that name lies there, or files of the split are absent.
    ValueError: several configurations lie there, or the set has no such split, or the split is empty.
  """
  builder, folder = open_set(data_dir, name, split)
  info = builder.info.splits[split]
  files = [pathlib.Path(path) for path in info.filepaths]
  absent = [str(path) for path in files if not path.is_file()]
  if absent:
    raise FileNotFoundError(
      f'{len(absent)} of the {len(files)} files of split {split!r} are absent: {", ".join(absent[:3])}; copy them '
      f'back, or remove {folder} and build it again with {_command(name)}'
    )
  source = builder.as_data_source(split)
  if len(source) == 0:
    raise UserError(f'split {split!r} of {folder} has no videos; build it again with {_command(name)}')
  return BuiltSource(source, files, info.shard_lengths)


class BuiltSource:
  """One split of a built data set; a record that cannot be read is reported with its file.

  array_record keeps hashes of its records, so that changed bytes are found when the record is read.
  """

  def __init__(self, source: Source, files: Sequence[pathlib.Path], counts: Sequence[int]):
    """Wraps a TFDS data source.

    Args:
      source: the data source.
      files: its files, in order.
      counts: records of each.
    """
    self._source, self._files, self._ends = source, list(files), list(itertools.accumulate(counts))

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    """Reads one record.

    Raises:
      IndexError: there is no such record.
      DamagedFileError: the record cannot be read.
    """
    if not 0 <= index < len(self):
      raise IndexError(f'record {index}; there are {len(self)}')
    try:
      return self._source[index]
    except Exception as error:  # Of many kinds: riegeli's, protobuf's and those of decoding half a record.
      file = bisect.bisect_right(self._ends, index)
      first = self._ends[file - 1] if file else 0
      raise DamagedFileError(
        f'{self._files[file]} cannot be read at its record {index - first} ({" ".join(str(error).split())[:300]}): the '
        'file is absent, cut short or damaged; copy it again, or remove the data set and build it again'
      ) from error


class DamagedFileError(OSError):
  """A file of a built data set cannot be read."""


def split_names(data_dir: str | os.PathLike[str], name: str) -> list[str]:
  """Returns the splits of a data set; arguments and errors are those of `open_source`."""
  return list(open_set(data_dir, name)[0].info.splits)


def open_set(data_dir: str | os.PathLike[str], name: str, split: str | None = None) -> tuple[Any, pathlib.Path]:
  """Returns the TFDS builder of a finished data set and its folder; arguments and errors are those of `open_source`."""
  folder = _latest_version(expand(data_dir), name)
  # Imported here because it takes a second, which those who bring their own source need not wait for.
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(str(folder))
  if split is not None and split not in builder.info.splits:
    raise UserError(f'{folder} has no split {split!r}; it has {sorted(builder.info.splits)}. Name one of these.')
  return builder, folder


def text(value: Any) -> str:
  """Returns a text feature as a string, whether it was read as bytes, as a string or as a numpy scalar."""
  if isinstance(value, np.ndarray | np.generic):
    value = value.item()
  return value.decode('utf-8') if isinstance(value, bytes) else str(value)


def texts(values: Sequence[Any] | np.ndarray) -> list[str]:
  """Returns a sequence of text features as strings."""
  return [text(value) for value in values]


def has_rows(record: Record, feature: str) -> bool:
  """Returns whether a record holds any row of an optional feature."""
  return feature in record and len(record[feature]) > 0


@contextlib.contextmanager
def naming_bad_rows(record: Record) -> Iterator[None]:
  """Turns what the arithmetic says of NaN and infinities into an error that names video, feature and row.

  Raises:
    ValueError: instead of a `NonFiniteError` of `transforms`.
  """
  try:
    yield
  except transforms.NonFiniteError as error:
    raise UserError(f'video {text(record["video_id"])!r}: {_bad_row(record) or error}') from error


def _bad_row(record: Record) -> str:
  """Returns a text for the first row of a record that holds NaN, an infinity or a number whose square overflows."""
  for name in ('student_frames', 'teacher_frames', 'student_tokens', 'teacher_text'):
    rows = np.asarray(record.get(name, np.zeros((0, 0))))
    usual = np.abs(rows) < 1e18 if rows.dtype != np.float16 else np.isfinite(rows)
    odd = np.flatnonzero(~usual.all(axis=-1))
    if len(odd):
      return (
        f'{name} hold NaN, an infinity or a number of 1e18 or more in {len(odd)} of {len(rows)} rows, the first of '
        f'them row {odd[0]}; extract the features of this video again, or leave it out of the data set'
      )
  return ''


def _latest_version(data_dir: pathlib.Path, name: str) -> pathlib.Path:
  """Finds `data_dir/name/[config/]version`."""
  root = data_dir / name
  # Only a finished set has its info file at this place: one in the making lies in a folder of another name.
  if (root / 'dataset_info.json').is_file():
    return root
  infos = [*root.glob('*/dataset_info.json'), *root.glob('*/*/dataset_info.json')]
  found = [info.parent for info in infos if _VERSION.fullmatch(info.parent.name)]
  if not found:
    there = sorted(path.name for path in data_dir.iterdir()) if data_dir.is_dir() else None
    raise FileNotFoundError(
      f'No built data set in {root} (looked for {root}/[config/]version/dataset_info.json; '
      + (f'{data_dir} holds {there or "nothing"}' if there is not None else f'{data_dir} does not exist')
      + f'). Build it with {_command(name, data_dir)}'
    )
  configs = sorted({path.parent for path in found})
  if len(configs) > 1:
    names = [str(path.relative_to(data_dir)) for path in configs]
    raise UserError(f'{root} holds several configurations; name one of {names}')
  return max(found, key=lambda path: tuple(map(int, path.name.split('.'))))


def _command(name: str, data_dir: os.PathLike[str] | str = '…') -> str:
  """Returns the command that builds a data set, for messages."""
  dataset, _, config = name.partition('/')
  if dataset == 'custom_prvr':
    return f'`python -m dlkd_jax.extract --videos=… --captions=… --clip=… --data_dir={data_dir}`'
  collection = dataset.removesuffix('_prvr')
  more = '' if collection == 'synthetic' else ' --manual_dir=…'
  if collection == 'synthetic' and config:
    more = f' --config={config}'
  return f'`python -m tfds_builders.build {collection}{more} --data_dir={data_dir}`'
