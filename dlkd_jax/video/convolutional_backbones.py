"""Convolutional networks as backbones of frames: EfficientNet-Lite0 and ResNet-152 of pictures, I3D of motion."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.files import expand, fingerprint_of_files
from dlkd_jax.models import efficientnet, i3d, resnet
from dlkd_jax.video.in_batches import InBatches
from dlkd_jax.video.spans import Span

_MOST_PICTURES = 256  # Of a clip; ten seconds at I3D's rate.


class _OfPictures:
  """A network of single pictures; those that know its weights set how a picture is prepared, and the function."""

  prepare: Callable[[np.ndarray], np.ndarray]
  _encode: InBatches

  def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of prepared pictures."""
    return self._encode(np.stack(prepared))

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of pictures, uint8 [H, W, 3]."""
    return self.encode([self.prepare(image) for image in images])


class EfficientNetFrames(_OfPictures):
  """1,280 features of a picture, from ImageNet."""

  form = 'efficientnet_lite0:FILE.safetensors'
  name = 'efficientnet_lite0'
  features = 1280

  def __init__(self, where: str):
    """Reads the file that `python -m dlkd_jax.tools.convert_backbone` wrote; errors of `load_efficientnet`."""
    module, params, self.prepare = _opened(self, where, efficientnet.load_efficientnet)
    self._encode = InBatches(lambda params, pixels: module.apply({'params': params}, pixels)[0], params)


class ResNetFrames(_OfPictures):
  """2,048 features of a picture, from ImageNet."""

  form = 'resnet152:FILE.safetensors'
  name = 'resnet152'
  features = 2048

  def __init__(self, where: str):
    """Reads torchvision's or timm's weights; errors of `load_resnet`."""
    module, params = _opened(self, where, resnet.load_resnet)
    self.prepare, normalize = resnet.PREPROCESS.crop, resnet.PREPROCESS.normalize
    self._encode = InBatches(lambda params, pixels: module.apply({'params': params}, normalize(pixels))[0], params)


class I3DFrames:
  """1,024 features of what moves around a time, from Kinetics-400.

  Attributes:
    span: the pictures around a time that it sees.
  """

  form = 'i3d:FILE.safetensors@pictures=16,rate=25'
  features = 1024

  def __init__(self, where: str, pictures: str = '16', rate: str = '25'):
    """Reads the file that `python -m dlkd_jax.tools.convert_backbone` wrote.

    Args:
      where: the file.
      pictures: of a clip; the network makes a state of every eight, and was trained on 64.
      rate: pictures a second; it was trained on 25.

    Raises:
      UserError: the numbers are none, or out of range; errors of `load_i3d`.
    """
    self.span = _span(pictures, rate)
    self.name = f'i3d@pictures={self.span.pictures},rate={self.span.rate:g}'
    module, params = _opened(self, where, i3d.load_i3d)
    self.prepare, normalize = i3d.PREPROCESS.crop, i3d.PREPROCESS.normalize
    encode = lambda params, pixels: module.apply({'params': params}, normalize(pixels))[0].mean(1)  # noqa: E731
    self._encode = InBatches(encode, params)

  def encode(self, prepared: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Returns features, float32 [N, D], of the prepared pictures of N clips."""
    return self._encode(np.stack([np.stack(clip) for clip in prepared]))

  def __call__(self, clips: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Returns features, float32 [N, D], of clips of pictures, uint8 [H, W, 3]."""
    return self.encode([[self.prepare(image) for image in clip] for clip in clips])


def _opened(backbone: Any, where: str, load: Callable[[pathlib.Path], Any]) -> Any:
  """Reads the file of a backbone, and notes in it where that is and what tells it from others; errors of `load`."""
  path = expand(where)
  found = load(path)
  backbone.where, backbone.fingerprint = str(path.absolute()), f'{backbone.name}:{fingerprint_of_files(path)}'
  return found


def _span(pictures: str, rate: str) -> Span:
  """Reads the options of a backbone that sees time."""
  try:
    span = Span(int(pictures), float(rate))
    span.offsets()
  except ValueError as error:
    raise UserError(f'pictures is {pictures!r} and rate {rate!r}; expected numbers, as pictures=16,rate=25') from error
  if span.pictures > _MOST_PICTURES:
    raise UserError(f'pictures is {pictures}; at most {_MOST_PICTURES} are kept around a time')
  return span
