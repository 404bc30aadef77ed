"""What an index takes from the work directory of a training."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import flax.traverse_util
import ml_collections
import numpy as np

from dlkd_jax import config as config_lib
from dlkd_jax.errors import UserError
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.models.students import teacher_features


def read_config(workdir: pathlib.Path, data_dir: str | None = None) -> ml_collections.ConfigDict:
  """Reads the configuration of a training from its work directory.

  Args:
    workdir: of the training.
    data_dir: where its data set lies now; None: where it lay.

  Raises:
    FileNotFoundError: it holds none.
    UserError: it is damaged, or lacks what the student needs.
  """
  config, notes, _ = config_lib.read_run(workdir)
  for note in notes:
    print(f'note: {note}', flush=True)
  if data_dir is not None:
    with config.unlocked():
      config.data.data_dir = str(data_dir)
  return config


def check_backbones(config: ml_collections.ConfigDict, collection: Collection) -> None:
  """Checks that the features are of the backbones that the student was trained on, as far as both are known.

  Raises:
    ValueError: they are of others, which may have the same sizes.
  """
  try:
    trained = Collection.open(config.data.data_dir, config.data.dataset)
  except (OSError, ValueError):
    return  # The data set of the training need not be here.
  odd = [
    f'{name}: {there} in training, {here} here'
    for name in ('student', 'tokens', *(['teacher'] if teacher_features(config) else []))
    if (there := trained.options.get(name)) != (here := collection.options.get(name))
    and all(isinstance(made, str) for made in (there, here))
  ]
  if odd:
    raise UserError(
      f'{collection.dataset} in {collection.data_dir} was made with other backbones than {config.data.dataset} in '
      f'{config.data.data_dir}, which the student was trained on: {"; ".join(odd)}. Extract it with the same --student '
      'and --tokens, or index it without --workdir'
    )


def fingerprint(params: Any) -> str:
  """Returns a short hash of parameters."""
  digest = hashlib.sha256()
  for name, array in sorted(flax.traverse_util.flatten_dict(params, sep='/').items()):
    digest.update(f'{name} {array.shape}'.encode() + np.asarray(array, np.float32).tobytes())
  return digest.hexdigest()[:12]
