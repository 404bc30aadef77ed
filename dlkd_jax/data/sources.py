"""Where records come from: a built data set on disk, opened for random access; and how much each of them holds.

A source is any object with `__len__` and `__getitem__` that gives the record of a video as a dictionary of numpy
arrays, which `tfds_builders/records.py` describes; a TFDS data source is one, a list is another.

What shapes a batch (how many rows, how they are shared among devices) follows from the lengths of the records alone. So
every process computes it for the whole batch, and reads only its own part of the records.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dlkd_jax.data import transforms
from dlkd_jax.errors import UserError
from dlkd_jax.files import Path, expand_any, local_copy

if TYPE_CHECKING:  # Whoever reads records alone need not wait for JAX.
  from dlkd_jax.data.batch import PipelineOptions

Record = dict[str, Any]

_VERSION = re.compile(r'\d+\.\d+\.\d+')
_SCAN_NOTICE_SECONDS = 2.0
_LENGTHS = ('student', 'teacher', 'captions', 'tokens')


class Source(Protocol):
  """Records of videos by their position."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


def open_source(data_dir: str | os.PathLike[str], name: str, split: str) -> BuiltSource:
  """Opens one split of a data set that was built under `data_dir`, without TensorFlow: a record a video.

  A set of a bucket (gs://…) is copied here once. Its name is as `charades_prvr`, or as `synthetic_prvr/small` where it
  has several configurations, or with a version as `charades_prvr/1.0.0`: the latest is taken where none is named.

  Raises:
    FileNotFoundError: no finished data set of that name lies there, or files of the split are absent.
    UserError: several configurations lie there, or the set has no such split, or the split is empty.
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
    """Wraps a TFDS data source, of which there are so many records in each of its files."""
    self._source, self._files, self._ends = source, list(files), list(itertools.accumulate(counts))
    self._count = len(source)

  def __len__(self) -> int:
    return self._count

  def first(self, count: int) -> BuiltSource:
    """Returns the first so many records, or all where there are no more."""
    found = copy.copy(self)
    found._count = min(count, self._count)
    return found

  def __getitem__(self, index: int) -> Record:
    """Reads one record; raises DamagedFileError where it cannot be read."""
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
  folder = local_copy(_latest_version(expand_any(data_dir), name))
  builder = _builder(str(folder), (folder / 'dataset_info.json').stat().st_mtime_ns)
  if split is not None and split not in builder.info.splits:
    raise UserError(f'{folder} has no split {split!r}; it has {sorted(builder.info.splits)}. Name one of these.')
  return builder, folder


@functools.lru_cache(maxsize=8)
def _builder(folder: str, written: int) -> Any:
  """Opens a folder once, until it is written anew."""
  del written
  # Imported here because it takes a second, which those who bring their own source need not wait for.
  import tensorflow_datasets as tfds

  return tfds.builder_from_directory(folder)


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
  """Turns a `NonFiniteError` of `transforms` into a UserError that names video, feature and row."""
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


def _latest_version(data_dir: Path, name: str) -> Path:
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
    return f'`dlkd extract --videos=… --captions=… --clip=… --data_dir={data_dir}`'
  collection = dataset.removesuffix('_prvr')
  more = '' if collection == 'synthetic' else ' --manual_dir=…'
  if collection == 'synthetic' and config:
    more = f' --config={config}'
  return f'`dlkd build {collection}{more} --data_dir={data_dir}`'


@dataclasses.dataclass(frozen=True)
class Lengths:
  """The lengths of N records, in their order.

  Attributes:
    student: `[N]` rows of student frames, as stored.
    teacher: `[N]` rows of teacher frames, 0 without.
    captions: `[N]` captions.
    tokens: `[sum(captions)]` tokens of each caption, record after record.
    starts: `[N]` place of each record's first caption in `tokens`.
  """

  student: np.ndarray
  teacher: np.ndarray
  captions: np.ndarray
  tokens: np.ndarray
  starts: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

  def __post_init__(self):
    """Makes all arrays int64; raises ValueError where they disagree, or hold what is no length."""
    for name in _LENGTHS:
      array = np.asarray(getattr(self, name))
      if array.ndim != 1 or array.dtype.kind not in 'iu' or array.min(initial=0) < 0:
        raise ValueError(
          f'lengths {name!r} are {array.dtype} {array.shape}; expected whole numbers from 0, in one axis'
        )
      object.__setattr__(self, name, array.astype(np.int64))
    sizes = {name: len(getattr(self, name)) for name in _LENGTHS}
    if len({sizes[name] for name in _LENGTHS[:3]}) > 1 or sizes['tokens'] != self.captions.sum():
      raise ValueError(f'lengths disagree: there are {sizes}, and {self.captions.sum()} captions in all')
    object.__setattr__(self, 'starts', np.cumsum(self.captions) - self.captions)

  def __len__(self) -> int:
    return len(self.student)

  def first(self, count: int) -> Lengths:
    """Returns the lengths of the first `count` records."""
    captions = self.captions[:count]
    return Lengths(self.student[:count], self.teacher[:count], captions, self.tokens[: captions.sum()])

  def of(self, index: int) -> tuple[int, int, list[int]]:
    """Returns what `record_lengths` of a record returns."""
    start = self.starts[index]
    tokens = self.tokens[start : start + self.captions[index]]
    return int(self.student[index]), int(self.teacher[index]), tokens.tolist()

  def frames(self, records: np.ndarray, options: PipelineOptions) -> np.ndarray:
    """Returns `[n]` frames that these records take up in a training batch, after resampling."""
    counts = np.minimum(self.student[records], options.max_frames)
    return np.minimum(counts, self.teacher[records]) if options.teacher else counts

  def averages(self, options: PipelineOptions) -> dict[str, bool]:
    """Returns of student_frames and teacher_frames whether a batch averages those of any video."""
    taken = self.frames(np.arange(len(self)), options)
    return {'student_frames': bool((self.student > taken).any()), 'teacher_frames': bool((self.teacher > taken).any())}

  def words(self, records: np.ndarray, options: PipelineOptions) -> np.ndarray:
    """Returns the tokens that each caption of these records takes up in a batch, record after record."""
    return np.minimum(self.tokens[self.captions_of(records)], options.max_words)

  def captions_of(self, records: np.ndarray) -> np.ndarray:
    """Returns the numbers of the captions of these records, record after record, among those of all."""
    captions = self.captions[records]
    return np.repeat(self.starts[records], captions) + transforms.places_within(captions)


def open_lengths(data_dir: str | os.PathLike[str], name: str, split: str) -> Lengths | None:
  """Reads the lengths that were written beside the records of a built split; arguments as of `open_source`.

  None where the set was built before there were any: `scan_lengths` then finds them.

  Raises:
    FileNotFoundError: no finished data set of that name lies there.
    UserError: the file is damaged or belongs to other records; or the set has no such split.
  """
  builder, folder = open_set(data_dir, name, split)
  path = folder / f'lengths-{split}.npz'
  if not path.is_file():
    return None
  return read_lengths(path, builder.info.splits[split].num_examples)


def read_lengths(path: pathlib.Path, records: int) -> Lengths:
  """Reads an npz file with the arrays of `Lengths`.

  Raises:
    UserError: the file is damaged, or does not describe so many records.
  """
  remedy = 'remove this file to have the lengths read from the records at each start, or build the set again'
  try:
    with np.load(path, allow_pickle=False) as arrays:
      found = Lengths(*(arrays[array] for array in _LENGTHS))
  except Exception as error:  # Of many kinds: those of zip files, of numpy's headers and of the lengths themselves.
    raise UserError(f'{path} is damaged ({error}); expected the arrays {", ".join(_LENGTHS)}; {remedy}') from error
  if len(found) != records:
    raise UserError(f'{path} describes {len(found)} records; expected {records}, as many as the split has; {remedy}')
  return found


def record_lengths(record: Record) -> tuple[int, int, list[int]]:
  """Returns the student and teacher frames of a record, and the tokens of each caption."""
  tokens = np.asarray(record['token_lengths']).tolist()
  return len(record['student_frames']), len(record.get('teacher_frames', ())), tokens


def scan_lengths(source: Source) -> Lengths:
  """Finds the lengths by reading every record once; says so where that takes long."""
  found, start, said = [], time.monotonic(), False
  for index in range(len(source)):
    found.append(record_lengths(source[index]))
    if not said and time.monotonic() - start > _SCAN_NOTICE_SECONDS:
      said, seconds = True, (time.monotonic() - start) * len(source) / (index + 1)
      count = f'{len(source):,} records, about {seconds:.0f} s'
      print(f'reading the lengths of {count}: the set has no file of them; one that is built anew has', flush=True)
  student, teacher, tokens = ([x[k] for x in found] for k in range(3))
  each = student, teacher, [len(x) for x in tokens], [*itertools.chain.from_iterable(tokens)]
  return Lengths(*(np.array(x, np.int64) for x in each))


def check_lengths(source: Source, lengths: Lengths, options: PipelineOptions) -> None:
  """Checks before the first batch that every record can be trained on, as far as the lengths tell.

  Raises:
    UserError: one lacks frames, captions, tokens, or the teacher's frames; the message names the video.
  """
  unfit = (lengths.student < 1) | (lengths.captions < 1)
  if options.teacher:
    unfit |= lengths.teacher < 1
  unfit[np.repeat(np.arange(len(lengths)), lengths.captions)[lengths.tokens < 1]] = True
  for index in np.flatnonzero(unfit)[:1]:
    check_trainable(source[int(index)], options)
    raise UserError(
      f'record {index} has frames, captions or tokens of length 0 by its lengths, and none by itself; '
      'the lengths are of other records: build the data set again'
    )


def check_trainable(record: Record, options: PipelineOptions) -> None:
  """Raises UserError, naming the video, where a record lacks what training needs."""
  video = text(record['video_id'])
  if len(record['student_frames']) == 0:
    raise UserError(f'video {video!r} has no student frames; leave it out of the data set')
  if len(record['token_lengths']) == 0:
    raise UserError(f'video {video!r} has no captions; leave it out of the training split')
  if np.min(record['token_lengths']) < 1:
    raise UserError(f'video {video!r} has a caption without tokens; leave the caption out')
  if not options.teacher:
    return
  if not has_rows(record, 'teacher_frames'):
    raise UserError(
      f'video {video!r} has no teacher frames; train with teacher=False or build the set with teacher features'
    )
  if len(record.get('teacher_text', ())) != len(record['token_lengths']):
    raise UserError(
      f'video {video!r} has {len(record["token_lengths"])} captions and {len(record.get("teacher_text", ()))} '
      'teacher text features; expected one a caption; train with teacher=False or build the set again'
    )
  if options.pixels and len(record.get('teacher_pixels', ())) != len(record['teacher_frames']):
    raise UserError(
      f'video {video!r} has {len(record["teacher_frames"])} teacher frames and pixels of '
      f'{len(record.get("teacher_pixels", ()))}; expected those of each; train on the frozen features '
      '(teacher.online=False) or build a set with pixels'
    )
