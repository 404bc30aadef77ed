"""Convolutional backbones: against the networks applied to each picture, or clip, alone."""

from __future__ import annotations

import dataclasses
import pathlib

import flax.traverse_util
import jax
import numpy as np
import pytest

from dlkd_jax.models import efficientnet, i3d, parameter_files, resnet
from dlkd_jax.video import backbones
from dlkd_jax.video.spans import Span
from tests.models import test_i3d, test_resnet


@pytest.mark.slow
def test_features_of_pictures(tmp_path):
  random = np.random.default_rng(0)
  shapes = parameter_files.network_shapes(efficientnet.EfficientNetLite0(), efficientnet.PIXELS)
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


@pytest.fixture
def files(tmp_path, monkeypatch):
  """Small networks in files, which are read as if they were the whole ones; returns their two names."""
  random = np.random.default_rng(0)
  shapes = parameter_files.network_shapes(test_i3d.SMALL, i3d.PIXELS)
  arrays = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
  parameter_files.save_arrays(arrays, tmp_path / 'i3d+a.safetensors', {'format': i3d.FORMAT})
  state = {name: x for name, x in test_resnet.torch_state(test_resnet.STAGES).items() if x.ndim}
  parameter_files.save_arrays(state, tmp_path / 'resnet.safetensors', {})
  small = resnet.ResNet(test_resnet.STAGES, 3, 4)
  monkeypatch.setattr(resnet, 'STAGES', test_resnet.STAGES)
  monkeypatch.setattr(resnet, 'ResNet', lambda classes: small)
  monkeypatch.setattr(i3d, 'I3D', lambda: test_i3d.SMALL)
  for module in (i3d, resnet):
    monkeypatch.setattr(module, 'PREPROCESS', dataclasses.replace(module.PREPROCESS, size=24, resize=28))
  return f'resnet152:{tmp_path / "resnet.safetensors"}', f'i3d:{tmp_path / "i3d+a.safetensors"}@pictures=4,rate=12.5'


def test_features_of_clips_and_pictures(files):
  random = np.random.default_rng(1)
  clips = [[random.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(4)] for _ in range(3)]
  pictures, motion = (backbones.open_frame_backbone(name) for name in files)
  assert motion.span == Span(4, 12.5) and motion.fingerprint.startswith('i3d@pictures=4,rate=12.5:')
  found = motion(clips)
  arrays = parameter_files.read_arrays(pathlib.Path(files[1][4:].split('@')[0]))
  params = flax.traverse_util.unflatten_dict(arrays, sep='/')
  apply = jax.jit(lambda x: test_i3d.SMALL.apply({'params': params}, x)[0])
  for clip, row in zip(clips, found, strict=True):
    pixels = np.stack([i3d.PREPROCESS(image) for image in clip])
    np.testing.assert_allclose(row, apply(pixels[None])[0].mean(0), rtol=1e-4, atol=1e-5)
  _, params = resnet.load_resnet(files[0].partition(':')[2])
  apply = jax.jit(lambda x: resnet.ResNet(4).apply({'params': params}, x)[0])
  found = pictures([clip[0] for clip in clips])
  for clip, row in zip(clips, found, strict=True):
    np.testing.assert_allclose(row, apply(resnet.PREPROCESS(clip[0])[None])[0], rtol=1e-4, atol=1e-5)


def test_joined_backbones_are_named_with_a_plus(files):
  joined = backbones.open_frame_backbone('+'.join(files))  # The file's own name holds one, too.
  assert [part.name for part in backbones.parts_of(joined)] == ['resnet152', 'i3d@pictures=4,rate=12.5']
  assert joined.features == 2048 + 1024 and joined.name == 'resnet152+i3d@pictures=4,rate=12.5'
  assert joined.fingerprint == '+'.join(part.fingerprint for part in joined.parts)
  rows = joined.join([np.array([[3.0, 4], [0, 0]]), np.array([[1000.0], [-0.1]])])
  np.testing.assert_allclose(rows, [[0.6, 0.8, 1], [0, 0, -1]], atol=2e-4)
  single = backbones.open_frame_backbone('statistics')
  assert backbones.parts_of(single) == (single,)
  with pytest.raises(ValueError, match="no backbone of frames 'resnet'"):
    backbones.open_frame_backbone('resnet+statistics')


@pytest.mark.parametrize('options', ['pictures=0', 'pictures=many', 'rate=0', 'rate=nan', 'pictures=257'])
def test_spans_that_cannot_be_are_refused(options, files):
  with pytest.raises(ValueError, match='pictures'):
    backbones.open_frame_backbone(files[1].partition('@')[0] + f'@{options}')
