"""Rows hold every sequence once, whole, within their limits; shards get as many videos, and as much work."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dlkd_jax.data import packing

SIZES = st.integers(1, 12).flatmap(
  lambda positions: st.tuples(
    st.just(positions), st.integers(1, 5), st.lists(st.integers(1, positions), max_size=60).map(np.array)
  )
)


@hypothesis.given(SIZES)
def test_sequences_are_whole_and_apart(case):
  positions, slots, lengths = case
  lengths = lengths.astype(int)
  places = packing.pack(lengths, positions, slots)
  taken = np.zeros((places.count, positions), int)
  for row, start, length in zip(places.rows, places.starts, lengths, strict=True):
    assert start + length <= positions
    taken[row, start : start + length] += 1
  assert taken.max(initial=0) <= 1 and taken.sum() == lengths.sum()
  for row in range(places.count):
    own = np.sort(places.slots[places.rows == row])
    assert 1 <= len(own) <= slots and own.tolist() == list(range(len(own)))
    # Without gaps from the first position on.
    assert taken[row, : taken[row].sum()].all()
  again = packing.pack(lengths, positions, slots)
  assert all(np.array_equal(getattr(places, name), getattr(again, name)) for name in ('rows', 'slots', 'starts'))


@hypothesis.given(SIZES)
def test_no_two_rows_could_be_one(case):
  positions, slots, lengths = case
  places = packing.pack(lengths.astype(int), positions, slots)
  used = np.bincount(places.rows, lengths, places.count) if len(lengths) else np.zeros(0)
  count = np.bincount(places.rows, minlength=places.count)
  for a in range(places.count):
    for b in range(a):
      assert used[a] + used[b] > positions or count[a] + count[b] > slots


@hypothesis.given(SIZES, st.integers(0, 3), st.integers(0, 3))
def test_layouts_name_every_position(case, more_rows, more_sequences):
  positions, slots, lengths = case
  lengths = lengths.astype(int)
  places = packing.pack(lengths, positions, slots)
  ordinals = np.arange(len(lengths)) * 3 + 1
  rows = places.count + more_rows
  layout = packing.make_layout([(places, lengths, ordinals)], rows, positions, slots, len(lengths) + more_sequences)
  assert layout.slot.shape == layout.position.shape == (rows, positions) and layout.ordinals.shape == (rows, slots)
  for n, (row, slot) in enumerate(zip(places.rows, places.slots, strict=True)):
    at = layout.slot[row] == slot
    assert at.sum() == lengths[n] and layout.position[row, at].tolist() == list(range(lengths[n]))
    assert layout.ordinals[row, slot] == ordinals[n] and layout.where[n] == row * slots + slot
  assert layout.mask.sum() == lengths.sum() and (layout.ordinals >= 0).sum() == len(lengths)
  assert not layout.where[len(lengths) :].any() and not layout.position[~layout.mask].any()
  assert all(array.dtype == np.int32 for array in vars(layout).values())


def test_usual_lengths_leave_little_room():
  rng = np.random.default_rng(0)
  for mean, spread, positions, count, limit in (
    (50, 15, 128, 128, 0.06),
    (50, 15, 128, 4000, 0.02),
    (13, 4, 60, 640, 0.03),
  ):
    lengths = np.clip(np.round(rng.normal(mean, spread, count)), 1, positions).astype(int)
    places = packing.pack(lengths, positions, 8)
    assert 1 - lengths.sum() / (places.count * positions) < limit


def test_slots_limit_a_row():
  places = packing.pack(np.ones(10, int), 100, 4)
  assert places.count == 3 and places.slots.max() == 3


@pytest.mark.parametrize('lengths', [[3, 0], [3, 9]])
def test_lengths_that_fit_no_row_are_refused(lengths):
  with pytest.raises(ValueError, match='holds 1 to 8'):
    packing.pack(np.array(lengths), 8, 2)


@hypothesis.given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_video_goes_to_one_shard_within_its_places(videos, shards, seed):
  loads = np.random.default_rng(seed).integers(0, 50, (videos, 3))
  found = packing.share(loads, shards)
  assert found.shape == (videos,) and np.array_equal(found, packing.share(loads, shards))
  if videos:
    assert found.min() >= 0 and found.max() < shards
    assert np.bincount(found).max() <= -(-videos // shards)


def test_shares_are_balanced_in_every_resource():
  rng = np.random.default_rng(0)
  loads = np.stack([rng.integers(5, 128, 512), rng.integers(20, 90, 512), rng.integers(1, 8, 512)], axis=1)
  found = packing.share(loads, 16)
  for resource in loads.T:
    held = np.bincount(found, resource)
    assert held.max() < 1.03 * held.mean()


def test_large_loads_do_not_overflow():
  found = packing.share(np.full((6, 2), 2**40), 3)
  assert np.bincount(found).tolist() == [2, 2, 2]
