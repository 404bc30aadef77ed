"""ResNet-152 in Flax, from torchvision's or timm's weights: with I3D the features that TVR is published with.

    module, params = load_resnet('resnet152.safetensors')
    features, logits = module.apply({'params': params}, PREPROCESS.normalize(pictures))   # uint8 [N, S, S, 3]

Batch normalisation is folded into the convolutions on reading. A block that halves the size does so in its 3×3
convolution, as both libraries' do. Sizes: N pictures, S their side, C channels. He et al., "Deep Residual Learning for
Image Recognition", https://arxiv.org/abs/1512.03385.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dlkd_jax.models import parameter_files
from dlkd_jax.models.clip_inputs import Preprocess

# ImageNet's: shorter side of 256 pixels, the middle 224.
PREPROCESS = Preprocess(
  size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resampling='bilinear'
)
STAGES = (3, 8, 36, 3)
_EPSILON = 1e-5
_EXPANSION = 4


def _conv(channels: int, size: int, stride: int, name: str) -> nn.Conv:
  """A convolution with PyTorch's padding, half of its size on each side."""
  return nn.Conv(channels, (size, size), stride, padding=size // 2, name=name)


class Bottleneck(nn.Module):
  """1×1 → 3×3 → 1×1 to four times the channels, added to the input, which is projected where its shape differs."""

  channels: int
  stride: int = 1

  @nn.compact
  def __call__(self, maps: jax.Array) -> jax.Array:
    """Maps `[N, S, S, C]` to `[N, ⌈S / stride⌉, ⌈S / stride⌉, 4 channels]`."""
    x = nn.relu(_conv(self.channels, 1, 1, 'conv1')(maps))
    x = nn.relu(_conv(self.channels, 3, self.stride, 'conv2')(x))
    x = _conv(_EXPANSION * self.channels, 1, 1, 'conv3')(x)
    if self.stride != 1 or maps.shape[-1] != x.shape[-1]:
      maps = _conv(x.shape[-1], 1, self.stride, 'downsample')(maps)
    return nn.relu(x + maps)


class ResNet(nn.Module):
  """The network in inference; the attributes are ResNet-152's unless a test asks for less.

  Attributes:
    stages: blocks of each; the channels double from stage to stage.
    stem: channels of the first convolution.
    classes: of the classifier; None leaves it out.
  """

  stages: tuple[int, ...] = STAGES
  stem: int = 64
  classes: int | None = 1000

  @nn.compact
  def __call__(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Maps normalised pixels `[N, S, S, 3]` to features and logits.

    Returns:
      Means over the positions of the last map `[N, D]`, not negative; and logits `[N, classes]`, or None.
    """
    x = nn.relu(_conv(self.stem, 7, 2, 'conv1')(pixels))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, blocks in enumerate(self.stages):
      for block in range(blocks):
        stride = 2 if stage and not block else 1
        x = Bottleneck(self.stem << stage, stride, name=f'layer{stage + 1}_{block}')(x)
    features = x.mean((1, 2))
    return features, None if self.classes is None else nn.Dense(self.classes, name='fc')(features)


def from_torch(state: Mapping[str, np.ndarray], stages: tuple[int, ...], origin: str) -> dict[str, np.ndarray]:
  """Maps a state dict of torchvision or timm to our parameters by name.

  Args:
    state: name → array.
    stages: of the network.
    origin: of the state, for messages.

  Raises:
    UserError: arrays are missing or left over; the message lists them.
  """
  names = {'conv1': ('conv1', 'bn1')}
  for stage, blocks in enumerate(stages, 1):
    for block in range(blocks):
      there, here = f'layer{stage}.{block}', f'layer{stage}_{block}'
      names |= {f'{here}/conv{n}': (f'{there}.conv{n}', f'{there}.bn{n}') for n in (1, 2, 3)}
      if not block:
        names[f'{here}/downsample'] = (f'{there}.downsample.0', f'{there}.downsample.1')
  classifier = {'fc.weight', 'fc.bias'} & state.keys()  # A file of features alone has none.
  what = f'a ResNet of {stages} blocks as torchvision and timm have it'
  arrays = parameter_files.from_torch(state, names, classifier, _EPSILON, origin, what)
  if classifier:
    arrays |= {'fc/kernel': state['fc.weight'].T, 'fc/bias': state['fc.bias']}
  return arrays


def load_resnet(path: str | pathlib.Path) -> tuple[ResNet, dict[str, Any]]:
  """Reads ResNet-152 from safetensors under torchvision's or timm's names, with or without the classifier.

  Returns the module and its parameters; FileNotFoundError where it is not there, else errors of `read_arrays`,
  `from_torch` and `as_pytree`.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no file {path}; expected ResNet-152 as safetensors, as model.safetensors of a timm/resnet152 model'
    )
  arrays = from_torch(parameter_files.read_arrays(path), STAGES, str(path))
  module = ResNet(classes=len(arrays['fc/bias']) if 'fc/bias' in arrays else None)
  return module, parameter_files.as_pytree(arrays, module, (1, 32, 32, 3), str(path), 'ResNet-152')
