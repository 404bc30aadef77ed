"""Opening a run: its configuration, and errors that say what was expected."""

import pytest

from configs import charades
from dlkd_jax.reporting import trained_run


def test_the_configuration_is_that_of_the_training(tmp_path):
  config = charades.get_config('hard,seed=3')
  (tmp_path / 'config.json').write_text(config.to_json_best_effort())
  found = trained_run.read_config(tmp_path)
  assert found.to_dict() == config.to_dict() and isinstance(found.data.frame_sizes, tuple)
  assert trained_run.read_config(tmp_path, '/elsewhere').data.data_dir == '/elsewhere'


def test_a_folder_without_a_run(tmp_path):
  with pytest.raises(FileNotFoundError, match='expected the --workdir of a training'):
    trained_run.read_config(tmp_path)


@pytest.mark.parametrize('content', ['{"data"', '[]', '{"seed": 1}'])
def test_a_damaged_configuration(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(ValueError, match=r'config\.json is not the configuration of a training'):
    trained_run.read_config(tmp_path)
