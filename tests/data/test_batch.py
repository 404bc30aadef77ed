"""A batch travels whole, and is normalised where it arrives."""

import jax
import numpy as np
import pytest

from dlkd_jax import sharding
from dlkd_jax.data.batch import Batch, pack, unit_rows
from dlkd_jax.data.train_pipeline import train_pipeline
from tests.data import fakes
from tests.paths import golden


def test_rows_are_normalised_as_in_the_authors_program():
  numbers = np.load(golden('sampling.npz'), allow_pickle=False)
  np.testing.assert_allclose(unit_rows(numbers['l2norm/in']), numbers['l2norm/out'], rtol=3e-7)


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_normalising_agrees_with_a_loop_and_leaves_zeros(dtype):
  rows = (np.random.default_rng(0).standard_normal((2, 5, 700)) * 300).astype(dtype)  # The squares overflow float16.
  rows[1, 2] = 0
  expected = [[row / (np.sqrt(np.sum(row.astype(np.float64) ** 2)) + 1e-5) for row in some] for some in rows]
  found = jax.jit(unit_rows)(rows)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('devices', [1, 2, 8])
@pytest.mark.parametrize('kinds', [{}, {'packing': False}, {'teacher': False}, {'pixels': True}], ids=str)
def test_what_is_packed_is_the_batch_again(devices, kinds):
  records = fakes.source(7, pixels=2)
  options = fakes.options(shards=devices, **kinds)
  batch = fakes.collate(records, options)
  parcel = pack(batch, devices)
  assert len(jax.tree.leaves(parcel)) == len(parcel.features) + 1 <= 5
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), parcel.unpack(), batch)
  mesh = sharding.make_mesh(jax.devices()[:devices])
  on_devices = jax.jit(lambda some: some.unpack())(sharding.shard_batch(parcel, mesh))
  assert isinstance(on_devices.check(), Batch)
  for array, expected in zip(jax.tree.leaves(on_devices), jax.tree.leaves(batch), strict=True):
    np.testing.assert_array_equal(array, expected, strict=True)
    # Each device has its own share, and nothing was gathered.
    assert array.addressable_shards[0].data.shape[0] * devices == len(expected)


def test_shapes_are_packed_alike():
  pipeline = train_pipeline(fakes.source(7), fakes.options(shards=2), 0)
  parcel = pack(next(iter(pipeline)), 2)
  planned = [pack(shapes, 2) for shapes in pipeline.shapes()]
  same = next(each for each in planned if each.contents == parcel.contents)
  assert jax.tree.structure(same) == jax.tree.structure(parcel)
  jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f'{a} {b.shape}'), same, parcel)
