"""Parameters in safetensors files."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from dlkd_jax.errors import UserError
from dlkd_jax.models import parameter_files
from dlkd_jax.models.efficientnet import load_efficientnet
from dlkd_jax.models.parameter_files import read_parameters, write_parameters
from dlkd_jax.models.sentence_encoder import load_sentence_encoder
from dlkd_jax.tools.convert_checkpoint import read_file
from tests.models.test_sentence_encoder import write_model


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


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 605157884\n'


def test_arrays_of_any_real_type_become_float32(tmp_path):
  path = tmp_path / 'x.safetensors'
  for kind in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64):
    safetensors.numpy.save_file({'a': np.array([0.5, -2], kind), 'b': np.zeros(1, np.int64)}, path)
    found = parameter_files.read_arrays(path, ['a', 'c'])
    assert found.keys() == {'a'} and found['a'].dtype == np.float32 and found['a'].tolist() == [0.5, -2]
    with pytest.raises(UserError, match=r'x\.safetensors holds arrays of other types than .*: b \(int'):
      parameter_files.read_arrays(path)


@pytest.mark.parametrize(
  'read',
  [
    parameter_files.read_metadata,
    parameter_files.read_arrays,
    lambda path: load_efficientnet(path),
    lambda path: load_sentence_encoder(path.parent),
    lambda path: read_file(path, ours=False),
    lambda path: parameter_files.read_parameters(path, {}),
  ],
)
def test_pointers_instead_of_weights_are_named(tmp_path, read):
  write_model(tmp_path / 'model')
  path = tmp_path / 'model' / 'model.safetensors'
  path.write_bytes(POINTER)
  with pytest.raises(UserError, match=r'model\.safetensors is not a whole safetensors file: it is a Git LFS pointer'):
    read(path)


def test_sentence_encoders_that_are_another_computation_are_refused(tmp_path):
  folder = tmp_path / 'model'
  write_model(folder)
  plain = json.loads((folder / 'config.json').read_text())
  for field, odd in (('is_decoder', True), ('hidden_size', 8.0), ('num_attention_heads', 3), ('layer_norm_eps', 0)):
    (folder / 'config.json').write_text(json.dumps(plain | {field: odd}))
    with pytest.raises(UserError, match=rf'config\.json: {field} is {json.dumps(odd)}'):
      load_sentence_encoder(folder)
  (folder / 'config.json').write_text(json.dumps(plain))
  (folder / '1_Pooling').mkdir()
  for modes in ({'pooling_mode_mean_tokens': False}, {'pooling_mode_cls_token': True}, {'pooling_mode': 'cls'}):
    (folder / '1_Pooling' / 'config.json').write_text(json.dumps(modes))
    with pytest.raises(UserError, match=rf'1_Pooling/config\.json: {next(iter(modes))} is'):
      load_sentence_encoder(folder)
  (folder / '1_Pooling' / 'config.json').write_text(json.dumps({'pooling_mode_mean_tokens': True, 'word': 8}))
  load_sentence_encoder(folder)
  (folder / 'tokenizer.json').write_bytes(POINTER)
  with pytest.raises(UserError, match=r'tokenizer\.json is no file of the tokenizers library: it is a Git LFS pointer'):
    load_sentence_encoder(folder)
