"""A gallery of encoded videos that stays on the devices, each holding its share.

Every process encodes its own videos on its own devices, block by block. Blocks of the same number of frames are joined
into segments; a segment is one array a scorer over all devices of the mesh. Which video lies where is a small array.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from dlkd_jax.errors import UserError
from dlkd_jax.multihost import Processes
from dlkd_jax.retrieval.scoring import join_blocks, over_devices, prepare_frames

# Bytes of a segment on one device. Joining takes as much again for a moment; scoring is one dispatch a segment.
_SEGMENT_BYTES = 128 << 20


@dataclasses.dataclass(frozen=True)
class ShardedGallery:
  """The encoded videos of a split.

  Attributes:
    segments: in each, scorer → `[n, L, H]` unit vectors, split over the devices; no frame needs a mask.
    columns: `[V']` int32, index into `video_ids` of the devices' videos, over all segments; -1 at empty places. Split
      over the devices.
    video_ids: ids of all processes' videos, V of them.
  """

  segments: list[dict[str, jax.Array]]
  columns: jax.Array
  video_ids: list[str]

  @property
  def nbytes(self) -> int:
    """Bytes of the encoded features, over all devices."""
    return sum(array.nbytes for segment in self.segments for array in segment.values())


def local_mesh(mesh: Mesh) -> Mesh:
  """Returns the mesh of this process's devices, in their order in the whole mesh, along one axis."""
  devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
  return Mesh(np.asarray(devices), ('local',), axis_types=(AxisType.Auto,))


def encoding_mesh(mesh: Mesh) -> Mesh:
  """Returns the mesh on which a process runs programs of its own: its devices, or its first one alone.

  On large TPU v5e slices, of several hosts, programs run on all chips of the slice or on a single
  one; the compiler refuses those over the chips of one host.
  """
  local = local_mesh(mesh)
  if not _all_or_one(mesh):
    return local
  return Mesh(local.devices[:1], local.axis_names, axis_types=(AxisType.Auto,))


def _all_or_one(mesh: Mesh) -> bool:
  """Whether programs over some of the devices are refused: seen with v5e slices of 32 chips and more."""
  kind = mesh.devices.flat[0].device_kind.lower()
  return mesh.size >= 32 and mesh.size > local_mesh(mesh).size and ('v5 lite' in kind or 'v5e' in kind)


def split_rows(array, mesh: Mesh, what: str) -> jax.Array:
  """Splits the first axis over the devices of a process.

  Raises:
    ValueError: the axis does not divide by their number; `what` names it.
  """
  if array.shape[0] % mesh.size:
    raise UserError(
      f'a block of {array.shape[0]} {what} does not divide over {mesh.size} devices; '
      f'choose a block size that is a multiple of {mesh.size}'
    )
  return jax.device_put(array, NamedSharding(mesh, over_devices(mesh)))


class GalleryBuilder:
  """Collects encoded blocks of videos, then joins those of all processes into one gallery."""

  def __init__(self, mesh: Mesh, segment_bytes: int = _SEGMENT_BYTES):
    """Takes all devices, and how large a segment may be on one of them."""
    self.video_ids: list[str] = []
    self._mesh, self._local, self._encoding = mesh, local_mesh(mesh), encoding_mesh(mesh)
    # Blocks are joined by a program over the process's devices; where there can be none, each is a segment.
    self._segment_bytes = segment_bytes if self._encoding == self._local else 0
    self._shape: dict | None = None  # What all blocks share: videos of a block, size and type of each scorer.
    self._waiting: dict[int, list[dict[str, jax.Array]]] = {}  # By frames: blocks that are not yet in a segment.
    self._segments: dict[int, list[dict[str, jax.Array]]] = {}
    self._columns: dict[int, list[np.ndarray]] = {}  # By frames: for each block `[devices, videos a device]`.

  def add(self, frames: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], ids: list[str]) -> None:
    """Adds one block; its real videos come first.

    Args:
      frames: scorer → `[b, L, H]`, split over the devices of `encoding_mesh`.
      masks: scorer → `[b, L]` bool.
      ids: of the real videos.

    Raises:
      ValueError: earlier blocks had other scorers, or another size.
    """
    first = next(iter(frames.values()))
    rows, length = first.shape[:2]
    shape = {'videos': rows, 'scorers': {name: [x.shape[-1], str(x.dtype)] for name, x in sorted(frames.items())}}
    if self._shape is None:
      self._shape = shape
    elif self._shape != shape:
      raise UserError(
        f'earlier blocks of videos were {self._shape}, the one from {ids[:1]} is {shape}; blocks must be of one size, '
        'and give teacher frames in all or in none'
      )
    columns = np.full(rows, -1, np.int32)
    columns[: len(ids)] = len(self.video_ids) + np.arange(len(ids))
    self.video_ids += ids
    prepared = prepare_frames(frames, masks, mesh=self._encoding)
    if self._encoding != self._local:
      prepared = {name: split_rows(array, self._local, 'videos') for name, array in prepared.items()}
    self._append(length, prepared, columns)

  def wait(self) -> None:
    """Waits until at most the last block is being encoded, so that the blocks' inputs do not pile up."""
    for blocks in self._waiting.values():
      jax.block_until_ready(blocks[:-1])

  def finish(self, processes: Processes) -> ShardedGallery:
    """Joins the blocks of all processes. Empties the builder.

    Raises:
      ValueError: there is no video, or the processes' blocks differ in size or scorers.
    """
    counts = {str(length): len(blocks) for length, blocks in self._columns.items()}
    found = processes.gather({'ids': self.video_ids, 'blocks': counts, 'shape': self._shape})
    shapes = [other['shape'] for other in found if other['shape'] is not None]
    if not shapes:
      raise UserError('there is no video to evaluate; check the split that the videos come from')
    if any(shape != shapes[0] for shape in shapes):
      raise UserError(f'the processes encoded blocks of different sizes or scorers: {shapes}')
    self._shape = shapes[0]
    lengths = sorted({int(length) for other in found for length in other['blocks']})
    segments, columns = [], []
    for length in lengths:
      blocks = max(other['blocks'].get(str(length), 0) for other in found)
      segments += [self._over_all_devices(segment) for segment in self._filled(length, blocks)]
      columns += self._columns.pop(length)
    mine = sum(len(other['ids']) for other in found[: jax.process_index() if processes.several else 0])
    local = np.concatenate(columns, axis=1).reshape(-1)
    local = np.where(local >= 0, local + mine, -1).astype(np.int32)
    placement = NamedSharding(self._mesh, over_devices(self._mesh))
    return ShardedGallery(
      segments=segments,
      columns=jax.make_array_from_process_local_data(placement, local),
      video_ids=[name for other in found for name in other['ids']],
    )

  def _append(self, length: int, block: dict[str, jax.Array], columns: np.ndarray) -> None:
    self._columns.setdefault(length, []).append(columns.reshape(self._local.size, -1))
    waiting = self._waiting.setdefault(length, [])
    waiting.append(block)
    if sum(x.nbytes for x in block.values()) * (len(waiting) + 1) > self._segment_bytes * self._local.size:
      self._join(length)

  def _join(self, length: int) -> None:
    blocks = self._waiting.pop(length)
    joined = join_blocks(blocks, mesh=self._local) if len(blocks) > 1 else blocks[0]
    self._segments.setdefault(length, []).append(jax.block_until_ready(joined))

  def _filled(self, length: int, blocks: int) -> list[dict[str, jax.Array]]:
    """Returns the segments of one number of frames, with empty blocks where other processes have more."""
    rows = self._shape['videos']
    while len(self._columns.setdefault(length, [])) < blocks:
      zeros = {
        name: split_rows(jnp.zeros((rows, length, hidden), dtype), self._local, 'videos')
        for name, (hidden, dtype) in self._shape['scorers'].items()
      }
      self._append(length, zeros, np.full(rows, -1, np.int32))
    if length in self._waiting:
      self._join(length)
    return self._segments.pop(length)

  def _over_all_devices(self, segment: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Views the shares of all processes as one array over the whole mesh; nothing is copied."""
    placement = NamedSharding(self._mesh, over_devices(self._mesh))

    def view(array: jax.Array) -> jax.Array:
      share = {shard.device: shard.data for shard in array.addressable_shards}
      rows = array.shape[0] // self._local.size * self._mesh.size
      shards = [share[device] for device in self._local.devices.flat]
      return jax.make_array_from_single_device_arrays((rows, *array.shape[1:]), placement, shards)

    return jax.tree.map(view, segment)
