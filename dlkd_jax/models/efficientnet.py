"""EfficientNet-Lite0 in Flax: a real pretrained backbone for the student's frame features, small enough for a CPU.

Inverted bottlenecks (MBConv) without squeeze-and-excitation, ReLU6 as the only non-linearity, batch normalisation
folded into the convolutions by `python -m dlkd_jax.tools.convert_backbone`, which writes the file that
`load_efficientnet` reads:

    module, params, preprocess = load_efficientnet('efficientnet_lite0.safetensors')
    features, logits = module.apply({'params': params}, np.stack([preprocess(image) for image in images]))

Sizes: N images, S their side, C channels. Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", https://arxiv.org/abs/1905.11946; Lite0 is its B0 made for integer hardware.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dlkd_jax.models.parameter_files import as_pytree, read_network
from dlkd_jax.models.pictures import check_picture

FORMAT = 'dlkd_jax efficientnet_lite0'
PIXELS = (1, 224, 224, 3)  # Enough to tell the parameters' shapes from.
_RESAMPLING = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


class Stage(NamedTuple):
  """Blocks of one output size; the first has the stride, and changes the number of channels."""

  blocks: int
  kernel: int
  stride: int
  expansion: int
  channels: int


LITE0 = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)


class Block(NamedTuple):
  """One inverted bottleneck; `residual` where its input is added to its output."""

  kernel: int
  stride: int
  expansion: int
  channels: int
  residual: bool


def blocks(stages: tuple[Stage, ...], stem: int) -> Iterator[Block]:
  """Yields the blocks of the stages in order, for a stem of so many channels."""
  before = stem
  for stage in stages:
    for index in range(stage.blocks):
      stride = 1 if index else stage.stride
      residual = stride == 1 and before == stage.channels
      yield Block(stage.kernel, stride, stage.expansion, stage.channels, residual)
      before = stage.channels


class MBConv(nn.Module):
  """Inverted bottleneck: 1×1 expansion → depthwise convolution → 1×1 projection, the first two followed by ReLU6."""

  block: Block
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps `[N, S, S, C]` to `[N, ⌈S / stride⌉, ⌈S / stride⌉, channels]`."""
    kernel, stride, expansion, channels, residual = self.block
    x, inner = inputs, inputs.shape[-1] * expansion
    if expansion != 1:
      x = nn.relu6(nn.Conv(inner, (1, 1), dtype=self.dtype, name='expand')(x))
    # The padding of TensorFlow: of an odd number of zeros the larger part comes after.
    x = nn.Conv(
      inner, (kernel, kernel), stride, padding='SAME', feature_group_count=inner, dtype=self.dtype, name='depthwise'
    )(x)
    x = nn.Conv(channels, (1, 1), dtype=self.dtype, name='project')(nn.relu6(x))
    return x + inputs if residual else x


class EfficientNetLite0(nn.Module):
  """The network in inference; the attributes are Lite0's unless a test asks for less.

  Attributes:
    stages: of blocks.
    stem: channels of the first convolution.
    features: D, channels of the last one.
    classes: of the classifier.
    dtype: of the products; parameters are float32, and so are the results.
  """

  stages: tuple[Stage, ...] = LITE0
  stem: int = 32
  features: int = 1280
  classes: int = 1000
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps pixels `[N, S, S, 3]`, as `Preprocess` makes them, to features and logits.

    Returns:
      Means over the positions of the last map `[N, D]`, not negative and not normalised; and logits `[N, classes]`.
    """
    x = nn.Conv(self.stem, (3, 3), 2, padding='SAME', dtype=self.dtype, name='stem')(pixels)
    x = nn.relu6(x)
    for index, block in enumerate(blocks(self.stages, self.stem)):
      x = MBConv(block, self.dtype, name=f'block_{index:02}')(x)
    x = nn.relu6(nn.Conv(self.features, (1, 1), dtype=self.dtype, name='head')(x))
    features = x.astype(jnp.float32).mean((1, 2))
    return features, nn.Dense(self.classes, name='classifier')(features)


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """What the network was trained to see: the middle of the picture, values from -0.99 to 1.

  Attributes:
    size: S, side of the result in pixels.
    resize: length in pixels that the shorter side gets before the middle is cut out.
    resampling: 'bicubic', as the weights were evaluated by their authors, or 'bilinear'.
    mean: subtracted from each value in 0..255.
    std: divides what is left.
  """

  size: int = 224
  resize: int = 256
  resampling: str = 'bicubic'
  mean: float = 127.0
  std: float = 128.0

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Maps one RGB picture `[H, W, 3]` of uint8 to `[S, S, 3]` float32.

    Raises:
      ValueError: the picture has another shape or type, or no pixels.
    """
    check_picture(image)
    height, width = image.shape[:2]
    # The middle square is resampled at once: no more pixels are made than are kept.
    side = min(height, width) * self.size / self.resize
    left, top = (width - side) / 2, (height - side) / 2
    resized = Image.fromarray(image).resize(
      (self.size, self.size), _RESAMPLING[self.resampling], box=(left, top, left + side, top + side)
    )
    return (np.asarray(resized, np.float32) - np.float32(self.mean)) / np.float32(self.std)


def load_efficientnet(path: str | pathlib.Path) -> tuple[EfficientNetLite0, dict[str, Any], Preprocess]:
  """Reads what `python -m dlkd_jax.tools.convert_backbone efficientnet_lite0` wrote.

  Returns the module, its parameters and the preprocessing that they expect; errors of `read_network` and `as_pytree`.
  """
  path = pathlib.Path(path)
  arrays, module = read_network(path, FORMAT, 'efficientnet_lite0'), EfficientNetLite0()
  return module, as_pytree(arrays, module, PIXELS, str(path), 'EfficientNet-Lite0'), Preprocess()
