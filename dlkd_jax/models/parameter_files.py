"""Parameters in a safetensors file: names `<branch>/frame_encoder/…`, nothing executed on loading."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import whose_kind
from dlkd_jax.files import replacing
from dlkd_jax.models.fields import read_fields

# Other types hold parts of a quantised weight, which is another number.
FLOATS = ('float32', 'float16', 'bfloat16', 'float64')
# Of files with weights that are not read.
OTHER_WEIGHTS = ('.bin', '.pth', '.pt', '.ckpt', '.h5', '.msgpack', '.npz', '.onnx')


def write_parameters(params: Any, path: pathlib.Path, heads: int | None = None, student: str | None = None) -> None:
  """Writes a pytree of parameters, with what no shape shows where it is known: heads and `config.model.name`."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  said = {'heads': str(heads)} if heads else {}
  said |= {'student': student} if student else {}
  save_arrays(flat, path, {'format': 'dlkd_jax'} | said)


def save_arrays(arrays: Mapping[str, Any], path: pathlib.Path, metadata: dict[str, str]) -> None:
  """Writes arrays by name as safetensors; the file appears only when it is whole.

  Raises:
    OSError: it cannot be written, as where the disk is full.
  """
  contiguous = {name: np.asarray(array, order='C') for name, array in arrays.items()}
  with replacing(path) as temporary:  # Left alone, safetensors makes files that only their owner can read.
    try:
      safetensors.numpy.save_file(contiguous, temporary, metadata=metadata)
    except safetensors.SafetensorError as error:
      if number := re.search(r'os error (\d+)', str(error)):  # The library's error hides that of the system.
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
      raise


def read_metadata(path: pathlib.Path) -> dict[str, str]:
  """Reads what a safetensors file says of itself; raises UserError where it is no whole one."""
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      return file.metadata() or {}
  except safetensors.SafetensorError as error:
    raise not_whole(path, error) from error


def not_whole(path: pathlib.Path, error: safetensors.SafetensorError) -> UserError:
  """Returns what to raise of a file that the library does not read: what it is, where that is known."""
  return UserError(f'{path} is not a whole safetensors file: {whose_kind(path, str(error), "safetensors")}')


def read_arrays(path: pathlib.Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
  """Reads the arrays of a safetensors file, those of the names that are there or all, as float32.

  Raises:
    UserError: it is no whole safetensors file, or arrays are of whole numbers or of other types; they are named.
  """
  try:
    with safetensors.safe_open(path, 'flax') as file:  # numpy has no bfloat16.
      wanted = file.keys() if names is None else sorted(set(names) & set(file.keys()))
      arrays = {name: np.asarray(file.get_tensor(name)) for name in wanted}
  except safetensors.SafetensorError as error:
    raise not_whole(path, error) from error
  if odd := [f'{name} ({x.dtype})' for name, x in arrays.items() if str(x.dtype) not in FLOATS]:
    more = f' and {len(odd) - 5} more' if len(odd) > 5 else ''
    raise UserError(f'{path} holds arrays of other types than {", ".join(FLOATS)}: {", ".join(odd[:5])}{more}')
  return {name: np.asarray(x, np.float32) for name, x in arrays.items()}


def read_network(path: pathlib.Path, format: str, backbone: str) -> dict[str, np.ndarray]:
  """Reads the parameters of a network that `python -m dlkd_jax.tools.convert_backbone` wrote, by name.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it is no safetensors file, or says that it is of another format.
  """
  make = f'make it with `python -m dlkd_jax.tools.convert_backbone {backbone} FILE`'
  if not path.is_file():
    raise FileNotFoundError(f'there is no file {path}; {make}.')
  if (found := read_metadata(path).get('format')) != format:
    raise UserError(f'{path} says that its format is {found!r}, expected {format!r}; {make}.')
  return read_arrays(path)


def network_shapes(module: nn.Module, pixels: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
  """Returns name → shape of all parameters of a network of pixels of a shape; nothing is computed."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(pixels, jnp.float32))['params']
  return {name: x.shape for name, x in flax.traverse_util.flatten_dict(shapes, sep='/').items()}


def check_network(
  arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], origin: str, network: str
) -> None:
  """Checks that arrays by name are the parameters of a network.

  Raises:
    UserError: names or shapes differ, or values are not finite; the message begins with `origin` and lists them.
  """
  lines = _differences({name: np.shape(x) for name, x in arrays.items()}, expected)
  lines += [f'{name}: not finite' for name, x in sorted(arrays.items()) if not np.isfinite(x).all()]
  if lines:
    more = f'\n  and {len(lines) - 10} more' if len(lines) > 10 else ''
    raise UserError(f'{origin} does not hold {network}:\n  ' + '\n  '.join(lines[:10]) + more)


def _differences(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
  return [
    f'{name}: found {found.get(name, "nothing")}, expected {expected.get(name, "nothing")}'
    for name in sorted({*found, *expected})
    if found.get(name) != expected.get(name)
  ]


def folded(
  kernel: np.ndarray, mean: np.ndarray, variance: np.ndarray, bias: np.ndarray, epsilon: float, weight: Any = 1.0
) -> dict[str, np.ndarray]:
  """Returns float32 kernel […, channels] and bias of a convolution with the batch normalisation behind it folded in."""
  scale = np.asarray(weight, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
  return {'kernel': (kernel * scale).astype(np.float32), 'bias': (bias - mean * scale).astype(np.float32)}


def check_names(found: Set[str], expected: Set[str], origin: str, network: str) -> None:
  """Checks that arrays have the names of a network's; UserError, which lists what is missing or left over."""
  if found != expected:
    missing, over = sorted(expected - found), sorted(found - expected)
    raise UserError(
      f'{origin} is not {network}: {len(missing)} arrays are missing {missing[:4]}, {len(over)} are unknown {over[:4]}'
    )


def from_torch(
  state: Mapping[str, np.ndarray],
  names: Mapping[str, tuple[str, str]],
  others: Set[str],
  epsilon: float,
  origin: str,
  network: str,
) -> dict[str, np.ndarray]:
  """Maps the convolutions of a state dict to our parameters by name, batch normalisation folded in.

  Args:
    state: name → array.
    names: our name of each convolution → the source's of it and of the batch normalisation behind it.
    others: further names that the state has.
    epsilon: of the normalisation.
    origin, network: what the state is of, for messages.

  Raises:
    UserError: arrays are missing or left over, or do not fit; the message lists them.
  """
  norm = ('weight', 'bias', 'running_mean', 'running_var')
  expected = others | {f'{conv}.weight' for conv, _ in names.values()}
  expected |= {f'{there}.{part}' for _, there in names.values() for part in norm}
  # Only training counts batches.
  check_names({name for name in state if not name.endswith('.num_batches_tracked')}, expected, origin, network)
  arrays = {}
  for ours, (conv, there) in names.items():
    kernel = np.moveaxis(state[f'{conv}.weight'], (0, 1), (-1, -2))  # From [out, in, …] to […, in, out].
    weight, bias, mean, variance = (state[f'{there}.{part}'] for part in norm)
    if weight.shape != kernel.shape[-1:]:
      raise UserError(f'{origin}: {conv}.weight is {state[f"{conv}.weight"].shape}, {there}.weight {weight.shape}')
    arrays |= {f'{ours}/{part}': x for part, x in folded(kernel, mean, variance, bias, epsilon, weight).items()}
  return arrays


def as_pytree(
  arrays: Mapping[str, np.ndarray], module: nn.Module, pixels: tuple[int, ...], origin: str, network: str
) -> dict[str, Any]:
  """Returns arrays by name as the parameters of a network of pixels of a shape; errors are those of `check_network`."""
  check_network(arrays, network_shapes(module, pixels), origin, network)
  return flax.traverse_util.unflatten_dict(arrays, sep='/')


class _Arrays(Mapping[str, np.ndarray]):
  """The arrays of safetensors files, each read when it is asked for: the whole is never in memory twice."""

  def __init__(self, places: dict[str, pathlib.Path]):
    self._places = places

  def __getitem__(self, name: str) -> np.ndarray:
    # Opened anew, because what was read of a file stays mapped until it is closed. Through JAX's types, since numpy has
    # no bfloat16.
    with safetensors.safe_open(self._places[name], 'flax') as file:
      return np.asarray(file.get_tensor(name))

  def __contains__(self, name: object) -> bool:
    return name in self._places  # The inherited form reads the array.

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __len__(self) -> int:
    return len(self._places)


def open_arrays(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """Opens a safetensors file, or the parts that `<its name>.index.json` names.

  Returns:
    Name → array, of any type, read when it is asked for.

  Raises:
    FileNotFoundError: a file is missing.
    UserError: a file is of another kind or damaged, or the index names what is not there.
  """
  index = path.with_name(path.name + '.index.json')
  named: dict[str, Any] = {}
  parts = [path]
  if not path.is_file() and index.is_file():
    named = read_fields(index).part('weight_map').content
    if odd := [name for name, part in named.items() if not isinstance(part, str)]:
      raise UserError(f'{index}: weight_map.{odd[0]} is {named[odd[0]]!r}; expected the name of a file beside it')
    parts = [path.with_name(name) for name in sorted({pathlib.PurePath(part).name for part in named.values()})]
  places: dict[str, pathlib.Path] = {}
  for part in parts:
    if not part.is_file():
      others = sorted(x.name for x in path.parent.glob('*') if x.suffix in OTHER_WEIGHTS)
      found = f' {others[0]} is of PyTorch or another library: convert it to safetensors.' if others else ''
      raise FileNotFoundError(f'there is no file {part}; the weights of a model are needed as safetensors.{found}')
    try:
      with safetensors.safe_open(part, 'flax') as file:
        places |= dict.fromkeys(file.keys(), part)
    except safetensors.SafetensorError as error:
      raise not_whole(part, error) from error
  if missing := sorted(named.keys() - places):
    raise UserError(
      f'{index}: weight_map.{missing[0]} stands in no file, nor do {len(missing) - 1} more; get them again'
    )
  return _Arrays(places)


def is_ours(path: pathlib.Path) -> bool:
  """Whether a file was written by `write_parameters`."""
  try:
    return read_metadata(path).get('format') == 'dlkd_jax'
  except UserError:
    return False


def read_parameters(path: pathlib.Path, like: Any, heads: int | None = None) -> Any:
  """Reads a pytree of parameters.

  Args:
    path: a file that `write_parameters` wrote.
    like: pytree of arrays or `jax.ShapeDtypeStruct` that the file must match in names and shapes.
    heads: attention heads of the student that the parameters are for; compared where the file says its own.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it is no safetensors file, or heads, names or shapes differ; the message lists them.
  """
  if not path.is_file():
    raise FileNotFoundError(f'there is no file {path}; make it with `python -m dlkd_jax.tools.convert_checkpoint`.')
  own_heads = read_metadata(path).get('heads')
  if None not in (heads, own_heads) and int(own_heads) != heads:
    raise UserError(
      f'{path} holds a student of {own_heads} attention heads, and the configuration has {heads}; '
      f'add --config.model.heads={own_heads}.'
    )
  params = flax.traverse_util.unflatten_dict(read_arrays(path), sep='/')
  check_shapes(params, like, str(path))
  return params


def check_shapes(params: Any, like: Any, origin: str) -> None:
  """Checks that a pytree of parameters has the names and shapes of another.

  Raises:
    UserError: it does not; the message lists the differences and begins with `origin`.
  """
  shapes = [{n: x.shape for n, x in flax.traverse_util.flatten_dict(tree, sep='/').items()} for tree in (params, like)]
  if lines := _differences(*shapes):
    raise UserError(
      f'{origin} does not fit the configuration and the data set:\n  ' + '\n  '.join(lines) + '\nUse the configuration '
      'that the parameters were trained with (model.hidden, data.max_frames, data.max_words, model.branches).'
    )
