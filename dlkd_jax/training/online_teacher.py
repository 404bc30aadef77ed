"""The teacher inside the train step: pictures of a batch through a frozen image tower, instead of features from files.

A step first encodes the pictures of its batch and puts the features where those of the records would be; all else is
the same. Nothing of the tower is differentiated, so none of its activations outlive the few pictures that are encoded
at once. Padding is not encoded: each device takes its real frames only, `micro_batch` at a time.

The records hold pixels, not patch tokens. A tower's patch embedding is a linear map of the pixels, 3% of the work of
ViT-B/32 and 1% of B/16's. Its result in float16 takes half the 150,528 bytes of a picture for B/32, twice as many for
B/16, and would tie the records to one model; pixels suit every tower of their size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dlkd_jax import plugins, sharding
from dlkd_jax.data.batch import Batch
from dlkd_jax.errors import UserError
from dlkd_jax.sharding import BATCH_AXES
from dlkd_jax.similarity.common import vary_alike


@dataclasses.dataclass(frozen=True)
class OnlineTeacher:
  """A frozen image tower and how the train step feeds it."""

  name: str  # Of the model, for messages.
  encode: Callable[[Any, jax.Array], jax.Array]  # `(params, pixels [N, S, S, 3] float32, normalised) → [N, Dt]`.
  params: Any  # An argument of the compiled step, so that they are no constants of its program.
  size: int  # S, width and height of the pictures.
  features: int  # Dt.
  mean: tuple[float, float, float]  # Of each colour over [0, 1].
  std: tuple[float, float, float]
  micro_batch: int = 64  # Pictures that a device encodes at once.
  scale: float = 1 / 255  # What values in 0..255 are multiplied by before mean and std.

  def fill(self, params: Any, batch: Batch, mesh: Mesh | None = None) -> Batch:
    """Returns a batch with `teacher_frames` `[R, L, Dt]` float32, 0 at padding, in place of its `teacher_pixels`.

    The parameters of the tower lie on every device of the mesh that the batch is split over.

    Raises:
      UserError: the batch has no pixels, or of another size.
    """
    pixels, mask = batch.teacher_pixels, batch.frame_layout.mask
    if pixels is None or pixels.shape[-1] != self.size**2 * 3:
      found = 'no pictures' if pixels is None else f'pictures of {pixels.shape[-1]} numbers'
      raise UserError(f'the batch has {found} for the teacher; expected {self.size}x{self.size}x3 numbers each')
    run = self._encode_real
    if mesh is not None and mesh.size > 1:
      split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
      run = jax.shard_map(run, mesh=mesh, in_specs=(whole, split, split), out_specs=split)
    return batch.replace(teacher_frames=jax.lax.stop_gradient(run(params, pixels, mask)), teacher_pixels=None)

  def _encode_real(self, params: Any, pixels: jax.Array, mask: jax.Array) -> jax.Array:
    """Encodes the pictures `[r, L, S·S·3]` of one device at real positions; 0 elsewhere."""
    count = mask.size
    at_once = min(self.micro_batch, count)
    flat, real = jnp.asarray(pixels).reshape(count, -1), jnp.asarray(mask).reshape(count)
    # Real positions first. Those behind the last are no positions: read as any picture, written nowhere.
    order = jnp.argsort(~real, stable=True)
    order = jnp.where(jnp.arange(count) < real.sum(), order, count).astype(jnp.int32)
    order = jnp.pad(order, (0, -count % at_once), constant_values=count)

    def encode(index: jax.Array) -> jax.Array:
      chosen = flat.at[index].get(mode='clip').reshape(-1, self.size, self.size, 3)
      return self.encode(params, self.normalise(chosen)).astype(jnp.float32)

    def encode_next(number: jax.Array, features: jax.Array) -> jax.Array:
      index = jax.lax.dynamic_slice_in_dim(order, number * at_once, at_once)
      return features.at[index].set(encode(index), mode='drop')

    width = jax.eval_shape(encode, order[:at_once]).shape[-1]
    features, _ = vary_alike(jnp.zeros((count, width), jnp.float32), real)
    features = jax.lax.fori_loop(0, -(-real.sum() // at_once), encode_next, features)
    return features.reshape(*mask.shape, width)

  def normalise(self, pictures: jax.Array) -> jax.Array:
    """Returns `[N, S, S, 3]` uint8 pictures as the tower wants them, float32."""
    mean, std = (jnp.asarray(values, jnp.float32)[None, None, None, :] for values in (self.mean, self.std))
    return (pictures.astype(jnp.float32) * np.float32(self.scale) - mean) / std


def load_teacher(
  spec: ml_collections.ConfigDict, record: Mapping[str, Any], mesh: Mesh, dtype: Any = jnp.float32
) -> OnlineTeacher:
  """Loads a teacher, checks that it suits a record of the training split, and puts it onto every device.

  `spec` is `config.teacher`. Its `name` is 'clip', or 'package.module:function' of one as `clip_teacher.load_clip`,
  which may read `spec.options`; `dtype` is that of the tower's products.

  Raises:
    FileNotFoundError: there is no model.
    UserError: there is no such teacher, or it does not suit the record.
  """
  # Its module imports the towers, which other runs do not need.
  clip = {'clip': 'dlkd_jax.training.clip_teacher:load_clip'}
  load = plugins.find(spec.name, clip, 'config.teacher.name')
  teacher = load(spec, dtype)
  check_record(record, teacher.size, teacher.features, teacher.name)
  params = jax.device_put(teacher.params, sharding.replicated(mesh))
  return dataclasses.replace(teacher, params=params, micro_batch=spec.micro_batch)


def check_record(record: Mapping[str, Any], size: int, features: int, model: str) -> None:
  """Raises UserError where a data set lacks the pictures that a tower wants, or text features of the same model."""
  if 'teacher_pixels' not in record:
    raise UserError(
      'config.teacher.online is True, and the records of the data set hold no teacher_pixels; build a set that keeps '
      'them, or set config.teacher.online=False to train on the frozen features'
    )
  shape = np.shape(record['teacher_pixels'])[1:]
  if shape != (size, size, 3):
    raise UserError(
      f'the records hold pictures of {"x".join(map(str, shape))}, and {model} takes {size}x{size}x3; build the set '
      'with this model, or name the one that it was built with in config.teacher.clip'
    )
  text = np.shape(record.get('teacher_text', np.zeros((0, 0))))[-1]
  if text != features:
    raise UserError(
      f'the records hold teacher_text of {text} features and {model} gives {features}: they are of another model; name '
      'that one in config.teacher.clip'
    )
