"""Parameters in safetensors files."""

import jax
import numpy as np
import pytest

from dlkd_jax.models.parameter_files import read_parameters, write_parameters


def tree():
  rng = np.random.default_rng(0)
  return {
    'inheritance': {'norm': {'scale': rng.standard_normal(4).astype(np.float32)}},
    'exploration': {'kernel': rng.standard_normal((3, 4)).astype(np.float32).T},  # Not contiguous.
  }


def test_there_and_back(tmp_path):
  path = tmp_path / 'params.safetensors'
  write_parameters(jax.tree.map(jax.numpy.asarray, tree()), path)
  write_parameters(tree(), path)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]
  loaded = read_parameters(path, like=jax.eval_shape(tree))
  assert jax.tree.structure(loaded) == jax.tree.structure(tree())
  for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree()), strict=True):
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b)


def test_every_difference_is_listed(tmp_path):
  path = tmp_path / 'params.safetensors'
  write_parameters(tree() | {'surplus': np.zeros(2, np.float32)}, path)
  like = tree() | {'lacking': np.zeros(5)}
  like['exploration'] = {'kernel': np.zeros((7, 7))}
  with pytest.raises(ValueError) as error:
    read_parameters(path, like=like)
  for line in (
    'exploration/kernel: found (4, 3), expected (7, 7)',
    'lacking: found nothing, expected (5,)',
    'surplus: found (2,), expected nothing',
  ):
    assert line in str(error.value)
  assert 'inheritance' not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize('length', [0, 5, 40, -3])
def test_truncated_file(tmp_path, length):
  path = tmp_path / 'params.safetensors'
  write_parameters(tree(), path)
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    read_parameters(path, like=tree())


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'params\.safetensors'):
    read_parameters(tmp_path / 'params.safetensors', like=tree())
