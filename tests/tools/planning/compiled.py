"""Small programs with known exchanges, and the skip for where the TPU compiler is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlkd_jax.tools.planning import topologies

needs_libtpu = pytest.mark.skipif(
  not topologies.libtpu_installed(), reason="libtpu is not installed; pip install -c constraints.txt -e '.[test,tpu]'"
)
SPLIT, WHOLE = PartitionSpec('data'), PartitionSpec()


def mesh_of(devices) -> Mesh:
  return Mesh(np.asarray(devices), ('data',), axis_types=(AxisType.Auto,))


def trace(function, devices, *shapes, out=SPLIT, dtype=jnp.float32):
  """Traces a function of arrays that are split along their first axis, written for one device."""
  mesh = mesh_of(devices)
  program = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=SPLIT, out_specs=out, check_vma=False))
  placement = NamedSharding(mesh, SPLIT)
  return program.trace(*(jax.ShapeDtypeStruct(shape, dtype, sharding=placement) for shape in shapes))


def exchanges(devices):
  """Traces one exchange of every kind, the sum in a loop of five rounds.

  On n devices: gathers 16n × 128 float32, sums 8 × 128 five times, sums and scatters 8 × 128, exchanges 4n × 128, and
  passes 16 × 128 on.
  """
  count = len(devices)

  def program(x, y):
    gathered = jax.lax.all_gather(x, 'data', tiled=True)
    total = jax.lax.scan(lambda c, _: (jnp.tanh(jax.lax.psum(c, 'data')), None), x[:8], length=5)[0]
    scattered = jax.lax.psum_scatter(y[: 8 * count], 'data', tiled=True)
    turned = jax.lax.all_to_all(y[: 4 * count], 'data', 0, 0, tiled=True)
    passed = jax.lax.ppermute(x, 'data', [(i, (i + 1) % count) for i in range(count)])
    return gathered[::2], total, scattered, turned, passed

  return trace(program, devices, (16 * count, 128), (8 * count * count, 128))


def product_in_a_loop(devices):
  """Traces seven products of 32 × 64 with 64 × 64 a device."""

  def program(x, w):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=7)[0]

  return trace(program, devices, (32 * len(devices), 64), (64 * len(devices), 64))
