"""The device mesh, made in one place, how arrays lie on it, and what the devices of a batch exchange.

The mesh has two axes. A batch is split over both; parameters are split over `model` alone, and are gathered where they
are used (fully sharded data parallelism). With a `model` axis of 1, the default, every device holds them whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
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

  Its axes are of type Auto: the partitioner may combine two sharded operands. Devices share a batch in the order given;
  by default those that are near each other are side by side. `model` of them split the parameters.

  Raises:
    UserError: the devices do not divide by `model`.
    ValueError: the devices of a process do not follow each other, or the processes not one another.
  """
  count = jax.device_count() if devices is None else len(devices)
  if model < 1 or count % model:
    raise UserError(
      f'config.mesh.model is {model}, and there are {count} devices; expected a number that divides them.'
    )
  devices = _by_locality(jax.devices(), model) if devices is None else devices
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
  """Chooses the sharding of every array, or `jax.ShapeDtypeStruct`, of a training state.

  The longest axis that divides by the `model` axis of the mesh is split over it; small arrays stay whole. The choice
  follows from the shape alone, so a parameter and its moments lie alike.
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
  """Makes the arrays of a batch, of all processes of a mesh together, out of this one's share of their first axis.

  Raises:
    UserError: a first axis does not divide by the number of this process's devices.
  """
  local = mesh.local_mesh.size
  for array in jax.tree.leaves(batch):
    if array.shape[0] % local:
      raise UserError(
        f'{array.shape[0]} rows of a batch do not divide over {local} devices; choose a number (batch_videos, '
        f'block_videos, block_captions) that is a multiple of {local}.'
      )
  return _put(batch, rows(mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts arrays, which every process has whole, onto every device of a mesh."""
  return _put(tree, replicated(mesh))


def _put(tree: Any, placement: NamedSharding) -> Any:
  """Puts what this process has of arrays onto its devices."""
  if placement.mesh.is_multi_process:
    with jax.transfer_guard('allow'):  # To the guard this is no transfer by name, as `jax.device_put` is.
      return jax.tree.map(lambda array: jax.make_array_from_process_local_data(placement, array), tree)
  return jax.device_put(tree, placement)


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


# Inside `shard_map` every device holds the frames of its own videos and the vectors of its own captions. The vectors of
# all captions are gathered, since they are the smaller side: a caption has one, a video one a frame. So each device
# scores all captions against its videos, the *video view*. An exchange turns that into the *text view*, its own
# captions against all videos. A loss over a row of the similarity matrix is then local in the one view, a loss over a
# column in the other, and no device ever holds the whole matrix.


def gather(array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Joins the first axes of all devices' arrays, in the order of the devices; without axes, the array itself."""
  return jax.lax.all_gather(array, axes, tiled=True) if axes else array


def first_index(size: int, axes: tuple[str, ...]) -> jax.Array:
  """Returns the index, in the whole batch, of the first of this device's `size` videos or captions."""
  return jax.lax.axis_index(axes) * size if axes else jnp.zeros((), jnp.int32)


def to_text_view(scores: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Turns scores of the video view, `[Q, b]`, into those of the text view, `[q, B]`.

  Q captions and B videos are those of the whole batch, q and b those of this device. The devices are taken as a grid,
  and the exchange goes along its rows, then along its columns. The result is that of one exchange among all; but the
  TPU compiler plans the routes of that one for half a minute at 256 chips.
  """
  if not axes:
    return scores
  devices = jax.lax.axis_size(axes)
  inner = next(size for size in range(math.isqrt(devices), 0, -1) if devices % size == 0)
  outer = devices // inner
  rows = [[o * inner + i for i in range(inner)] for o in range(outer)]
  columns = [[o * inner + i for o in range(outer)] for i in range(inner)]
  queries, videos = scores.shape[0] // devices, scores.shape[1]
  parts = scores.reshape(outer, inner, queries, videos)
  parts = jax.lax.all_to_all(parts, axes, 1, 1, axis_index_groups=rows)
  parts = jax.lax.all_to_all(parts, axes, 0, 0, axis_index_groups=columns)
  return jnp.moveaxis(parts.reshape(devices, queries, videos), 0, 1).reshape(queries, devices * videos)


def local_labels(labels: jax.Array, videos: int, axes: tuple[str, ...]) -> jax.Array:
  """Returns the column, among this device's b videos, of each caption's own video; -1 where it is on another device.

  Labels are `[Q]` int32, its index in the whole batch.
  """
  column = labels - first_index(videos, axes)
  return jnp.where((column >= 0) & (column < videos), column, -1)
