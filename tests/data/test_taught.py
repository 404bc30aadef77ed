"""Records whose features go on with the teacher's."""

import numpy as np
import pytest

from dlkd_jax.data import transforms
from dlkd_jax.data.taught import WithTeacher, at_rows, with_teacher
from dlkd_jax.errors import UserError
from tests.data import fakes


def test_the_teachers_features_stand_behind_the_students():
  some = fakes.source(4)
  for record, joined in zip(some, WithTeacher(some), strict=True):
    frames, count = joined['student_frames'], len(record['student_frames'])
    np.testing.assert_array_equal(frames[:, : -fakes.TEACHER], record['student_frames'])
    behind = at_rows(record['teacher_frames'], count).astype(record['student_frames'].dtype)
    np.testing.assert_array_equal(frames[:, -fakes.TEACHER :], behind)
    owners = np.repeat(np.arange(len(record['token_lengths'])), record['token_lengths'])
    np.testing.assert_array_equal(joined['student_tokens'][:, : -fakes.TEACHER], record['student_tokens'])
    np.testing.assert_array_equal(joined['student_tokens'][:, -fakes.TEACHER :], record['teacher_text'][owners])


def test_rows_are_averaged_or_repeated():
  rows = np.arange(4.0, dtype=np.float32)[:, None]
  np.testing.assert_array_equal(at_rows(rows, 2), transforms.resample_frames(rows, 2))
  np.testing.assert_array_equal(at_rows(rows, 8)[:, 0], [0, 0, 1, 1, 2, 2, 3, 3])
  np.testing.assert_array_equal(at_rows(rows, 4), rows)


def test_joined_features_are_of_one_type():
  """Whether or not rows were averaged: a batch of both is refused."""
  record = fakes.source(1)[0]
  record = record | {name: np.asarray(record[name], np.float16) for name in ('student_frames', 'teacher_frames')}
  longer = record | {'teacher_frames': np.repeat(record['teacher_frames'], 3, axis=0)}
  for each in (record, longer):
    assert with_teacher(each)['student_frames'].dtype == np.float16


def test_a_record_without_them_is_refused():
  record = fakes.source(1)[0]
  for name in ('teacher_frames', 'teacher_text'):
    with pytest.raises(UserError, match="'v000' lacks features of the teacher"):
      with_teacher({key: value for key, value in record.items() if key != name})
