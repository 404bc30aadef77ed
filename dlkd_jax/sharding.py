"""The device mesh, made in one place, and how arrays lie on it.

The mesh has two axes. A batch is split over both; parameters are split over `model` alone, and are gathered where they
are used (fully sharded data parallelism). With a `model` axis of 1, the default, every device holds them whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlkd_jax.errors import UserError

DATA_AXIS, MODEL_AXIS = 'data', 'model'
BATCH_AXES = (DATA_AXIS, MODEL_AXIS)
# A smaller array is not worth a gather.
_SPLIT_FROM = 2**12


def make_mesh(devices: Sequence[jax.Device] | None = None, model: int = 1) -> Mesh:
  """Makes the mesh over the given devices, by default those of all processes.

  Its axes are of type Auto: the partitioner may combine two sharded operands.

  Args:
    devices: in the order in which they share a batch; None: all, those that are near each other side by side.
    model: devices along the axis that splits parameters.

  Raises:
    UserError: the devices do not divide by `model`.
    ValueError: the devices of a process do not follow each other, or the processes not one another.
  """
  given = devices is not None
  devices = list(devices if given else jax.devices())
  if model < 1 or len(devices) % model:
    raise UserError(
      f'config.mesh.model is {model}, and there are {len(devices)} devices; expected a number that divides them.'
    )
  devices = devices if given else _by_locality(devices, model)
  if not _adjacent(devices):
    processes = [device.process_index for device in devices]
    raise ValueError(f'devices are of the processes {processes}; expected them in the order of the processes')
  return Mesh(np.asarray(devices).reshape(-1, model), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def _by_locality(devices: list[jax.Device], model: int) -> list[jax.Device]:
  """Orders devices so that neighbours in the mesh are neighbours in the machine, as far as JAX knows it.

  An order that tears those of a process apart, or the processes out of their order, is not taken.
  """
  if devices[0].platform == 'cpu':
    return devices
  shape = (len(devices) // model, model)
  try:
    found = list(mesh_utils.create_device_mesh(shape, devices, contiguous_submeshes=True).flat)
  except (ValueError, NotImplementedError, AssertionError):  # Several slices, or a shape that it has no order for.
    return devices
  return found if _adjacent(found) else devices


def _adjacent(devices: Sequence[jax.Device]) -> bool:
  """Whether the devices of each process follow each other: it makes the share of a batch that its number stands for."""
  processes = [device.process_index for device in devices]
  return processes == sorted(processes)


def rows(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays whose first axis is split over all devices."""
  return NamedSharding(mesh, over_devices(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Any, mesh: Mesh) -> Any:
  """Chooses the sharding of every array of a training state: parameters and what the optimiser keeps for each.

  The longest axis that divides by the `model` axis of the mesh is split over it; small arrays stay whole. The choice
  follows from the shape alone, so a parameter and its moments lie alike.

  Args:
    state: pytree of arrays or of `jax.ShapeDtypeStruct`.
    mesh: the devices.

  Returns:
    The pytree of shardings.
  """
  parts = mesh.shape[MODEL_AXIS]

  def choose(array) -> NamedSharding:
    axes = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
    if parts == 1 or not axes or np.prod(array.shape) < _SPLIT_FROM:
      return replicated(mesh)
    longest = max(axes, key=lambda axis: array.shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, MODEL_AXIS))

  return jax.tree.map(choose, state)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Makes the arrays of a batch, of all processes together, out of what this process holds.

  Args:
    batch: pytree of numpy arrays: this process's share of the first axis.
    mesh: the devices; those of a process are adjacent in it.

  Raises:
    ValueError: a first axis does not divide by the number of this process's devices.
  """
  local = mesh.local_mesh.size
  for array in jax.tree.leaves(batch):
    if array.shape[0] % local:
      raise UserError(
        f'a batch array of {array.shape[0]} rows does not divide over {local} devices; choose a number of '
        f'videos (batch_videos, block_videos) that is a multiple of {local}.'
      )
  placement = rows(mesh)
  if jax.process_count() == 1:
    return jax.device_put(batch, placement)
  return jax.tree.map(lambda array: from_this_process(array, placement), batch)


def from_this_process(array: np.ndarray, placement: NamedSharding) -> jax.Array:
  """Makes an array of all processes out of what this one holds of it; allowed where a transfer guard is on."""
  with jax.transfer_guard('allow'):  # To the guard this is no transfer by name, as `jax.device_put` is.
    return jax.make_array_from_process_local_data(placement, array)


def local_mesh(mesh: Mesh) -> Mesh:
  """Returns the mesh of this process's devices, in their order in the whole mesh, along one axis."""
  devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
  return Mesh(np.asarray(devices), ('local',), axis_types=(AxisType.Auto,))


def encoding_mesh(mesh: Mesh) -> Mesh:
  """Returns the mesh on which a process runs programs of its own: its devices, or its first one alone."""
  local = local_mesh(mesh)
  return Mesh(local.devices[:1], local.axis_names, axis_types=local.axis_types) if _all_or_one(mesh) else local


def _all_or_one(mesh: Mesh) -> bool:
  """Whether programs run on all devices or on one: on v5e slices of 32 chips and more those of one host are refused."""
  kind = mesh.devices.flat[0].device_kind.lower()
  return mesh.size >= 32 and mesh.size > local_mesh(mesh).size and ('v5 lite' in kind or 'v5e' in kind)


def over_devices(mesh: Mesh, axis: int = 0) -> PartitionSpec:
  """Returns the split of one axis over all devices of a mesh."""
  return PartitionSpec(*[None] * axis, mesh.axis_names)


def split_rows(array: Any, mesh: Mesh, what: str) -> jax.Array:
  """Splits the first axis over the devices of a process.

  Raises:
    UserError: the axis does not divide by their number; `what` names it.
  """
  if array.shape[0] % mesh.size:
    raise UserError(
      f'a block of {array.shape[0]} {what} does not divide over {mesh.size} devices; '
      f'choose a block size that is a multiple of {mesh.size}'
    )
  return jax.device_put(array, rows(mesh))
