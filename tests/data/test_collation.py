"""A batch holds what its records hold, whatever its padding."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dlkd_jax.data.packing import make_plan
from dlkd_jax.data.prepared import Prepared
from dlkd_jax.data.sources import scan_lengths
from dlkd_jax.data.train_pipeline import Collator
from tests.data import fakes
from tests.data.test_transforms import looped_resampling


def expected_contents(records, opts):
  """Ordinal of a video → its frames and captions, by plain loops."""
  order = list(range(len(records)))
  if opts.sort_by_captions:
    order.sort(key=lambda row: -len(records[row]['token_lengths']))
  found, caption = {}, 0
  for ordinal, row in enumerate(order):
    record = records[row]
    student, teacher = np.asarray(record['student_frames'], np.float64), None
    if opts.teacher:
      common = min(len(student), len(record['teacher_frames']))
      student = looped_resampling(student, common)
      teacher = looped_resampling(looped_resampling(record['teacher_frames'].astype(np.float64), common), 12)
    captions, start = {}, 0
    for k, length in enumerate(record['token_lengths']):
      tokens = record['student_tokens'][start : start + length][:5]
      start += length
      captions[caption] = (tokens, record['teacher_text'][k] if opts.teacher else None)
      caption += 1
    found[ordinal] = {'student': looped_resampling(student, 12), 'teacher': teacher, 'captions': captions}
  return found


def assert_contents(found, expected):
  assert sorted(found) == sorted(expected)
  for ordinal, video in expected.items():
    own = found[ordinal]
    np.testing.assert_allclose(own['student'], video['student'], atol=1e-5)
    assert (own['teacher'] is None) == (video['teacher'] is None)
    if video['teacher'] is not None:
      np.testing.assert_allclose(own['teacher'], video['teacher'], atol=1e-5)
    assert list(own['captions']) == list(video['captions'])
    for caption, (tokens, text) in video['captions'].items():
      np.testing.assert_array_equal(own['captions'][caption][0], tokens)
      np.testing.assert_array_equal(own['captions'][caption][1], text)


@pytest.mark.parametrize('packing', [True, False])
@pytest.mark.parametrize('shards', [1, 2, 8])
@pytest.mark.parametrize('sort', [True, False])
@pytest.mark.parametrize('teacher', [True, False])
@pytest.mark.parametrize('seed', range(2))
def test_every_row_is_the_records_own(packing, shards, sort, teacher, seed):
  records = fakes.source(7, seed, teacher=teacher)
  opts = fakes.options(packing=packing, shards=shards, sort_by_captions=sort, teacher=teacher)
  batch = fakes.collate(records, opts)
  assert_contents(fakes.contents(batch, shards), expected_contents(records, opts))
  assert batch.video_mask.shape == (8,) and batch.video_mask.sum() == 7
  if not packing:
    assert batch.frame_layout.slots == batch.token_layout.slots == 1
    np.testing.assert_array_equal(
      batch.frame_layout.where[batch.video_mask] % (8 // shards), np.flatnonzero(batch.video_mask) % (8 // shards)
    )
  if not teacher:
    assert batch.teacher_frames is None and batch.teacher_text is None
  assert_padding(batch, shards)


def assert_padding(batch, shards):
  """Nothing is left at padding, and real entries come first in every share."""
  for features, layout in ((batch.student_frames, batch.frame_layout), (batch.student_tokens, batch.token_layout)):
    assert not features[~layout.mask].any() and not layout.position[~layout.mask].any()
    used = np.take_along_axis(layout.ordinals, np.maximum(layout.slot, 0), axis=1)[layout.mask]
    assert set(used) == set(layout.ordinals[layout.ordinals >= 0])
  for mask, layout, ordinals in (
    (batch.video_mask, batch.frame_layout, batch.video_ordinals),
    (batch.caption_mask, batch.token_layout, batch.caption_ordinals),
  ):
    assert sorted(ordinals[mask]) == list(range(mask.sum())) and (ordinals[~mask] == -1).all()
    assert not layout.where[~mask].any()
    for share in np.split(mask, shards):
      assert share.tolist() == sorted(share, reverse=True)
  assert not batch.labels[~batch.caption_mask].any()
  if batch.teacher_frames is not None:
    assert (
      not batch.teacher_frames[~batch.frame_layout.mask].any() and not batch.teacher_text[~batch.caption_mask].any()
    )


@hypothesis.given(
  st.integers(1, 12),
  st.integers(0, 99),
  st.booleans(),
  st.booleans(),
  st.sampled_from([(1, 2), (2, 4), (3, 3), (4, 4)]),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_processes_hold_together_what_one_holds(videos, seed, packing, sort, sharing):
  processes, shards = sharing
  records = fakes.source(videos, seed)
  one = fakes.contents(
    fakes.collate(records, fakes.options(batch_videos=12, packing=packing, sort_by_captions=sort)), 1
  )
  opts = fakes.options(batch_videos=12, packing=packing, sort_by_captions=sort, shards=shards)
  local = shards // processes
  parts = [fakes.collate(records, opts, process, processes) for process in range(processes)]
  assert len({tuple(array.shape for array in jax.tree.leaves(part)) for part in parts}) == 1
  union = {}
  for process, part in enumerate(parts):
    own = fakes.contents(part, local, process * local)
    assert not set(own) & set(union)
    union |= own
  assert sorted(union) == sorted(one) == list(range(videos))
  # To the bit, whatever the shares and the rows.
  for ordinal, video in one.items():
    jax.tree.map(np.testing.assert_array_equal, union[ordinal], video)
  # And joined, the parts are the batch of one process with as many shards.
  whole = fakes.collate(records, opts)
  jax.tree.map(lambda all_, *some: np.testing.assert_array_equal(all_, np.concatenate(some)), whole, *parts)


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
@pytest.mark.parametrize('frames', [12, 13])
def test_features_keep_the_type_that_they_are_stored_in(dtype, frames):
  rng = np.random.default_rng(0)
  records = [fakes.record(f'v{n}', rng, n + 9, n + 9, dtype=dtype) for n in range(frames - 8)]
  batch = fakes.collate(records, fakes.options())
  # Means are float32, so that nothing is rounded.
  averaged = np.float32 if frames > 12 else dtype
  assert batch.student_frames.dtype == batch.teacher_frames.dtype == averaged
  assert batch.student_tokens.dtype == batch.teacher_text.dtype == dtype
  expected = expected_contents(records, fakes.options())
  for ordinal, video in fakes.contents(batch, 1).items():
    if expected[ordinal]['student'].dtype == np.float32 or frames == 12:
      np.testing.assert_array_equal(video['student'], expected[ordinal]['student'])
    np.testing.assert_allclose(video['student'], expected[ordinal]['student'], rtol=1e-6, atol=1e-7)


def test_features_of_another_type_are_named():
  records = fakes.source(4)
  records[1]['student_tokens'] = records[1]['student_tokens'].astype(np.float32)
  with pytest.raises(ValueError, match=r"'v001' has student_tokens .* expected 5.* and float16 .these are float32"):
    fakes.collate(records, fakes.options())


def test_a_process_reads_its_own_records_only():
  records = fakes.source(8)
  found, rows = scan_lengths(records), np.arange(8)
  opts = fakes.options(shards=4)
  read = []

  class Noting(list):
    def __getitem__(self, index):
      read.append(index)
      return super().__getitem__(index)

  plan = make_plan([rows], found, opts)
  for process in range(2):
    collator = Collator(Prepared(Noting(records), found, opts), plan, process, 2)
    read.clear()  # One record was looked at for the widths of the features.
    batch = collator(rows)
    assert len(read) == len(set(read)) == batch.video_mask.sum() == 4


def test_padding_further_changes_no_content():
  records = fakes.source(5, seed=3)
  small = fakes.options(packing=False)
  large = fakes.options(packing=False, batch_videos=16)
  ours, theirs = (fakes.contents(fakes.collate(records, opts), 1) for opts in (small, large))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_padded_sizes_are_those_of_the_longest_with_room_for_longer_ones():
  rng = np.random.default_rng(0)
  opts = fakes.options(packing=False)
  short = [fakes.record(f'v{i}', rng, frames=3, teacher_frames=4, token_lengths=(2,) * 3) for i in range(4)]
  batch = fakes.collate(short, opts)  # One more than any, and captions are never more than these.
  assert batch.student_frames.shape == (8, 4, fakes.STUDENT) and batch.student_tokens.shape == (12, 3, fakes.TOKEN)
  short.append(fakes.record('more', rng, frames=5, teacher_frames=5, token_lengths=(9,)))
  batch = fakes.collate(short, opts)
  assert batch.student_frames.shape[1] == 6 and batch.student_tokens.shape[:2] == (13, 5)


def test_one_caption_a_row_is_no_longer_than_a_caption():
  """Its row has positions that the student has embeddings of; packed rows are longer."""
  records, opts = fakes.source(7), fakes.options(slots=1)
  batch = fakes.collate(records, opts)
  assert_contents(fakes.contents(batch, 1), expected_contents(records, opts))
  assert batch.token_layout.slots == 1 and batch.student_tokens.shape[1] == opts.max_words


def test_shares_are_equal():
  opts = fakes.options(packing=False, batch_videos=6, shards=4)
  batch = fakes.collate(fakes.source(5), opts)
  assert batch.video_mask.shape == (8,) and batch.caption_mask.shape[0] % 4 == 0


@pytest.mark.parametrize('packing', [True, False])
def test_the_number_of_threads_changes_nothing(packing):
  records = fakes.source(7)
  one, many = (fakes.collate(records, fakes.options(read_threads=n, packing=packing)) for n in (1, 8))
  jax.tree.map(np.testing.assert_array_equal, one, many)


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
    fakes.collate(records, fakes.options())


@pytest.mark.parametrize('packing', [True, False])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', [np.float16, np.float32])
@pytest.mark.parametrize('feature', ['student_frames', 'teacher_frames', 'student_tokens', 'teacher_text'])
def test_numbers_that_are_none_are_named(packing, value, dtype, feature):
  records = [fakes.record(f'v{n:03d}', np.random.default_rng(n), dtype=dtype) for n in range(4)]
  row = 1 if feature == 'teacher_text' else 0  # Later ones may be cut off, or in no slot.
  records[2][feature][row, 1] = value
  with pytest.raises(ValueError, match=f"'v002': {feature} hold NaN.* the first of them row {row};"):
    fakes.collate(records, fakes.options(packing=packing))


@pytest.mark.parametrize('feature', ['student_frames', 'teacher_frames', 'student_tokens', 'teacher_text'])
def test_features_of_another_width_are_named(feature):
  records = fakes.source(4)
  records[2][feature] = records[2][feature][:, :-1]
  with pytest.raises(ValueError, match=f"'v002' has {feature} of . features; expected"):
    fakes.collate(records, fakes.options())


def test_shards_that_do_not_divide_over_processes_are_refused():
  with pytest.raises(ValueError, match='shards is 4, which 3 processes cannot share'):
    fakes.collate(fakes.source(4), fakes.options(shards=4), 0, 3)


def test_a_set_without_teacher_asks_for_teacher_false():
  with pytest.raises(ValueError, match='teacher=False'):
    fakes.collate(fakes.source(2, teacher=False), fakes.options())


@pytest.mark.parametrize(('packing', 'shards'), [(True, 1), (True, 2), (False, 8)])
def test_anchors_lie_in_the_slots_of_their_captions(packing, shards):
  records = fakes.source(7, 3)
  for number, record in enumerate(records):
    captions = np.arange(len(record['token_lengths']), dtype=np.float32)
    record['query_anchors'] = np.stack([np.full_like(captions, 1 + number), captions], axis=1)
  batch = fakes.collate(records, fakes.options(packing=packing, shards=shards, sort_by_captions=False))
  expected = np.concatenate([record['query_anchors'] for record in records])
  ordinals = batch.token_layout.ordinals
  np.testing.assert_array_equal(batch.query_anchors[ordinals >= 0], expected[ordinals[ordinals >= 0]])
  assert not batch.query_anchors[ordinals < 0].any() and (ordinals >= 0).sum() == len(expected)
