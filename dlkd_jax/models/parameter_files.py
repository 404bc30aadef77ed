"""Parameters in a safetensors file: names `inheritance/frame_encoder/…`, nothing executed on loading."""

from __future__ import annotations

import pathlib
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy


def write_parameters(params: Any, path: pathlib.Path) -> None:
  """Writes a pytree of parameters; the file appears only when it is whole."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  temporary = path.with_name(path.name + '.tmp')
  arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
  safetensors.numpy.save_file(arrays, temporary, metadata={'format': 'dlkd_jax'})
  temporary.replace(path)


def read_parameters(path: pathlib.Path, like: Any) -> Any:
  """Reads a pytree of parameters.

  Args:
    path: a file that `write_parameters` wrote.
    like: pytree of arrays or `jax.ShapeDtypeStruct` that the file must match in names and shapes.

  Returns:
    The pytree of float32 numpy arrays.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no safetensors file, or names or shapes differ; the message lists them.
  """
  if not path.is_file():
    raise FileNotFoundError(f'there is no file {path}; make it with `python -m dlkd_jax.tools.convert_checkpoint`.')
  try:
    flat = safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is not a whole safetensors file: {error}') from error
  expected = {name: x.shape for name, x in flax.traverse_util.flatten_dict(like, sep='/').items()}
  found = {name: x.shape for name, x in flat.items()}
  lines = [
    f'{name}: found {found.get(name, "nothing")}, expected {expected.get(name, "nothing")}'
    for name in sorted(set(found) | set(expected))
    if found.get(name) != expected.get(name)
  ]
  if lines:
    raise ValueError(
      f'{path} does not fit the configuration and the data set:\n  ' + '\n  '.join(lines) + '\nUse the configuration '
      'that the parameters were trained with (model.hidden, data.max_frames, data.max_words, model.dual).'
    )
  return flax.traverse_util.unflatten_dict({n: x.astype(np.float32) for n, x in flat.items()}, sep='/')
