"""A batch holds what its records hold, whatever its padding."""

import logging

import numpy as np
import pytest

from dlkd_jax.data import options as options_module
from dlkd_jax.data.collation import Collator
from tests.data import fakes
from tests.data.test_transforms import looped_resampling


def normalised(rows):
  rows = np.asarray(rows, np.float64)
  return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)


def collate(records, opts):
  return Collator(records, opts)(np.arange(len(records))).check()


def expected_order(records, sort):
  rows = list(range(len(records)))
  return sorted(rows, key=lambda row: -len(records[row]['token_lengths'])) if sort else rows


@pytest.mark.parametrize('sort', [True, False])
@pytest.mark.parametrize('teacher', [True, False])
@pytest.mark.parametrize('seed', range(4))
def test_every_row_is_the_records_own(sort, teacher, seed):
  records = fakes.source(7, seed, teacher=teacher)
  opts = fakes.options(sort_by_captions=sort, teacher=teacher)
  batch = collate(records, opts)
  caption = 0
  for row, index in enumerate(expected_order(records, sort)):
    record = records[index]
    student = np.asarray(record['student_frames'], np.float64)
    if teacher:
      common = min(len(student), len(record['teacher_frames']))
      student = looped_resampling(student, common)
      taught = looped_resampling(looped_resampling(record['teacher_frames'].astype(np.float64), common), 12)
      np.testing.assert_allclose(batch.teacher_frames[row, : len(taught)], taught, atol=1e-5)
      assert not batch.teacher_frames[row, len(taught) :].any()
    student = normalised(looped_resampling(student, 12))
    assert batch.frame_mask[row].tolist() == [i < len(student) for i in range(batch.frame_mask.shape[1])]
    np.testing.assert_allclose(batch.student_frames[row, : len(student)], student, atol=1e-5)
    assert not batch.student_frames[row, len(student) :].any()
    start = 0
    for k, length in enumerate(record['token_lengths']):
      tokens = normalised(record['student_tokens'][start : start + length][:5])
      start += length
      assert batch.labels[caption] == row and batch.caption_mask[caption]
      assert batch.token_mask[caption].sum() == len(tokens) and batch.token_mask[caption, : len(tokens)].all()
      np.testing.assert_allclose(batch.student_tokens[caption, : len(tokens)], tokens, atol=1e-5)
      assert not batch.student_tokens[caption, len(tokens) :].any()
      if teacher:
        np.testing.assert_array_equal(batch.teacher_text[caption], record['teacher_text'][k].astype(np.float32))
      caption += 1
  assert batch.caption_mask.sum() == caption and batch.video_mask.sum() == len(records)
  assert not batch.labels[caption:].any() and not batch.token_mask[caption:].any()
  assert not batch.frame_mask[len(records) :].any() and not batch.student_frames[len(records) :].any()
  if not teacher:
    assert batch.teacher_frames is None and batch.teacher_text is None


def test_padding_further_changes_no_content():
  records = fakes.source(5, seed=3)
  small = collate(records, fakes.options())
  large = collate(records, fakes.options(frame_sizes=(12,), word_sizes=(5,), caption_sizes=(64,), batch_videos=16))
  for name in (
    'student_frames',
    'frame_mask',
    'teacher_frames',
    'student_tokens',
    'token_mask',
    'teacher_text',
    'labels',
  ):
    a, b = getattr(small, name), getattr(large, name)
    common = tuple(slice(0, min(n, m)) for n, m in zip(a.shape, b.shape, strict=True))
    np.testing.assert_array_equal(a[common], b[common], err_msg=name)
    assert np.count_nonzero(a) == np.count_nonzero(b), name


def test_sizes_are_the_smallest_that_fit():
  rng = np.random.default_rng(0)
  short = [fakes.record(f'v{i}', rng, frames=3, teacher_frames=4, token_lengths=(2,) * 3) for i in range(4)]
  batch = collate(short, fakes.options(caption_sizes=(6, 12, 20)))
  assert batch.student_frames.shape == (8, 4, fakes.STUDENT) and batch.student_tokens.shape == (12, 3, fakes.TOKEN)
  # The student has 3 frames, so the teacher's 5 come down to 3: four still hold them.
  short.append(fakes.record('more', rng, frames=3, teacher_frames=5, token_lengths=(4,)))
  batch = collate(short, fakes.options(caption_sizes=(6, 12, 20)))
  assert batch.student_frames.shape[1] == 4 and batch.student_tokens.shape[:2] == (20, 5)


def test_sizes_are_multiples_of_the_devices():
  batch = collate(fakes.source(5), fakes.options(batch_videos=6, batch_multiple=8, caption_sizes=(9, 30)))
  assert batch.video_mask.shape == (8,) and batch.caption_mask.shape[0] in (16, 32)


def test_captions_beyond_the_listed_sizes_are_kept_with_a_warning(caplog):
  options_module._warn_once.cache_clear()
  records = [fakes.record('v', np.random.default_rng(0), token_lengths=(1,) * 30)]
  with caplog.at_level(logging.WARNING):
    batch = collate(records, fakes.options(caption_sizes=(4, 7)))
  assert batch.caption_mask.shape == (56,) and batch.caption_mask.sum() == 30
  assert 'caption_sizes' in caplog.text


def test_derived_caption_sizes():
  assert fakes.options(batch_videos=8).listed_caption_sizes() == tuple(range(4, 49, 4))
  assert fakes.options(batch_videos=8, batch_multiple=8).listed_caption_sizes() == (8, 16, 24, 32, 40, 48)


def test_the_number_of_threads_changes_nothing():
  records = fakes.source(7)
  one, many = (collate(records, fakes.options(read_threads=n)) for n in (1, 8))
  for name, value in vars(one).items():
    np.testing.assert_array_equal(value, getattr(many, name), err_msg=name)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'student_frames': np.zeros((0, 6), np.float16)}, 'no student frames'),
    ({'token_lengths': np.zeros(0, np.int32)}, 'no captions'),
    ({'token_lengths': np.array([7, 0], np.int32)}, 'without tokens'),
    ({'teacher_frames': np.zeros((0, 4), np.float16)}, 'teacher=False'),
    ({'teacher_text': np.zeros((1, 4), np.float16)}, '2 captions and 1 teacher'),
  ],
)
def test_unfit_records_are_named(change, message):
  records = [{**fakes.record('odd one', np.random.default_rng(0)), **change}]
  with pytest.raises(ValueError, match=f"'odd one'.*{message}"):
    collate(records, fakes.options())


def test_a_set_without_teacher_asks_for_teacher_false():
  with pytest.raises(ValueError, match='teacher=False'):
    collate(fakes.source(2, teacher=False), fakes.options())


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'batch_videos': 0}, 'batch_videos is 0'),
    ({'read_threads': 1.5}, 'read_threads is 1.5'),
    ({'prefetch_batches': -1}, 'prefetch_batches is -1'),
    ({'frame_sizes': (8, 4, 12)}, 'ascending'),
    ({'frame_sizes': (4, 8)}, 'max_frames is 12'),
    ({'word_sizes': ()}, 'max_words is 5'),
    ({'caption_sizes': (0, 4)}, 'caption_sizes is 0'),
  ],
)
def test_unfit_options_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    fakes.options(**change)
