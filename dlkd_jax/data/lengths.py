"""How much each record of a split holds, known without reading the records.

What shapes a batch (how many rows, how they are shared among devices) follows from these numbers alone. So every
process computes it for the whole batch, and reads only its own part of the records.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time

import numpy as np

from dlkd_jax.data import sources
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.errors import UserError

_SCAN_NOTICE_SECONDS = 2.0
_ARRAYS = ('student', 'teacher', 'captions', 'tokens')


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
    """Makes all arrays int64.

    Raises:
      ValueError: the arrays disagree on the number of records or of captions, or hold a negative number.
    """
    for name in _ARRAYS:
      array = np.asarray(getattr(self, name))
      if array.ndim != 1 or array.dtype.kind not in 'iu' or (array.size and array.min() < 0):
        raise ValueError(
          f'lengths {name!r} are {array.dtype} of shape {array.shape}; expected whole numbers from 0, in one axis'
        )
      object.__setattr__(self, name, array.astype(np.int64))
    count = len(self.student)
    if len(self.teacher) != count or len(self.captions) != count or len(self.tokens) != self.captions.sum():
      raise ValueError(
        f'lengths disagree: {count} records with student frames, {len(self.teacher)} with teacher frames, '
        f'{len(self.captions)} with {self.captions.sum()} captions, tokens of {len(self.tokens)} captions'
      )
    object.__setattr__(self, 'starts', np.cumsum(self.captions) - self.captions)

  def __len__(self) -> int:
    return len(self.student)

  def first(self, count: int) -> Lengths:
    """Returns the lengths of the first `count` records, or of all where there are no more."""
    captions = self.captions[:count]
    return Lengths(self.student[:count], self.teacher[:count], captions, self.tokens[: captions.sum()])

  def frames(self, rows: np.ndarray, options: PipelineOptions) -> np.ndarray:
    """Returns `[n]` frames that the records at `rows` take up in a training batch, after resampling."""
    counts = np.minimum(self.student[rows], options.max_frames)
    return np.minimum(counts, self.teacher[rows]) if options.teacher else counts

  def words(self, rows: np.ndarray, options: PipelineOptions) -> np.ndarray:
    """Returns the tokens that each caption of the records at `rows` takes up in a batch, record after record."""
    captions = self.captions[rows]
    ends = np.cumsum(captions)
    index = np.repeat(self.starts[rows] - (ends - captions), captions) + np.arange(ends[-1] if len(ends) else 0)
    return np.minimum(self.tokens[index], options.max_words)


def open_lengths(data_dir: str | os.PathLike[str], name: str, split: str) -> Lengths | None:
  """Reads the lengths that were written beside the records of a built split.

  Args:
    data_dir: as of `dlkd_jax.data.sources.open_source`.
    name: the data set, likewise.
    split: train, val or test.

  Returns:
    The lengths; None where the set was built before there were any: `scan_lengths` then finds them.

  Raises:
    FileNotFoundError: no finished data set of that name lies there.
    ValueError: the file is damaged or belongs to other records; or the set has no such split.
  """
  builder, folder = sources.open_set(data_dir, name, split)
  path = folder / f'lengths-{split}.npz'
  if not path.is_file():
    return None
  return read_lengths(path, builder.info.splits[split].num_examples)


def read_lengths(path: pathlib.Path, records: int) -> Lengths:
  """Reads a file of lengths.

  Args:
    path: an npz file with the arrays of `Lengths`.
    records: the records it must describe.

  Raises:
    ValueError: the file is damaged, or describes another number of records.
  """
  remedy = 'remove this file to have the lengths read from the records at each start, or build the set again'
  try:
    with np.load(path, allow_pickle=False) as arrays:
      found = Lengths(*(arrays[array] for array in _ARRAYS))
  except Exception as error:  # Of many kinds: those of zip files, of numpy's headers and of the lengths themselves.
    raise UserError(f'{path} is damaged ({error}); expected the arrays {", ".join(_ARRAYS)}; {remedy}') from error
  if len(found) != records:
    raise UserError(f'{path} describes {len(found)} records; expected {records}, as many as the split has; {remedy}')
  return found


def scan_lengths(source: sources.Source) -> Lengths:
  """Finds the lengths by reading every record once; says so where that takes long."""
  student, teacher, captions, tokens = [], [], [], []
  start = time.monotonic()
  said = False
  for index in range(len(source)):
    record = source[index]
    lengths = np.asarray(record['token_lengths'], np.int64)
    student.append(len(record['student_frames']))
    teacher.append(len(record['teacher_frames']) if 'teacher_frames' in record else 0)
    captions.append(len(lengths))
    tokens.append(lengths)
    if not said and time.monotonic() - start > _SCAN_NOTICE_SECONDS:
      said = True
      seconds = (time.monotonic() - start) * len(source) / (index + 1)
      print(
        f'reading the lengths of {len(source):,} records, about {seconds:.0f} s: the set has no file of them; one '
        'that is built anew has',
        flush=True,
      )
  flat = np.concatenate([*tokens, np.zeros(0, np.int64)])
  return Lengths(*(np.array(each, np.int64) for each in (student, teacher, captions)), flat)
