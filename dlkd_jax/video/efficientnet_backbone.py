"""EfficientNet-Lite0 as a backbone of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlkd_jax.files import expand, fingerprint_of_files
from dlkd_jax.models import efficientnet
from dlkd_jax.video.in_batches import InBatches


class EfficientNetFrames:
  """1,280 features of a picture, from ImageNet."""

  form = 'efficientnet_lite0:FILE.safetensors'
  features = 1280

  def __init__(self, where: str):
    """Reads the file that `python -m dlkd_jax.tools.convert_backbone` wrote; errors of `load_efficientnet`."""
    path = expand(where)
    module, params, self._preprocess = efficientnet.load_efficientnet(path)
    self.name = 'efficientnet_lite0'
    self.fingerprint = f'{self.name}:{fingerprint_of_files(path)}'
    self._encode = InBatches(lambda params, pixels: module.apply({'params': params}, pixels)[0], params)

  def prepare(self, image: np.ndarray) -> np.ndarray:
    """Returns a picture, uint8 [H, W, 3], as the network takes it, float32 [224, 224, 3]."""
    return self._preprocess(image)

  def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of prepared pictures."""
    return self._encode(np.stack(prepared))

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of pictures, uint8 [H, W, 3]."""
    return self.encode([self.prepare(image) for image in images])
