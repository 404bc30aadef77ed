"""What stays on the devices: a batch of row numbers becomes, in the step, the batch of features to the bit."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dlkd_jax import sharding
from dlkd_jax.data.packing import make_plan
from dlkd_jax.data.prepared import Prepared
from dlkd_jax.data.resident import Resident
from dlkd_jax.data.sources import scan_lengths
from dlkd_jax.data.train_pipeline import Collator, train_pipeline
from tests.data import fakes


def both(records, opts, process=0, processes=1):
  """A batch of all records: the numbers, what they become, and the features themselves."""
  found, rows = scan_lengths(records), np.arange(len(records))
  prepared, plan = Prepared(records, found, opts), make_plan([rows], found, opts)
  resident = Resident(prepared)
  streamed, numbers = (
    Collator(prepared, plan, process, processes, *more)(rows[::-1].copy()) for more in ((), (resident,))
  )
  resident.place(lambda tables: jax.tree.map(jnp.asarray, tables))
  return numbers, resident.fill(resident.params, numbers), streamed


def assert_same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert jax.tree.map(lambda x: x.dtype, ours) == jax.tree.map(lambda x: x.dtype, theirs)


@hypothesis.given(
  st.integers(1, 12),
  st.integers(0, 99),
  st.booleans(),
  st.booleans(),
  st.booleans(),
  st.sampled_from([(1, 1), (1, 4), (2, 4), (3, 3)]),
)
@hypothesis.settings(max_examples=12, deadline=None)
def test_numbers_become_the_features_to_the_bit(videos, seed, packing, teacher, anchors, sharing):
  processes, shards = sharing
  records = fakes.source(videos, seed, teacher=teacher)
  if anchors:
    rng = np.random.default_rng(seed)
    for record in records:
      record['query_anchors'] = rng.standard_normal((len(record['token_lengths']), 3)).astype(np.float32)
  opts = fakes.options(batch_videos=12, packing=packing, teacher=teacher, shards=shards)
  for process in range(processes):
    numbers, filled, streamed = both(records, opts, process, processes)
    assert_same(filled.check(), streamed)
    numbers = jax.tree.leaves(numbers.check())
    assert {x.dtype for x in numbers} <= {np.dtype(np.int32), np.dtype(bool)}


@pytest.mark.parametrize('devices', [1, 8])
def test_every_device_takes_its_own_rows(devices):
  records, opts = fakes.source(21), fakes.options(shards=devices)
  mesh = sharding.make_mesh(jax.devices()[:devices])
  streamed = iter(train_pipeline(records, opts, 0))
  pipeline = train_pipeline(records, opts, 0, room=1e9)
  resident, batches = pipeline.resident, iter(pipeline)
  assert {leaf.shape[-1] for leaf in jax.tree.leaves(pipeline.shapes()[0].student_frames)} == {1}
  resident.place(functools.partial(sharding.replicate, mesh=mesh))
  fill = jax.jit(functools.partial(resident.fill, mesh=mesh), out_shardings=sharding.rows(mesh))
  for _ in range(4):
    assert_same(fill(resident.params, sharding.shard_batch(next(batches), mesh)), next(streamed))
  text = fill.lower(resident.params, sharding.shard_batch(next(batches), mesh)).compile().as_text()
  assert 'all-gather' not in text and 'all-reduce' not in text
  batches.close(), streamed.close()


def test_what_does_not_fit_travels_with_the_batch():
  records, opts = fakes.source(9), fakes.options()
  needed = train_pipeline(records, opts, 0, room=1e9).resident.nbytes
  found = scan_lengths(records)
  frames, words = found.frames(np.arange(9), opts).sum(), found.words(np.arange(9), opts).sum()
  captions = len(found.tokens)
  # Frames of student and teacher are averaged, so float32; tokens and texts are as stored, float16.
  widths = fakes.STUDENT + fakes.TEACHER
  assert needed == 4 * (frames + 1) * widths + 2 * ((words + 1) * fakes.TOKEN + (captions + 1) * fakes.TEACHER)
  for room, fits in ((needed, True), (needed - 1, False), (0, False)):
    pipeline = train_pipeline(records, opts, 0, room=room)
    assert (pipeline.resident is not None) == fits
  pixels = [fakes.record('v', np.random.default_rng(0), pixels=4)]
  assert train_pipeline(pixels, fakes.options(pixels=True), 0, room=1e9).resident is None


def test_records_are_read_once_and_a_bad_one_is_named():
  reads = []

  class Counting(list):
    def __getitem__(self, index):
      reads.append(index)
      return super().__getitem__(index)

  records = fakes.source(9)
  found = scan_lengths(records)
  resident = Resident(Prepared(Counting(records), found, fakes.options()))
  reads.clear()
  for _ in range(2):
    resident.place(lambda tables: tables)
  assert sorted(reads) == list(range(9))
  assert all(not table[0].any() and np.isfinite(table).all() for table in resident.params.values())
  records[5]['teacher_frames'][0, 0] = np.nan
  resident = Resident(Prepared(records, found, fakes.options()))
  with pytest.raises(ValueError, match=r'v005.*teacher_frames hold NaN'):
    resident.place(lambda tables: tables)
  assert isinstance(resident.params['student_frames'], jax.ShapeDtypeStruct)
