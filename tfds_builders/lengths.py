"""The lengths file of a split: how much each record holds, to be known without reading the records.

`lengths-<split>.npz` lies beside the records and is no pickle. Its arrays are int32, in the order of the records:

| array | shape | |
|---|---|---|
| student | [records] | rows of student frames |
| teacher | [records] | rows of teacher frames, 0 without |
| captions | [records] | captions |
| tokens | [sum(captions)] | tokens of each caption, record after record |
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np


class SplitLengths:
  """Lengths of one split, gathered while it is written."""

  def __init__(self):
    """Starts empty."""
    self._student: list[int] = []
    self._teacher: list[int] = []
    self._tokens: list[np.ndarray] = []

  def continue_from(self, folder: str | os.PathLike[str], split: str, without: Collection[int] = ()) -> None:
    """Starts with the lengths that an earlier version of the split has in its folder.

    Args:
      folder: of the earlier version.
      split: the split.
      without: positions of records that are left out.
    """
    with np.load(pathlib.Path(folder) / f'lengths-{split}.npz', allow_pickle=False) as file:
      student, teacher, captions, tokens = (file[name] for name in ('student', 'teacher', 'captions', 'tokens'))
    ends = np.cumsum(captions)
    for record in range(len(student)):
      if record not in without:
        self._student.append(int(student[record]))
        self._teacher.append(int(teacher[record]))
        self._tokens.append(tokens[ends[record] - captions[record] : ends[record]])

  def add(self, record: dict[str, Any]) -> None:
    """Notes one record; to be called in the order of the records."""
    self._student.append(len(record['student_frames']))
    self._teacher.append(len(record.get('teacher_frames', ())))
    self._tokens.append(np.asarray(record['token_lengths'], np.int32))

  def write(self, folder: str | os.PathLike[str], split: str) -> None:
    """Writes the file of a split into the folder of its records."""
    np.savez(
      pathlib.Path(folder) / f'lengths-{split}.npz',
      student=np.array(self._student, np.int32),
      teacher=np.array(self._teacher, np.int32),
      captions=np.array([len(tokens) for tokens in self._tokens], np.int32),
      tokens=np.concatenate([*self._tokens, np.zeros(0, np.int32)]),
    )

  def counts(self) -> dict[str, int | bool]:
    """Returns the sums and maxima of the split, and whether it has teacher features."""
    tokens = np.concatenate([*self._tokens, np.zeros(0, np.int32)])
    captions = [len(each) for each in self._tokens]
    return {
      'videos': len(self._student),
      'captions': sum(captions),
      'frames': sum(self._student),
      'max_frames': max(self._student, default=0),
      'tokens': int(tokens.sum()),
      'max_tokens': int(tokens.max(initial=0)),
      'max_captions': max(captions, default=0),
      'teacher': any(self._teacher),
    }
