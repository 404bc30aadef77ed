"""ResNet-152: a small network against plain loops with PyTorch's padding and normalisation, its files."""

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy

from dlkd_jax.models import parameter_files, resnet

STAGES = (2, 1)


def torch_state(stages, stem=3, classes=4, seed=0):
  """A state dict with torchvision's names, [out, in, height, width], of random numbers."""
  random = np.random.default_rng(seed)
  state = {}

  def convolution(name, norm, inputs, outputs, size):
    state[f'{name}.weight'] = random.normal(0, (inputs * size * size) ** -0.5, (outputs, inputs, size, size))
    state.update({f'{norm}.{part}': random.normal(0.2, 0.3, outputs) for part in ('weight', 'bias', 'running_mean')})
    state[f'{norm}.running_var'] = random.uniform(0.5, 1.5, outputs)
    state[f'{norm}.num_batches_tracked'] = np.array(7)

  convolution('conv1', 'bn1', 3, stem, 7)
  inputs = stem
  for stage, blocks in enumerate(stages, 1):
    channels = stem << (stage - 1)
    for block in range(blocks):
      here = f'layer{stage}.{block}'
      convolution(f'{here}.conv1', f'{here}.bn1', inputs, channels, 1)
      convolution(f'{here}.conv2', f'{here}.bn2', channels, channels, 3)
      convolution(f'{here}.conv3', f'{here}.bn3', channels, 4 * channels, 1)
      if not block:
        convolution(f'{here}.downsample.0', f'{here}.downsample.1', inputs, 4 * channels, 1)
      inputs = 4 * channels
  state |= {'fc.weight': random.normal(0, 1, (classes, inputs)), 'fc.bias': random.normal(0, 1, classes)}
  return {name: np.asarray(x, np.float32 if x.ndim else np.int64) for name, x in state.items()}


def plain(state, name, norm, x, stride=1):
  """A convolution [C, S, S] with half its size of zeros around, then the normalisation."""
  kernel = state[f'{name}.weight'].astype(np.float64)
  size = kernel.shape[-1]
  padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2))
  out = (padded.shape[1] - size) // stride + 1
  found = np.empty((len(kernel), out, out))
  for row, column in np.ndindex(out, out):
    window = padded[:, row * stride : row * stride + size, column * stride : column * stride + size]
    found[:, row, column] = np.tensordot(kernel, window, 3)
  weight, bias, mean, var = (
    state[f'{norm}.{part}'][:, None, None] for part in ('weight', 'bias', 'running_mean', 'running_var')
  )
  return (found - mean) / np.sqrt(var + 1e-5) * weight + bias


def plain_network(state, stages, pixels):
  relu = lambda x: np.maximum(x, 0)  # noqa: E731
  x = relu(plain(state, 'conv1', 'bn1', pixels.transpose(2, 0, 1).astype(np.float64), 2))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
  out = (padded.shape[1] - 3) // 2 + 1
  x = np.array(
    [[padded[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((1, 2)) for c in range(out)] for r in range(out)]
  ).transpose(2, 0, 1)
  for stage, blocks in enumerate(stages, 1):
    for block in range(blocks):
      here, stride = f'layer{stage}.{block}', 2 if stage > 1 and not block else 1
      y = relu(plain(state, f'{here}.conv1', f'{here}.bn1', x))
      y = relu(plain(state, f'{here}.conv2', f'{here}.bn2', y, stride))
      y = plain(state, f'{here}.conv3', f'{here}.bn3', y)
      x = relu(y + (x if block else plain(state, f'{here}.downsample.0', f'{here}.downsample.1', x, stride)))
  features = x.mean((1, 2))
  return features, state['fc.weight'] @ features + state['fc.bias']


@pytest.mark.parametrize('side', [32, 29])
def test_small_network_agrees_with_plain_loops(side):
  state = torch_state(STAGES)
  arrays = resnet.from_torch(state, STAGES, 'state')
  module = resnet.ResNet(stages=STAGES, stem=3, classes=4)
  shapes = parameter_files.network_shapes(module, (1, 32, 32, 3))
  assert {name: x.shape for name, x in arrays.items()} == shapes
  pixels = np.random.default_rng(1).normal(0, 1, (2, side, side, 3)).astype(np.float32)
  params = flax.traverse_util.unflatten_dict(arrays, sep='/')
  features, logits = jax.jit(lambda x: module.apply({'params': params}, x))(pixels)
  for index, picture in enumerate(pixels):
    expected, classes = plain_network(state, STAGES, picture)
    np.testing.assert_allclose(features[index], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(logits[index], classes, rtol=1e-3, atol=1e-3 * np.abs(classes).max())


def test_size_is_that_of_the_published_network():
  shapes = parameter_files.network_shapes(resnet.ResNet(), (1, 32, 32, 3))
  # 60,192,808 parameters are published; folding leaves one number a channel where normalisation has two.
  channels = sum(shape[0] for name, shape in shapes.items() if name.endswith('bias') and not name.startswith('fc'))
  assert sum(int(np.prod(shape)) for shape in shapes.values()) + channels == 60_192_808


def test_files_are_checked(tmp_path):
  with pytest.raises(FileNotFoundError, match='expected ResNet-152 as safetensors'):
    resnet.load_resnet(tmp_path / 'absent.safetensors')
  state = {name: x for name, x in torch_state(STAGES).items() if x.ndim}
  path = tmp_path / 'net.safetensors'
  safetensors.numpy.save_file(state, path)
  with pytest.raises(ValueError, match=r'not a ResNet of \(3, 8, 36, 3\) blocks .* arrays are missing'):
    resnet.load_resnet(path)
  state['conv1.0.weight'] = state.pop('conv1.weight')  # As in timm's resnet152d.
  with pytest.raises(ValueError, match=r"missing \['conv1.weight'\], 1 are unknown \['conv1.0.weight'\]"):
    resnet.from_torch(state, STAGES, 'state')
  state['conv1.weight'] = state.pop('conv1.0.weight')
  del state['fc.weight'], state['fc.bias']
  assert 'fc/kernel' not in resnet.from_torch(state, STAGES, 'state')
