"""Epochs, seeds, processes, resuming."""

import collections
import itertools
import json

import jax
import numpy as np
import pytest

from dlkd_jax.data import train_pipeline as train_pipeline_lib
from dlkd_jax.data.batch import Batch
from dlkd_jax.data.sources import scan_lengths
from dlkd_jax.data.train_pipeline import plan_of_run, train_pipeline
from tests.data import fakes


def marked_source(videos):
  """Records whose teacher text names the video and the caption, so that a batch tells what is in it."""
  records = fakes.source(videos)
  for number, record in enumerate(records):
    record['teacher_text'][:, 0] = number
    record['teacher_text'][:, 1] = np.arange(len(record['token_lengths']))
  return records


def drawn(batch, shards=1, first_shard=0):
  """Returns the numbers of the videos of a batch, in order."""
  found = fakes.contents(batch, shards, first_shard)
  return [int(next(iter(found[ordinal]['captions'].values()))[1][0]) for ordinal in sorted(found)]


def take(pipeline, count):
  batches = iter(pipeline)
  taken = list(itertools.islice(batches, count))
  batches.close()
  return taken


def assert_same(ours: Batch, theirs: Batch):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail('dtypes differ'), ours, theirs)


def test_every_epoch_has_every_video_once_in_another_order():
  records = marked_source(21)
  pipeline = train_pipeline(records, fakes.options(sort_by_captions=False), seed=3)
  assert pipeline.steps_per_epoch == 3 and pipeline.num_videos == 21
  orders = []
  batches = take(pipeline, 9)
  for epoch in range(3):
    own = batches[3 * epoch : 3 * epoch + 3]
    assert [batch.video_mask.sum() for batch in own] == [8, 8, 5]
    assert all(batch.video_mask.shape == (8,) for batch in own)
    orders.append([video for batch in own for video in drawn(batch)])
    assert sorted(orders[-1]) == list(range(21))
  assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize('rooms', [0, 1e4, 1e9])
def test_records_are_kept_where_there_is_room(rooms, monkeypatch):
  reads = collections.Counter()

  class Counting(list):
    def __getitem__(self, index):
      reads[index] += 1
      return super().__getitem__(index)

  monkeypatch.setattr(train_pipeline_lib, 'available_bytes', lambda: rooms)
  records, opts = Counting(fakes.source(21)), fakes.options()
  expected = take(train_pipeline(list(records), opts, 0), 9)
  reads.clear()
  pipeline = train_pipeline(records, opts, 0, lengths=scan_lengths(list(records)))
  for ours, theirs in zip(take(pipeline, 9), expected, strict=True):
    assert_same(ours, theirs)
  again = [index for index in range(1, 21) if reads[index] > 1]
  assert len(again) == 20 if not rooms else 0 < len(again) < 20 if rooms == 1e4 else not again


def test_every_caption_comes_once_an_epoch():
  records = marked_source(21)
  seen = collections.Counter()
  for batch in take(train_pipeline(records, fakes.options(), seed=0), 3):
    seen.update(map(tuple, batch.teacher_text[batch.caption_mask, :2].astype(int).tolist()))
  expected = [(n, k) for n, record in enumerate(records) for k in range(len(record['token_lengths']))]
  assert seen == collections.Counter(expected)


def test_a_seed_gives_its_own_order_and_always_the_same():
  records = marked_source(21)
  opts = fakes.options(sort_by_captions=False)
  for ours, theirs in zip(*(take(train_pipeline(records, opts, seed=5), 5) for _ in range(2)), strict=True):
    assert_same(ours, theirs)
  first, second = (take(train_pipeline(records, opts, seed=seed), 6) for seed in (0, 1))
  orders = [[drawn(batch) for batch in batches] for batches in (first, second)]
  assert orders[0][:3] != orders[1][:3]
  # Neighbouring seeds do not repeat each other an epoch later.
  assert orders[0][3:] != orders[1][:3]


@pytest.mark.parametrize('stop', [0, 1, 2, 3, 4])
def test_resuming_gives_the_same_bits(stop):
  records = fakes.source(21)
  opts = fakes.options()
  straight = take(train_pipeline(records, opts, seed=1), 7)
  before = iter(train_pipeline(records, opts, seed=1))
  for _ in range(stop):
    next(before)
  state = json.loads(json.dumps(before.get_state()))
  next(before)  # What is read ahead, or taken later, is not part of the state.
  before.close()
  after = iter(train_pipeline(records, opts, seed=1))
  after.set_state(state)
  assert after.batches == stop and after.get_state() == state
  for expected in straight[stop:]:
    assert_same(next(after), expected)
  after.set_state(state)  # Also backwards, in the middle of reading ahead.
  assert_same(next(after), straight[stop])
  after.close()


def test_a_state_of_another_order_is_refused():
  state = iter(train_pipeline(fakes.source(9), fakes.options(), seed=1)).get_state()
  for pipeline, name in (
    (train_pipeline(fakes.source(9), fakes.options(), seed=2), 'seed'),
    (train_pipeline(fakes.source(10), fakes.options(), seed=1), 'num_videos'),
    (train_pipeline(fakes.source(9), fakes.options(batch_videos=4), seed=1), 'batch_videos'),
  ):
    with pytest.raises(ValueError, match=name):
      iter(pipeline).set_state(state)


@pytest.mark.parametrize('videos', [16, 21])
@pytest.mark.parametrize('packing', [True, False])
def test_processes_share_every_batch(videos, packing):
  records = marked_source(videos)
  whole = take(train_pipeline(records, fakes.options(sort_by_captions=False, packing=packing), seed=2), 4)
  opts = fakes.options(sort_by_captions=False, packing=packing, shards=8)
  pipelines = [train_pipeline(records, opts, 2, process, 4) for process in range(4)]
  assert {pipeline.steps_per_epoch for pipeline in pipelines} == {-(-videos // 8)}
  assert len({repr(pipeline.plan) for pipeline in pipelines}) == len({pipeline.plan for pipeline in pipelines}) == 1
  for batch, *parts in zip(whole, *(take(pipeline, 4) for pipeline in pipelines), strict=True):
    union = {}
    for process, part in enumerate(parts):
      union |= fakes.contents(part, 2, 2 * process)
    jax.tree.map(np.testing.assert_array_equal, union, fakes.contents(batch, 1))
    assert len({tuple(array.shape for array in jax.tree.leaves(part)) for part in parts}) == 1


@pytest.mark.parametrize('processes', [(2, 1), (1, 2)])
def test_another_number_of_processes_resumes(processes):
  records = marked_source(21)
  before, after = processes
  straight = [drawn(batch) for batch in take(train_pipeline(records, fakes.options(), 4), 6)]

  def iterators(count):
    opts = fakes.options(shards=2 * count)
    return [iter(train_pipeline(records, opts, 4, process, count)) for process in range(count)]

  first, second = iterators(before), iterators(after)
  for iterator in first:
    for _ in range(4):
      next(iterator)
  states = [json.loads(json.dumps(iterator.get_state())) for iterator in first]
  assert all(state == states[0] for state in states)
  for iterator in second:
    iterator.set_state(states[0])
  for expected in straight[4:]:
    union = {}
    for process, iterator in enumerate(second):
      union |= fakes.contents(next(iterator), 2, 2 * process)
    assert [int(next(iter(union[n]['captions'].values()))[1][0]) for n in sorted(union)] == expected
  for iterator in (*first, *second):
    iterator.close()


def test_unfit_processes_are_refused():
  records = fakes.source(4)
  with pytest.raises(ValueError, match='3 processes cannot share'):
    train_pipeline(records, fakes.options(), 0, 0, 3)
  with pytest.raises(ValueError, match='process_index is 2'):
    train_pipeline(records, fakes.options(shards=2), 0, 2, 2)
  with pytest.raises(ValueError, match='no videos'):
    train_pipeline([], fakes.options(), 0)
  with pytest.raises(ValueError, match='lengths of 3 records and 4 records'):
    train_pipeline(records, fakes.options(), 0, lengths=scan_lengths(records).first(3))


@pytest.mark.parametrize('packing', [True, False])
def test_given_lengths_change_nothing(packing):
  records, opts = fakes.source(9), fakes.options(packing=packing)
  given, found = (take(train_pipeline(records, opts, 0, lengths=n), 3) for n in (scan_lengths(records), None))
  for ours, theirs in zip(given, found, strict=True):
    assert_same(ours, theirs)


def test_batches_take_few_shapes_of_the_plan():
  records = fakes.source(40)
  opts = fakes.options(shards=2)
  pipeline = train_pipeline(records, opts, 0)
  shapes = collections.Counter(tuple(a.shape for a in jax.tree.leaves(batch)) for batch in take(pipeline, 20))
  planned = [tuple(a.shape for a in jax.tree.leaves(shapes)) for shapes in pipeline.shapes()]
  assert len(planned) <= 2 and set(shapes) <= set(planned)
  assert plan_of_run(scan_lengths(records), opts, 0) == pipeline.plan


def test_a_bad_record_is_named_by_the_iterator():
  records = fakes.source(4)
  records[2]['student_frames'] = records[2]['student_frames'][:0]
  with pytest.raises(ValueError, match="'v002' has no student frames"):
    next(iter(train_pipeline(records, fakes.options(), seed=0)))


def test_reading_ahead_changes_nothing():
  records = fakes.source(9)
  ahead, direct = (take(train_pipeline(records, fakes.options(prefetch_batches=depth), seed=0), 4) for depth in (3, 0))
  for ours, theirs in zip(ahead, direct, strict=True):
    assert_same(ours, theirs)
