"""I3D on RGB pictures in Flax: the features of motion that the field's data sets are published with.

Inception-v1 with every convolution and pooling inflated in time, trained on Kinetics-400. Batch normalisation is folded
into the convolutions by `python -m dlkd_jax.tools.convert_backbone i3d`, which writes the file that `load_i3d` reads:

    module, params = load_i3d('i3d.safetensors')
    states, logits = module.apply({'params': params}, PREPROCESS.normalize(clips))   # uint8 [N, T, S, S, 3]
    features = states.mean(1)

Sizes: N clips, T pictures of each, S their side, C channels; T' = ⌈T / 8⌉. Carreira and Zisserman, "Quo Vadis, Action
Recognition? A New Model and the Kinetics Dataset", https://arxiv.org/abs/1705.07750. Paddings are TensorFlow's.
"""

from __future__ import annotations

import pathlib
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.models.clip_inputs import Preprocess
from dlkd_jax.models.parameter_files import as_pytree, read_network

FORMAT = 'dlkd_jax i3d'
# Shorter side of 256 pixels, the middle 224, values from -1 to 1.
PREPROCESS = Preprocess(size=224, resize=256, mean=(0.5,) * 3, std=(0.5,) * 3, resampling='bilinear')
PIXELS = (1, 8, 32, 32, 3)  # Enough to tell the parameters' shapes from.
# Channels of the four branches of each module: 1×1; reduced, then 3×3; reduced, then 3×3; pooled, then 1×1.
MODULES = {
  'mixed_3b': (64, 96, 128, 16, 32, 32),
  'mixed_3c': (128, 128, 192, 32, 96, 64),
  'mixed_4b': (192, 96, 208, 16, 48, 64),
  'mixed_4c': (160, 112, 224, 24, 64, 64),
  'mixed_4d': (128, 128, 256, 24, 64, 64),
  'mixed_4e': (112, 144, 288, 32, 64, 64),
  'mixed_4f': (256, 160, 320, 32, 128, 128),
  'mixed_5b': (256, 160, 320, 32, 128, 128),
  'mixed_5c': (384, 192, 384, 48, 128, 128),
}
# What a module's maps are pooled by before it: sizes and strides in time, height and width.
_POOLS = {'mixed_3b': ((1, 3, 3), (1, 2, 2)), 'mixed_4b': ((3, 3, 3), (2, 2, 2)), 'mixed_5b': ((2, 2, 2), (2, 2, 2))}


def padding(length: int, size: int, stride: int) -> tuple[int, int]:
  """Returns TensorFlow's SAME padding before and after an axis: of an odd number the larger part comes after."""
  missing = max((-(-length // stride) - 1) * stride + size - length, 0)
  return missing // 2, missing - missing // 2


def _taps(maps: jax.Array, axis: int, size: int, stride: int, fill: float) -> list[jax.Array]:
  """Returns what each place of a window of `size` meets along an axis."""
  length = maps.shape[axis]
  pads = [(0, 0)] * maps.ndim
  pads[axis] = padding(length, size, stride)
  padded = jnp.pad(maps, pads, constant_values=fill)
  last = (-(-length // stride) - 1) * stride + 1
  return [jax.lax.slice_in_dim(padded, tap, tap + last, stride, axis) for tap in range(size)]


def max_pool(maps: jax.Array, window: tuple[int, int, int], strides: tuple[int, int, int]) -> jax.Array:
  """Returns the largest values of `[N, T, S, S, C]` in windows; axis after axis, which is the same and much faster."""
  for axis, (size, stride) in enumerate(zip(window, strides, strict=True), 1):
    if size > 1:
      first, *others = _taps(maps, axis, size, stride, -jnp.inf)
      for other in others:
        first = jnp.maximum(first, other)
      maps = first
  return maps


class Conv3D(nn.Module):
  """A convolution over time, height and width, the same size of each, followed by ReLU.

  The places of the window in time become channels of a convolution of pictures: on a CPU that is several times as fast
  as one of three axes (by 7 in the first layer).
  """

  channels: int
  size: int = 1
  stride: int = 1

  @nn.compact
  def __call__(self, maps: jax.Array) -> jax.Array:
    """Maps `[N, T, S, S, C]` to `[N, ⌈T / stride⌉, ⌈S / stride⌉, ⌈S / stride⌉, channels]`."""
    shape = (self.size,) * 3 + (maps.shape[-1], self.channels)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, shape[-1:])
    times = jnp.concatenate(_taps(maps, 1, self.size, self.stride, 0), axis=-1)
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(self.size, self.size, -1, self.channels)
    found = jax.lax.conv_general_dilated(
      times.reshape(-1, *times.shape[2:]),
      kernel,
      (self.stride,) * 2,
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return nn.relu(found.reshape(*times.shape[:2], *found.shape[1:]) + bias.reshape(1, 1, 1, 1, -1))


class Mixed(nn.Module):
  """An Inception module: four branches side by side."""

  channels: tuple[int, int, int, int, int, int]

  @nn.compact
  def __call__(self, maps: jax.Array) -> jax.Array:
    """Maps `[N, T, S, S, C]` to as many positions of other channels."""
    one, reduced, three, reduced_again, three_again, pooled = self.channels
    conv = lambda name, channels, size=1: Conv3D(channels, size, name=name)  # noqa: E731
    branches = (
      conv('branch_0', one)(maps),
      conv('branch_1_3x3', three, 3)(conv('branch_1_1x1', reduced)(maps)),
      conv('branch_2_3x3', three_again, 3)(conv('branch_2_1x1', reduced_again)(maps)),
      conv('branch_3', pooled)(max_pool(maps, (3, 3, 3), (1, 1, 1))),
    )
    return jnp.concatenate(branches, axis=-1)


class I3D(nn.Module):
  """The network in inference; the attributes are the published ones unless a test asks for less.

  Attributes:
    stem: channels of the first three convolutions.
    modules: name → channels of the Inception modules.
    classes: of the classifier.
  """

  stem: tuple[int, int, int] = (64, 64, 192)
  modules: Any = flax.core.freeze(MODULES)
  classes: int = 400

  @nn.compact
  def __call__(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps pixels `[N, T, S, S, 3]` from -1 to 1 to states and logits.

    Returns:
      The last module's states, averaged over the positions of a picture, `[N, T', D]`, not negative; and logits
      `[N, classes]`, of the means over every two neighbours in time.
    """
    first, second, third = self.stem
    x = Conv3D(first, 7, 2, name='conv3d_1a')(pixels)
    x = max_pool(x, (1, 3, 3), (1, 2, 2))
    x = Conv3D(second, name='conv3d_2b')(x)
    x = Conv3D(third, 3, name='conv3d_2c')(x)
    for name, channels in self.modules.items():
      x = Mixed(channels, name=name)(max_pool(x, *_POOLS[name]) if name in _POOLS else x)
    states = x.mean((2, 3))
    pairs = (states[:, :-1] + states[:, 1:]) / 2 if states.shape[1] > 1 else states
    return states, nn.Dense(self.classes, name='classifier')(pairs).mean(1)


def load_i3d(path: str | pathlib.Path) -> tuple[I3D, dict[str, Any]]:
  """Reads what `python -m dlkd_jax.tools.convert_backbone i3d` wrote.

  Returns the module and its parameters, a pytree; errors are those of `read_network` and `as_pytree`.
  """
  path = pathlib.Path(path)
  return I3D(), as_pytree(read_network(path, FORMAT, 'i3d'), I3D(), PIXELS, str(path), 'I3D')
