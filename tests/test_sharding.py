"""The mesh: placement, and equality of a train step on one, two and eight devices."""

import types

import flax.traverse_util
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dlkd_jax import sharding
from dlkd_jax.errors import UserError
from tests.training import worlds

LATE = 2 * worlds.STEPS_PER_EPOCH


def assert_same(actual, expected, tolerance=1e-5):
  """Compares what two runs of `World.run` returned: metrics, and every gradient tensor relative to its norm."""
  (gradients, metrics), (expected_gradients, expected_metrics) = actual, expected
  for name, value in expected_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=tolerance, atol=1e-7, err_msg=name)
  gradients = flax.traverse_util.flatten_dict(gradients, sep='/')
  for name, value in flax.traverse_util.flatten_dict(expected_gradients, sep='/').items():
    scale = max(np.linalg.norm(value), 1e-4)  # The key bias has no true gradient, only rounding.
    assert np.linalg.norm(gradients[name] - value) < tolerance * scale, name


@pytest.fixture(scope='module', params=[0, LATE], ids=['easy negatives', 'hard negatives'])
def one_device(request):
  step = request.param
  return step, worlds.world(1, 0.3, worlds.DRAWN).run(worlds.make_batch(), step)


# Each case is a program that takes long to compile. Eight devices take all ways that two do, packing them all that
# padding does, and split parameters in parts on four devices what each does alone: smaller cases are run on request.
@pytest.mark.slow
@pytest.mark.parametrize('devices', [2, 8])
def test_objective_and_gradients_equal_those_of_one_device(one_device, devices):
  step, expected = one_device
  assert_same(worlds.world(devices, 0.3, worlds.DRAWN).run(worlds.make_batch(shards=devices), step), expected)


@pytest.mark.parametrize('devices', [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 8])
def test_neither_packing_nor_uneven_shares_change_anything(one_device, devices):
  # Dropout, negatives and hard rows are drawn, and none depends on where a video lies.
  step, expected = one_device
  assert_same(worlds.world(devices, 0.3, worlds.DRAWN).run(worlds.packed_batch(devices), step), expected)


@pytest.mark.parametrize('parts', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_split_parameters_give_the_same_also_in_parts(one_device, monkeypatch, parts):
  step, expected = one_device
  monkeypatch.setattr(sharding, '_SPLIT_FROM', 16)
  world = worlds.world(4, 0.3, worlds.DRAWN, model=2, micro_batches=parts)
  assert sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(world.create().params)) > 10
  batch = worlds.packed_batch(4) if parts == 1 else worlds.make_batch(shards=4)
  assert_same(world.run(batch, step), expected)
  state, _ = world.step(world.state(), sharding.shard_batch(batch, world.mesh), jax.random.key(0))
  for leaf, want in zip(
    jax.tree.leaves(state), jax.tree.leaves(sharding.state_shardings(state, world.mesh)), strict=True
  ):
    assert leaf.sharding == want


@pytest.mark.slow
@pytest.mark.parametrize('devices, parts', [(1, 2), (1, 4), (4, 2)])
def test_encoding_in_parts_gives_the_gradients_of_the_whole(one_device, devices, parts):
  step, expected = one_device
  world = worlds.world(devices, 0.3, worlds.DRAWN, micro_batches=parts)
  assert_same(world.run(worlds.make_batch(shards=devices), step), expected)


def test_rows_that_do_not_divide_into_parts_are_refused():
  with pytest.raises(ValueError, match=r'8 rows on 1 device\(s\).*micro_batches = 3'):
    worlds.world(1, 0.3, worlds.DRAWN, micro_batches=3).run(worlds.make_batch())


def test_mesh_and_placement():
  mesh = sharding.make_mesh()
  assert mesh.size == len(jax.devices()) and mesh.axis_names == sharding.BATCH_AXES
  assert sharding.make_mesh(jax.devices()[:2]).size == 2
  assert sharding.make_mesh(model=4).shape == {'data': len(jax.devices()) // 4, 'model': 4}
  with pytest.raises(ValueError, match='model is 3, and there are 8 devices'):
    sharding.make_mesh(model=3)
  assert sharding.rows(mesh).spec == PartitionSpec(sharding.BATCH_AXES)
  assert sharding.replicated(mesh).spec == PartitionSpec()
  batch = worlds.make_batch()
  placed = sharding.shard_batch(batch, mesh)
  for array, original in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
    assert array.sharding == sharding.rows(mesh) and array.dtype == original.dtype
    assert {s.data.shape[0] for s in array.addressable_shards} == {original.shape[0] // mesh.size}
    np.testing.assert_array_equal(array, original)


def test_processes_keep_their_order_in_the_mesh():
  def devices(*processes):
    return [types.SimpleNamespace(process_index=process, id=i) for i, process in enumerate(processes)]

  for wrong in ((1, 1, 0, 0), (0, 1, 0, 1), (0, 1, 2, 1)):
    with pytest.raises(ValueError, match=r'expected them in the order of the processes') as error:
      sharding.make_mesh(devices(*wrong))
    assert not isinstance(error.value, UserError)


@pytest.mark.parametrize(
  ('order', 'taken'), [((1, 0, 3, 2), True), ((2, 3, 0, 1), False), ((0, 2, 1, 3), False), (None, False)]
)
def test_neighbours_in_the_mesh_are_near_each_other_where_processes_allow_it(monkeypatch, order, taken):
  """Four chips of two processes, in an order that keeps these together, in three that do not, or in none."""
  devices = [types.SimpleNamespace(process_index=i // 2, id=i, platform='tpu') for i in range(4)]

  def create(shape, devices, contiguous_submeshes):
    if order is None:
      raise NotImplementedError('no such shape')
    return np.asarray([devices[i] for i in order]).reshape(shape)

  monkeypatch.setattr(sharding.mesh_utils, 'create_device_mesh', create)
  found = [device.id for device in sharding._by_locality(devices, 2)]
  assert found == (list(order) if taken else [0, 1, 2, 3])


def test_state_is_born_whole_on_every_device():
  world = worlds.world(2, 0.3, worlds.DRAWN)
  for leaf in jax.tree.leaves(world.create()):
    assert leaf.sharding == sharding.replicated(world.mesh)


def test_rows_that_do_not_divide_are_refused():
  mesh = sharding.make_mesh(jax.devices()[:3])
  with pytest.raises(ValueError, match=r'8 rows of a batch do not divide over 3 devices.*a multiple of 3'):
    sharding.shard_batch(worlds.make_batch(), mesh)
