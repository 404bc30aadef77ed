"""Few shapes, little padding, the same for every process."""

import dataclasses
import logging

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dlkd_jax.data import shapes
from dlkd_jax.data.packing import arrange
from dlkd_jax.data.shapes import make_plan
from dlkd_jax.data.train_pipeline import train_pipeline
from dlkd_jax.tools import lengths as models
from tests import options as made
from tests.data import fakes


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
      assert len(shard.records) <= shape.videos and len(shard.words) <= shape.captions
      assert shard.frame_places.count <= shape.frame_rows and shard.token_places.count <= shape.token_rows
      assert (
        shard.frames.max(initial=0) <= shape.frame_positions and shard.words.max(initial=0) <= shape.token_positions
      )
      assert shard.frame_places.slots.max(initial=0) < shape.frame_slots
      assert shard.token_places.slots.max(initial=0) < shape.token_slots


@hypothesis.given(st.integers(1, 60), st.integers(2, 7), st.booleans(), st.integers(0, 999))
@hypothesis.settings(max_examples=25, deadline=None)
def test_ordinals_do_not_depend_on_the_shards(videos, shards, packing, seed):
  rng = np.random.default_rng(seed)
  one = fakes.options(packing=packing)
  found = fakes.lengths(rng, videos, one)
  rows = rng.permutation(videos)

  def numbered(opts):
    made = arrange(rows, found, opts)
    videos_of = {int(n): int(row) for shard in made for n, row in zip(shard.videos, shard.records, strict=True)}
    captions = {}
    for shard in made:
      owner = np.repeat(shard.records, shard.captions)
      captions |= {int(n): (int(v), int(w)) for n, v, w in zip(shard.caption_ordinals, owner, shard.words, strict=True)}
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
  room = np.array([(s.frame_rows * s.frame_positions, s.token_rows * s.token_positions) for s in taken]).sum(axis=0)
  assert (1 - real / room < 0.1).all()
  assert abs(plan.padding.frames - (1 - real / room)[0]) < 0.015


def test_short_last_batches_take_less_where_they_are_many():
  opts = made.pipeline_options()
  plan = make_plan(batches(300, 128), models.tvr_like(300), opts)
  assert plan.levels[0].captions < 300 and plan.levels[-1].captions == 640
  assert plan.shares == pytest.approx((1 / 3, 2 / 3))
  # One in a hundred saves less than a compilation is worth.
  assert len(make_plan(batches(12810, 128, epochs=1), models.full(12810), opts).levels) == 1


def test_sizes_beyond_the_plan_grow_by_steps(caplog):
  shapes._warn_of_growth.cache_clear()
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
  levels = shapes._choose_levels(needs, np.array([13, 12, 12]), opts, shapes.Slots(2, 2))
  assert 1 <= len(levels) <= 2
  sizes = [shapes._sizes(level, opts) for level in levels]
  assert (needs <= sizes[-1]).all() and all(size.max() <= 13 for size in sizes)
  costs = [levels[0 if (need <= sizes[0]).all() else -1].cost for need in needs]
  assert sum(costs) <= len(needs) * levels[-1].cost
  if len(levels) == 2:
    assert levels[0].cost < levels[1].cost and sum(costs) <= 0.98 * len(needs) * levels[-1].cost
  assert levels == shapes._choose_levels(needs[::-1], np.array([13, 12, 12]), opts, shapes.Slots(2, 2))


def test_two_kinds_of_batches_get_two_shapes():
  needs = np.array([[10, 20, 5]] * 9 + [[3, 7, 2]])
  levels = shapes._choose_levels(needs, np.array([99, 99, 5]), fakes.options(), shapes.Slots(2, 2))
  assert [shapes._sizes(level, fakes.options()).tolist() for level in levels] == [[3, 7, 2], [11, 21, 5]]
