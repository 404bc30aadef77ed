"""Records for students that see the teacher, too: its features stand behind the student's, in the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlkd_jax.data import transforms
from dlkd_jax.data.sources import Record, Source, has_rows, text
from dlkd_jax.errors import UserError


def with_teacher(record: Record) -> Record:
  """Returns a record whose `student_frames` are `[n, Dv + Dt]` and whose `student_tokens` are `[m, Dq + Dt]`.

  The teacher's frames are brought to the number of the student's, its sentence stands behind each of its tokens.

  Raises:
    UserError: the record has no such features; the message names the video.
  """
  check_taught(record)
  frames, tokens, lengths = record['student_frames'], record['student_tokens'], np.asarray(record['token_lengths'])
  # In the type of all records: where rows are averaged, they have another.
  behind = at_rows(np.asarray(record['teacher_frames']), len(frames)).astype(frames.dtype)
  joined = {'student_frames': np.concatenate([frames, behind], axis=1)}
  if len(lengths):
    texts = np.repeat(np.asarray(record['teacher_text']), lengths, axis=0)
    joined['student_tokens'] = np.concatenate([tokens, texts], axis=1)
  return {**record, **joined}


def check_taught(record: Record) -> None:
  """Raises UserError, naming the video, where a record lacks features of the teacher."""
  if not has_rows(record, 'teacher_frames') or len(record.get('teacher_text', ())) != len(record['token_lengths']):
    raise UserError(
      f'video {text(record["video_id"])!r} lacks features of the teacher, which this student needs: build the set with '
      'them, or leave the teacher out (:anchored,no_teacher, or --config.model.branches="(\'exploration\',)")'
    )


def at_rows(rows: np.ndarray, count: int) -> np.ndarray:
  """Brings rows `[n, D]` to so many: more of them are averaged, fewer are repeated evenly."""
  if len(rows) > count:
    return transforms.resample_frames(rows, count)
  return rows[((np.arange(count) + 0.5) * len(rows) / max(count, 1)).astype(int)]


class WithTeacher(Sequence):
  """The records of a source, each as `with_teacher` makes it."""

  def __init__(self, source: Source):
    """Takes the records."""
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    return with_teacher(self._source[index])
