"""What devices exchange: views of the similarity matrix, and where a caption's own video is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dlkd_jax import sharding

AXES = sharding.BATCH_AXES


@pytest.mark.parametrize('devices, model', [(1, 1), (2, 1), (3, 1), (6, 2), (8, 1), (8, 4)])
def test_text_view_is_the_same_matrix_by_rows(devices, model):
  mesh = sharding.make_mesh(jax.devices()[:devices], model)
  scores = np.random.default_rng(0).standard_normal((4 * devices, 3 * devices)).astype(np.float32)
  weights = np.random.default_rng(1).standard_normal(scores.shape).astype(np.float32)
  by_column, by_row = PartitionSpec(None, AXES), PartitionSpec(AXES)
  exchange = jax.shard_map(
    functools.partial(sharding.to_text_view, axes=AXES), mesh=mesh, in_specs=by_column, out_specs=by_row
  )
  text, gradient = jax.jit(lambda s: (exchange(s), jax.grad(lambda x: jnp.sum(exchange(x) * weights))(s)))(scores)
  np.testing.assert_array_equal(text, scores)
  np.testing.assert_array_equal(gradient, weights)
  assert {s.data.shape for s in text.addressable_shards} == {(4, 3 * devices)}


def test_without_axes_nothing_is_exchanged():
  scores = jnp.arange(6.0).reshape(3, 2)
  assert sharding.to_text_view(scores, ()) is scores and sharding.gather(scores, ()) is scores


def test_own_videos_are_found_on_their_device_only():
  mesh = sharding.make_mesh(jax.devices()[:4])
  labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 0], np.int32)

  def local(_):
    return sharding.local_labels(jnp.asarray(labels), 2, AXES)[None]

  found = jax.shard_map(local, mesh=mesh, in_specs=PartitionSpec(AXES), out_specs=PartitionSpec(AXES))(jnp.zeros(4))
  for device in range(4):
    expected = np.where(labels // 2 == device, labels - 2 * device, -1)
    np.testing.assert_array_equal(found[device], expected)
