"""Rows hold every sequence once, whole, within limits; shards get as many videos, and as much work; shapes are few."""

import dataclasses
import logging

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dlkd_jax.data import packing as packing_lib
from dlkd_jax.data.batch import Grid, Sides
from dlkd_jax.data.packing import arrange, make_plan
from dlkd_jax.data.train_pipeline import train_pipeline
from dlkd_jax.tools import lengths as models
from tests import options as made
from tests.data import fakes

SIZES = st.integers(1, 12).flatmap(
  lambda positions: st.tuples(
    st.just(positions), st.integers(1, 5), st.lists(st.integers(1, positions), max_size=60).map(np.array)
  )
)


@hypothesis.given(SIZES)
def test_sequences_are_whole_and_apart(case):
  positions, slots, lengths = case
  lengths = lengths.astype(int)
  places = packing_lib.pack(lengths, positions, slots)
  taken = np.zeros((places.row_count, positions), int)
  for row, start, length in zip(places.rows, places.starts, lengths, strict=True):
    assert start + length <= positions
    taken[row, start : start + length] += 1
  assert taken.max(initial=0) <= 1 and taken.sum() == lengths.sum()
  for row in range(places.row_count):
    own = np.sort(places.slots[places.rows == row])
    assert 1 <= len(own) <= slots and own.tolist() == list(range(len(own)))
    # Without gaps from the first position on.
    assert taken[row, : taken[row].sum()].all()
  again = packing_lib.pack(lengths, positions, slots)
  assert all(np.array_equal(getattr(places, name), getattr(again, name)) for name in ('rows', 'slots', 'starts'))


@hypothesis.given(SIZES)
def test_no_two_rows_could_be_one(case):
  positions, slots, lengths = case
  places = packing_lib.pack(lengths.astype(int), positions, slots)
  used = np.bincount(places.rows, lengths, places.row_count) if len(lengths) else np.zeros(0)
  count = np.bincount(places.rows, minlength=places.row_count)
  for a in range(places.row_count):
    for b in range(a):
      assert used[a] + used[b] > positions or count[a] + count[b] > slots


@hypothesis.given(SIZES, st.integers(0, 3), st.integers(0, 3))
def test_layouts_name_every_position(case, more_rows, more_sequences):
  positions, slots, lengths = case
  lengths = lengths.astype(int)
  places = packing_lib.pack(lengths, positions, slots)
  ordinals = np.arange(len(lengths)) * 3 + 1
  rows = places.row_count + more_rows
  grid = Grid(rows, positions, slots, len(lengths) + more_sequences)
  layout, by_sequence = packing_lib.make_layout([places._replace(ordinals=ordinals)], grid)
  assert layout.slot.shape == layout.position.shape == (rows, positions) and layout.ordinals.shape == (rows, slots)
  for n, (row, slot) in enumerate(zip(places.rows, places.slots, strict=True)):
    at = layout.slot[row] == slot
    assert at.sum() == lengths[n] and layout.position[row, at].tolist() == list(range(lengths[n]))
    assert layout.ordinals[row, slot] == ordinals[n] and layout.where[n] == row * slots + slot
  assert layout.mask.sum() == lengths.sum() and (layout.ordinals >= 0).sum() == len(lengths)
  assert not layout.where[len(lengths) :].any() and not layout.position[~layout.mask].any()
  assert all(array.dtype == np.int32 for array in vars(layout).values())
  assert by_sequence.tolist() == ordinals.tolist() + [-1] * more_sequences


def test_usual_lengths_leave_little_room():
  rng = np.random.default_rng(0)
  for mean, spread, positions, count, limit in (
    (50, 15, 128, 128, 0.06),
    (50, 15, 128, 4000, 0.02),
    (13, 4, 60, 640, 0.03),
  ):
    lengths = np.clip(np.round(rng.normal(mean, spread, count)), 1, positions).astype(int)
    places = packing_lib.pack(lengths, positions, 8)
    assert 1 - lengths.sum() / (places.row_count * positions) < limit


def test_slots_limit_a_row():
  places = packing_lib.pack(np.ones(10, int), 100, 4)
  assert places.row_count == 3 and places.slots.max() == 3


@hypothesis.given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_video_goes_to_one_shard_within_its_places(videos, shards, seed):
  loads = np.random.default_rng(seed).integers(0, 50, (videos, 3))
  found = packing_lib.share(loads, shards)
  assert found.shape == (videos,) and np.array_equal(found, packing_lib.share(loads, shards))
  if videos:
    assert found.min() >= 0 and found.max() < shards
    assert np.bincount(found).max() <= -(-videos // shards)


def test_shares_are_balanced_in_every_resource():
  rng = np.random.default_rng(0)
  loads = np.stack([rng.integers(5, 128, 512), rng.integers(20, 90, 512), rng.integers(1, 8, 512)], axis=1)
  found = packing_lib.share(loads, 16)
  for resource in loads.T:
    held = np.bincount(found, resource)
    assert held.max() < 1.03 * held.mean()


def test_large_loads_do_not_overflow():
  found = packing_lib.share(np.full((6, 2), 2**40), 3)
  assert np.bincount(found).tolist() == [2, 2, 2]


def batches(videos, size, epochs=2, seed=0):
  rng = np.random.default_rng(seed)
  orders = [rng.permutation(videos) for _ in range(epochs)]
  return [order[start : start + size] for order in orders for start in range(0, videos, size)]


@pytest.mark.parametrize('packing', [True, False])
@hypothesis.given(st.integers(1, 60), st.integers(1, 5), st.booleans(), st.integers(0, 999))
@hypothesis.settings(max_examples=25, deadline=None)
def test_every_batch_fits_its_shape_whichever_it_is(packing, videos, shards, teacher, seed):
  opts = fakes.options(packing=packing, shards=shards, teacher=teacher, slots=3)
  found = fakes.lengths(np.random.default_rng(seed), videos, opts)
  plan = make_plan(batches(videos, 8)[:3], found, opts)
  assert plan == make_plan(batches(videos, 8)[:3], found, opts)
  for rows in batches(videos, 8, epochs=1, seed=1):
    shards_ = arrange(rows, found, opts, plan.slots)
    shape = plan.shape_for(shards_)
    for shard in shards_:
      for side, grid in ((shard.frames, shape.frames), (shard.tokens, shape.tokens)):
        assert len(side.lengths) <= grid.sequences and side.row_count <= grid.rows
        assert side.lengths.max(initial=0) <= grid.positions and side.slots.max(initial=0) < grid.slots


@hypothesis.given(st.integers(1, 60), st.integers(2, 7), st.booleans(), st.integers(0, 999))
@hypothesis.settings(max_examples=25, deadline=None)
def test_ordinals_do_not_depend_on_the_shards(videos, shards, packing, seed):
  rng = np.random.default_rng(seed)
  one = fakes.options(packing=packing)
  found = fakes.lengths(rng, videos, one)
  rows = rng.permutation(videos)

  def numbered(opts):
    made = arrange(rows, found, opts)
    videos_of = {
      int(n): int(row) for shard in made for n, row in zip(shard.frames.ordinals, shard.records, strict=True)
    }
    captions = {}
    for shard in made:
      owner = np.repeat(shard.records, shard.captions)
      of_shard = zip(shard.tokens.ordinals, owner, shard.tokens.lengths, strict=True)
      captions |= {int(n): (int(v), int(w)) for n, v, w in of_shard}
    return videos_of, captions

  first = numbered(one)
  assert first == numbered(dataclasses.replace(one, shards=shards))
  # The order of the batch: by captions, most first, then as drawn; captions follow their videos.
  expected = sorted(rows, key=lambda row: -found.captions[row])
  assert [first[0][n] for n in range(videos)] == expected
  assert [first[1][n][0] for n in range(len(first[1]))] == np.repeat(expected, found.captions[expected]).tolist()


def test_padding_is_little_at_usual_lengths():
  opts = made.pipeline_options()
  found = models.tvr_like(4000, seed=1)
  plan = make_plan(batches(4000, 128, epochs=6), found, opts)
  assert len(plan.levels) == 2
  taken, real = [], np.zeros(2)
  for rows in batches(4000, 128, seed=5):
    taken.append(plan.shape_for(arrange(rows, found, opts, plan.slots)))
    real += found.frames(rows, opts).sum(), found.words(rows, opts).sum()
  assert set(taken) <= set(plan.levels)
  room = np.sum([shape.positions for shape in taken], axis=0)
  assert (1 - real / room < 0.1).all()
  assert abs(plan.padding.frames - (1 - real / room)[0]) < 0.015


def test_short_last_batches_take_less_where_they_are_many():
  opts = made.pipeline_options()
  plan = make_plan(batches(300, 128), models.tvr_like(300), opts)
  assert plan.levels[0].tokens.sequences < 300 and plan.levels[-1].tokens.sequences == 640
  assert plan.shares == pytest.approx((1 / 3, 2 / 3))
  # One in a hundred saves less than a compilation is worth.
  assert len(make_plan(batches(12810, 128, epochs=1), models.full(12810), opts).levels) == 1


def test_sizes_beyond_the_plan_grow_by_steps(caplog):
  packing_lib._warn_of_growth.cache_clear()
  opts = fakes.options()
  found = fakes.lengths(np.random.default_rng(0), 64, opts)
  plan = make_plan([np.arange(2)], found, opts)
  with caplog.at_level(logging.WARNING):
    taken = [plan.shape_for(arrange(np.arange(count), found, opts, plan.slots)) for count in (8, 8, 2)]
  assert taken[0] == taken[1] not in plan.levels and taken[2] in plan.levels
  assert caplog.text.count('compiles once more') == 1


@pytest.mark.parametrize('packing', [True, False])
@pytest.mark.parametrize('teacher', [True, False])
@pytest.mark.parametrize('shards', [1, 4])
def test_shapes_without_data_are_those_with(packing, teacher, shards):
  opts = fakes.options(packing=packing, teacher=teacher, shards=shards)
  records = fakes.source(7)
  pipeline = train_pipeline(records, opts, 0)
  batch = next(iter(pipeline))
  abstract = next(each for each in pipeline.shapes() if each.labels.shape == batch.labels.shape)
  abstract.check()
  assert jax.tree.structure(abstract) == jax.tree.structure(batch)
  jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f'{a} {b.shape}'), abstract, batch)


@pytest.mark.parametrize('packing', [True, False])
def test_a_plan_tells_what_it_is(packing):
  opts = fakes.options(packing=packing)
  text = repr(make_plan(batches(50, 8), fakes.lengths(np.random.default_rng(0), 50, opts), opts))
  assert 'packed' in text if packing else 'padded' in text
  assert 'rows of 12 frames' in text and '% of tokens in the 14 batches' in text


@pytest.mark.parametrize('packing', [True, False])
@hypothesis.given(st.lists(st.tuples(*[st.integers(1, 12)] * 3), min_size=1, max_size=40))
@hypothesis.settings(max_examples=40, deadline=None)
def test_two_shapes_hold_all_and_cost_no_more_than_one(packing, needs):
  opts = fakes.options(packing=packing, max_words=12, word_sizes=(12,), row_words=12)
  needs = np.array(needs)
  levels = packing_lib._choose_levels(needs, np.array([13, 12, 12]), opts, Sides(2, 2))
  assert 1 <= len(levels) <= 2
  sizes = [packing_lib._sizes(level, opts) for level in levels]
  assert (needs <= sizes[-1]).all() and all(size.max() <= 13 for size in sizes)
  costs = [levels[0 if (need <= sizes[0]).all() else -1].cost for need in needs]
  assert sum(costs) <= len(needs) * levels[-1].cost
  if len(levels) == 2:
    assert levels[0].cost < levels[1].cost and sum(costs) <= 0.98 * len(needs) * levels[-1].cost
  assert levels == packing_lib._choose_levels(needs[::-1], np.array([13, 12, 12]), opts, Sides(2, 2))


def test_two_kinds_of_batches_get_two_shapes():
  needs = np.array([[10, 20, 5]] * 9 + [[3, 7, 2]])
  levels = packing_lib._choose_levels(needs, np.array([99, 99, 5]), fakes.options(), Sides(2, 2))
  assert [packing_lib._sizes(level, fakes.options()).tolist() for level in levels] == [[3, 7, 2], [11, 21, 5]]
