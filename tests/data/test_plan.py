"""Few shapes, little padding, the same for every process."""

import dataclasses
import itertools
import logging

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dlkd_jax.data import ladder
from dlkd_jax.data import plan as plan_module
from dlkd_jax.data.arrangement import arrange
from dlkd_jax.data.plan import batch_shapes, full_padding, make_plan
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
      assert len(shard.rows) <= shape.videos and len(shard.words) <= shape.captions
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
    videos_of = {int(n): int(row) for shard in made for n, row in zip(shard.videos, shard.rows, strict=True)}
    captions = {}
    for shard in made:
      owner = np.repeat(shard.rows, shard.captions)
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
  assert 2 <= len(plan.levels) <= 4
  shapes, real = [], np.zeros(2)
  for rows in batches(4000, 128, seed=5):
    shapes.append(plan.shape_for(arrange(rows, found, opts, plan.slots)))
    real += found.frames(rows, opts).sum(), found.words(rows, opts).sum()
  assert len(set(shapes)) <= 5  # One may have grown.
  room = np.array([(s.frame_rows * s.frame_positions, s.token_rows * s.token_positions) for s in shapes]).sum(axis=0)
  assert (1 - real / room < 0.06).all()
  assert abs(plan.padding.frames - (1 - real / room)[0]) < 0.015


def test_the_short_last_batch_has_a_shape_of_its_own():
  opts = made.pipeline_options()
  plan = make_plan(batches(300, 128), models.tvr_like(300), opts)
  assert plan.levels[0].captions < 300 and plan.levels[-1].captions == 640


def test_sizes_beyond_the_plan_grow_by_steps(caplog):
  plan_module._warn_of_growth.cache_clear()
  opts = fakes.options()
  found = fakes.lengths(np.random.default_rng(0), 64, opts)
  plan = make_plan([np.arange(2)], found, opts)
  with caplog.at_level(logging.WARNING):
    shapes = [plan.shape_for(arrange(np.arange(count), found, opts, plan.slots)) for count in (8, 8, 2)]
  assert shapes[0] == shapes[1] not in plan.levels and shapes[2] in plan.levels
  assert caplog.text.count('compiles once more') == 1


@pytest.mark.parametrize('packing', [True, False])
@pytest.mark.parametrize('teacher', [True, False])
@pytest.mark.parametrize('shards', [1, 4])
def test_shapes_without_data_are_those_with(packing, teacher, shards):
  opts = fakes.options(packing=packing, teacher=teacher, shards=shards)
  records = fakes.source(7)
  batch = fakes.collate(records, opts)
  plan = make_plan([np.arange(7)], fakes.scan_lengths(records), opts)
  sizes = (fakes.STUDENT, fakes.TOKEN, fakes.TEACHER)
  abstract = plan.shapes(0, sizes, teacher).check()
  assert jax.tree.structure(abstract) == jax.tree.structure(batch)
  jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f'{a} {b.shape}'), abstract, batch)


def test_full_padding_is_what_lists_of_one_size_give():
  opts = fakes.options(packing=False, frame_sizes=(12,), word_sizes=(5,), caption_sizes=(40,), shards=2)
  plan = make_plan([np.arange(8)], fakes.scan_lengths(fakes.source(8)), opts)
  assert plan.levels == (full_padding(opts, 20),)
  assert batch_shapes(plan.levels[0], 2, (3, 4, 5)).student_frames.shape == (8, 12, 3)


@pytest.mark.parametrize('packing', [True, False])
def test_a_plan_tells_what_it_is(packing):
  opts = fakes.options(packing=packing)
  text = repr(make_plan(batches(50, 8), fakes.lengths(np.random.default_rng(0), 50, opts), opts))
  assert 'packed' in text if packing else 'padded' in text
  assert 'rows of 12 frames' in text and '% of tokens in the 14 batches' in text


@hypothesis.given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 999))
@hypothesis.settings(max_examples=30, deadline=None)
def test_levels_hold_all_and_cost_no_more_than_fewer(count, most, seed):
  needs = np.random.default_rng(seed).integers(1, 30, (count, 3))
  weights = np.array([5, 3, 1])
  costs = []
  for allowed in range(1, most + 1):
    levels, taken = ladder.choose(needs, weights, allowed)
    assert len(levels) <= allowed and (needs <= levels[taken]).all()
    price = levels @ weights
    assert price.tolist() == sorted(price)
    for need, level in zip(needs, taken, strict=True):
      assert not any((need <= lower).all() for lower in levels[:level])
    costs.append(price[taken].sum())
  # But for the room of a level far below the next.
  assert all(fewer * 1.15 >= more for fewer, more in itertools.pairwise(costs))


def test_two_kinds_of_batches_get_two_levels():
  needs = np.array([[10, 20, 5]] * 9 + [[3, 7, 2]])
  levels, taken = ladder.choose(needs, np.ones(3, int), 4)
  # The small kind was seen once, so its level has room for a larger one.
  assert levels.tolist() == [[4, 8, 3], [10, 20, 5]] and taken.tolist() == [1] * 9 + [0]


def test_unseen_batches_of_a_small_kind_keep_their_level():
  rng = np.random.default_rng(0)

  def kind(mean, count):
    return np.rint(rng.normal(mean, mean / 40, (count, 3))).astype(int)

  levels, _ = ladder.choose(np.concatenate([kind(200, 20), kind(80, 5)]), np.ones(3, int), 4)
  held = (kind(80, 40)[:, None] <= levels[0]).all(axis=-1)
  assert levels[0].max() < 100 and held.mean() > 0.75
