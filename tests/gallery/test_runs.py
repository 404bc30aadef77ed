"""What an index takes from a training's work directory."""

import numpy as np
import pytest

from configs import charades
from dlkd_jax.gallery import runs
from tests.gallery import worlds


def test_configuration_and_backbones(world):
  config = runs.read_config(world.run)
  assert config.model.hidden == worlds.HIDDEN and config.data.max_frames == worlds.FRAMES
  runs.check_backbones(config, world.collection)  # The set of the training is not there: nothing to compare.


def test_the_configuration_is_that_of_the_training(tmp_path):
  with pytest.raises(FileNotFoundError, match='expected the --workdir of a training'):
    runs.read_config(tmp_path)
  config = charades.get_config('hard,seed=3')
  (tmp_path / 'config.json').write_text(config.to_json_best_effort())
  found = runs.read_config(tmp_path)
  assert found.to_dict() == config.to_dict() and isinstance(found.data.frame_sizes, tuple)
  assert runs.read_config(tmp_path, '/elsewhere').data.data_dir == '/elsewhere'


def test_damaged_configurations(tmp_path):
  about = r'config\.json is not the configuration of a training'
  lacks = r'lacks data\.dataset, .*evaluation'
  for content, message in (('{"data"', 'is damaged'), ('[]', about), ('{"seed": 1}', about), ('{"data": {}}', lacks)):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=message):
      runs.read_config(tmp_path)


def test_fingerprints_tell_parameters_apart():
  params = {'a': {'x': np.ones((2, 3)), 'y': np.zeros(2)}, 'b': np.ones(1)}
  same = {'b': np.ones(1), 'a': {'y': np.zeros(2), 'x': np.ones((2, 3))}}
  assert runs.fingerprint(params) == runs.fingerprint(same)
  for other in ({**params, 'b': np.full(1, 1.5)}, {'a': params['a'], 'c': np.ones(1)}):
    assert runs.fingerprint(other) != runs.fingerprint(params)
  assert runs.fingerprint({'a': np.ones((2, 3))}) != runs.fingerprint({'a': np.ones((3, 2))})
