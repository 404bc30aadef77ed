"""EfficientNet-Lite0 as a backbone: against the network applied to each picture alone."""

from __future__ import annotations

import numpy as np
import pytest

from dlkd_jax.models import efficientnet, parameter_files
from dlkd_jax.video import backbones


@pytest.mark.slow
def test_features_of_pictures(tmp_path):
  random = np.random.default_rng(0)
  shapes = efficientnet.parameter_shapes(efficientnet.EfficientNetLite0())
  arrays = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
  parameter_files.save_arrays(arrays, tmp_path / 'net.safetensors', {'format': efficientnet.FORMAT})
  backbone = backbones.open_frame_backbone(f'efficientnet_lite0:{tmp_path / "net.safetensors"}')
  pictures = [random.integers(0, 256, (100 + 20 * n, 150, 3), np.uint8) for n in range(3)]
  found = backbone(pictures)
  assert found.shape == (3, backbone.features) == (3, 1280) and found.dtype == np.float32
  module, params, preprocess = efficientnet.load_efficientnet(tmp_path / 'net.safetensors')
  for picture, row in zip(pictures, found, strict=True):
    features, _ = module.apply({'params': params}, preprocess(picture)[None])
    np.testing.assert_allclose(row, features[0], rtol=1e-3, atol=1e-3 * np.abs(row).max())


def test_an_absent_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='convert_backbone'):
    backbones.open_frame_backbone(f'efficientnet_lite0:{tmp_path / "net.safetensors"}')
