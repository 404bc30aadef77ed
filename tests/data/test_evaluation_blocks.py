"""Blocks hold every video and every caption once, in order, beside their own ids."""

import threading

import numpy as np
import pytest

from dlkd_jax.data import evaluation_blocks
from dlkd_jax.data.evaluation_blocks import EvaluationSplit, caption_blocks, gallery_order, video_blocks
from dlkd_jax.data.sources import Lengths
from tests import options as made
from tests.data import fakes
from tests.data.test_transforms import looped_resampling


@pytest.mark.parametrize('block', [1, 4, 50])
@pytest.mark.parametrize('prefetch', [0, 2])
def test_videos(block, prefetch):
  records = fakes.source(11)
  index = 0
  for found in video_blocks(records, fakes.options(prefetch_batches=prefetch), block):
    assert found.features.shape[0] == block and found.features.shape[1] in (4, 8, 12)
    assert len(found.ids) == min(block, len(records) - index)
    for row, video in enumerate(found.ids):
      record = records[index]
      assert video == record['video_id'].decode()
      for rows, frames, mask in (
        (looped_resampling(record['student_frames'], 12), found.features, found.mask),
        (looped_resampling(record['teacher_frames'], 12), found.teacher, found.teacher_mask),
      ):
        assert mask[row].sum() == len(rows) and mask[row, : len(rows)].all()
        np.testing.assert_allclose(frames[row, : len(rows)], rows, atol=1e-5)
        assert not frames[row, len(rows) :].any()
      index += 1
    assert not found.mask[len(found.ids) :].any() and not found.teacher_mask[len(found.ids) :].any()
  assert index == len(records)


@pytest.mark.parametrize('block', [1, 5, 100])
def test_captions(block):
  records = fakes.source(11)
  expected = [(record, k) for record in records for k in range(len(record['token_lengths']))]
  at = 0
  for found in caption_blocks(records, fakes.options(), block):
    count = len(found.ids)
    assert count == min(block, len(expected) - at)
    assert len(found.video_ids) == count
    assert not found.mask[count:].any() and not found.features[count:].any()
    for row in range(count):
      record, k = expected[at]
      start = record['token_lengths'][:k].sum()
      tokens = record['student_tokens'][start : start + record['token_lengths'][k]][:5]
      assert found.ids[row] == record['caption_ids'][k].decode()
      assert found.video_ids[row] == record['video_id'].decode()
      assert found.mask[row].sum() == len(tokens)
      np.testing.assert_array_equal(found.features[row, : len(tokens)], tokens, strict=True)
      np.testing.assert_array_equal(found.teacher[row], record['teacher_text'][k])
      at += 1
  assert at == len(expected)


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_features_keep_the_type_that_they_are_stored_in(dtype):
  records = [fakes.record(f'v{n}', np.random.default_rng(n), n, dtype=dtype) for n in (20, 12, 3)]
  found = [block.features for block in video_blocks(records, fakes.options(), 1)]
  assert [frames.dtype for frames in found] == [np.float32, dtype, dtype]  # Means are float32.
  np.testing.assert_array_equal(found[1][0], records[1]['student_frames'])


def test_an_order_names_what_is_taken():
  records, order = fakes.source(11), [9, 2, 5]
  expected = [records[index]['video_id'].decode() for index in order]
  found = [*video_blocks(records, fakes.options(), 2, order)]
  assert [block.ids for block in found] == [expected[:2], expected[2:]]
  captions = [name for block in caption_blocks(records, fakes.options(), 4, order) for name in block.ids]
  assert captions == [name.decode() for index in order for name in records[index]['caption_ids']]


def without_teacher(records):
  for record in records:
    record['teacher_frames'], record['teacher_text'] = record['teacher_frames'][:0], record['teacher_text'][:0]
  return records


@pytest.mark.parametrize(
  ('records', 'teacher'),
  [(fakes.source(3, teacher=False), True), (without_teacher(fakes.source(3)), True), (fakes.source(3), False)],
  ids=['feature absent', 'no rows', 'not wanted'],
)
def test_a_split_without_teacher(records, teacher):
  opts = fakes.options(teacher=teacher)
  for block in video_blocks(records, opts, 2):
    assert block.teacher is None and block.teacher_mask is None
  assert all(block.teacher is None for block in caption_blocks(records, opts, 2))


def test_a_teacher_of_some_videos_only_is_kept_in_every_block():
  records = without_teacher(fakes.source(3)) + fakes.source(1)
  masks = [block.teacher_mask.any() for block in video_blocks(records, fakes.options(), 2)]
  assert masks == [False, True]
  assert all(block.teacher is not None for block in caption_blocks(records, fakes.options(), 2))


def test_leaving_early_leaves_no_thread():
  before = threading.active_count()
  blocks = video_blocks(fakes.source(11), fakes.options(), 1)
  next(blocks)
  assert threading.active_count() > before
  blocks.close()
  assert threading.active_count() == before


def test_bad_records_are_named():
  records = fakes.source(3)
  records[1]['student_frames'] = records[1]['student_frames'][:0]
  with pytest.raises(ValueError, match="'v001' has no student frames"):
    list(video_blocks(records, fakes.options(), 2))
  records[1]['token_lengths'] = records[1]['token_lengths'] * 0
  with pytest.raises(ValueError, match=r'v001#enc#0.*no tokens'):
    list(caption_blocks(records, fakes.options(), 2))
  records[1] = {**fakes.record('part', np.random.default_rng(0)), 'teacher_text': np.zeros((1, 4), np.float16)}
  with pytest.raises(ValueError, match="'part' has 2 captions and 1 teacher"):
    list(caption_blocks(records, fakes.options(), 2))


def test_numbers_that_are_none_are_named():
  records = [fakes.record(f'v{n}', np.random.default_rng(n)) for n in range(3)]
  records[1]['student_frames'][2, 0] = np.nan
  records[2]['student_tokens'][4, 0] = np.inf
  with pytest.raises(ValueError, match=r"'v1': student_frames hold NaN.* row 2;"):
    list(video_blocks(records, fakes.options(), 2))
  with pytest.raises(ValueError, match="caption 'v2#enc#1' of video 'v2': its token rows hold NaN"):
    list(caption_blocks(records, fakes.options(), 2))


def _lengths(student, teacher):
  ones = np.ones(len(student), np.int64)
  return Lengths(np.array(student), np.array(teacher), ones, ones)


def test_the_longest_come_first_and_ties_keep_their_order():
  lengths = _lengths([5, 300, 40, 128, 7], [5, 60, 90, 10, 7])
  without = gallery_order(lengths, 5, made.pipeline_options(teacher=False), 2, 0, 1)
  assert without.tolist() == [1, 3, 2, 4, 0]  # 300 frames are brought to 128.
  assert gallery_order(lengths, 5, made.pipeline_options(), 2, 0, 1).tolist() == [1, 3, 2, 4, 0]
  lengths = _lengths([5, 30, 40], [100, 30, 40])
  assert gallery_order(lengths, 3, made.pipeline_options(), 2, 0, 1).tolist() == [0, 2, 1]


def test_without_lengths_the_order_is_the_source_s():
  assert gallery_order(None, 5, made.pipeline_options(), 2, 0, 1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('videos', [1, 7, 8, 64, 65])
@pytest.mark.parametrize('processes', [1, 2, 3])
def test_every_video_is_taken_once_and_shares_are_even(videos, processes):
  lengths = _lengths(np.random.default_rng(0).integers(1, 200, videos), np.zeros(videos, np.int64))
  orders = [gallery_order(lengths, videos, made.pipeline_options(), 4, index, processes) for index in range(processes)]
  assert sorted(np.concatenate(orders)) == list(range(videos))
  blocks = [-(-len(order) // 4) for order in orders]
  assert max(blocks) - min(blocks) <= 1


class _Counted(list):
  """Records, and how many were read."""

  read = 0

  def __getitem__(self, index):
    self.read += 1
    return super().__getitem__(index)


def _walk(split):
  return [*split.captions(), *split.videos()]


def test_the_second_walk_reads_nothing_and_gives_the_same():
  records = _Counted(fakes.source(11))
  split = EvaluationSplit(records, fakes.options(), 4, 3, keep=True)
  next(iter(split.videos()))  # An evaluation that is interrupted keeps nothing.
  first = _walk(split)
  read = records.read
  assert read >= 2 * 11
  for before, now in zip(first, _walk(split), strict=True):
    assert before is now
  assert records.read == read


@pytest.mark.parametrize(('available', 'kept'), [(1 << 30, True), (1000, False)])
def test_only_what_fits_into_memory_is_kept(monkeypatch, available, kept):
  monkeypatch.setattr(evaluation_blocks, 'available_bytes', lambda: available)
  records = _Counted(fakes.source(11))
  split = EvaluationSplit(records, fakes.options(), 4, 3, keep=True)
  _walk(split)
  read = records.read
  again = _walk(split)
  assert (records.read == read) is kept
  assert sum(len(block.ids) for block in again[-4:]) == 11


def test_this_machine_tells_its_memory():
  assert 1 << 20 < evaluation_blocks.available_bytes() < 1 << 50
