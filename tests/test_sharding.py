"""The mesh: placement, and equality of a train step on one, two and eight devices."""

import flax.traverse_util
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dlkd_jax import sharding
from tests.training import worlds

LATE = 2 * worlds.STEPS_PER_EPOCH


@pytest.fixture(scope='module')
def one_device():
  return worlds.world(1, 0.3, worlds.DRAWN).run(worlds.make_batch(), LATE)


@pytest.mark.parametrize('devices', [2, 8])
def test_objective_and_gradients_equal_those_of_one_device(one_device, devices):
  expected_gradients, expected_metrics = one_device
  gradients, metrics = worlds.world(devices, 0.3, worlds.DRAWN).run(worlds.make_batch(), LATE)
  for name, value in expected_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
  gradients = flax.traverse_util.flatten_dict(gradients, sep='/')
  for name, expected in flax.traverse_util.flatten_dict(expected_gradients, sep='/').items():
    scale = max(np.linalg.norm(expected), 1e-4)  # The key bias has no true gradient, only rounding.
    assert np.linalg.norm(gradients[name] - expected) < 1e-5 * scale, name


def test_draws_do_not_depend_on_where_arrays_lie():
  # What the equality above rests on.
  assert jax.config.jax_threefry_partitionable


def test_mesh_and_placement():
  mesh = sharding.make_mesh()
  assert mesh.size == len(jax.local_devices()) and mesh.axis_names == (sharding.DATA_AXIS,)
  assert sharding.make_mesh(jax.devices()[:2]).size == 2
  assert sharding.rows(mesh).spec == PartitionSpec('data') and sharding.replicated(mesh).spec == PartitionSpec()
  batch = worlds.make_batch()
  placed = sharding.shard_batch(batch, mesh)
  for array, original in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
    assert array.sharding == sharding.rows(mesh) and array.dtype == original.dtype
    assert {s.data.shape[0] for s in array.addressable_shards} == {original.shape[0] // mesh.size}
    np.testing.assert_array_equal(array, original)


def test_state_is_born_whole_on_every_device():
  world = worlds.world(2, 0.3, worlds.DRAWN)
  for leaf in jax.tree.leaves(world.create()):
    assert leaf.sharding == sharding.replicated(world.mesh)


def test_rows_that_do_not_divide_are_refused():
  mesh = sharding.make_mesh(jax.devices()[:3])
  with pytest.raises(ValueError, match=r'8 rows does not divide over 3 devices.*multiples of 3'):
    sharding.shard_batch(worlds.make_batch(), mesh)
