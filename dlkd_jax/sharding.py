"""The device mesh, made in one place, and how arrays lie on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = 'data'


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes a one-dimensional mesh over the given devices, by default all local ones.

  Its axis is of type Auto: the partitioner may combine two sharded operands, as a batch's similarities need.
  """
  devices = list(devices or jax.local_devices())
  return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def rows(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays whose first axis is split over the devices."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Puts the arrays of a batch on the mesh, split along their first axis.

  Raises:
    ValueError: a first axis does not divide by the number of devices.
  """
  for array in jax.tree.leaves(batch):
    if array.shape[0] % mesh.size:
      raise ValueError(
        f'a batch array of {array.shape[0]} rows does not divide over {mesh.size} devices; '
        f'choose batch_videos and caption_sizes that are multiples of {mesh.size}.'
      )
  return jax.device_put(batch, rows(mesh))
