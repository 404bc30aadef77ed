"""CLIP models in files: both formats, and what is wrong with them."""

import json

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from dlkd_jax.models.clip_files import load_clip, save_clip
from dlkd_jax.models.clip_names import open_clip_names, to_file
from tests.models.clips import apply, inputs, tiny_model


@pytest.fixture
def folder(tmp_path):
  save_clip(tiny_model(), tmp_path / 'clip')
  return tmp_path / 'clip'


def assert_same(model, other):
  assert other.config == model.config
  ours, theirs = flatten_dict(model.params), flatten_dict(other.params)
  assert ours.keys() == theirs.keys()
  for name, x in ours.items():
    np.testing.assert_array_equal(theirs[name], x)


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
@pytest.mark.parametrize('end', [None, 10])
def test_a_model_is_read_as_written(tmp_path, activation, end):
  model = tiny_model(activation=activation, end=end)
  save_clip(model, tmp_path / 'clip')
  read = load_clip(tmp_path / 'clip')
  assert_same(model, read)
  assert read.preprocess == model.preprocess
  texts = ['a red circle', 'blue unknown square moves left right']
  np.testing.assert_array_equal(read.tokenizer(texts), model.tokenizer(texts))
  assert sorted(x.name for x in tmp_path.iterdir()) == ['clip']  # Nothing temporary is left.


def test_inputs_may_be_undescribed(folder):
  (folder / 'tokenizer.json').unlink()
  (folder / 'preprocessor_config.json').unlink()
  (folder / 'open_clip_config.json').write_text('{}')  # Without its weights: that of Hugging Face is meant.
  read = load_clip(folder)
  assert read.tokenizer is None and read.preprocess is None


def write_open_clip(model, folder):
  folder.mkdir()
  flat = flatten_dict(model.params, sep='/')
  safetensors.numpy.save_file(to_file(flat, open_clip_names(model.config)), folder / 'open_clip_model.safetensors')
  image, text = model.config.image, model.config.text
  content = {
    'model_cfg': {
      'embed_dim': model.config.features,
      'quick_gelu': True,
      'vision_cfg': {
        'image_size': image.size,
        'patch_size': image.patch,
        'width': image.tower.width,
        'layers': image.tower.layers,
        'head_width': image.tower.width // image.tower.heads,
        'mlp_ratio': image.tower.hidden / image.tower.width,
      },
      'text_cfg': {
        'context_length': text.context,
        'vocab_size': text.vocabulary,
        'width': text.tower.width,
        'heads': text.tower.heads,
        'layers': text.tower.layers,
        'mlp_ratio': text.tower.hidden / text.tower.width,
      },
    },
    'preprocess_cfg': {'mean': [0.1, 0.2, 0.3], 'std': [0.5, 0.5, 0.5], 'interpolation': 'bicubic'},
  }
  (folder / 'open_clip_config.json').write_text(json.dumps(content))


def test_a_model_of_open_clip(tmp_path):
  model = tiny_model()
  write_open_clip(model, tmp_path / 'open')
  for path in (tmp_path / 'open', tmp_path / 'open/open_clip_model.safetensors'):
    read = load_clip(path)
    assert_same(model, read)
    assert read.preprocess.mean == (0.1, 0.2, 0.3) and read.preprocess.size == 16
  ours, theirs = (apply(m, *inputs()) for m in (model, read))
  np.testing.assert_array_equal(ours[0].features, theirs[0].features)


def test_another_kind_of_open_clip_is_refused(tmp_path):
  write_open_clip(tiny_model(), tmp_path / 'open')
  path = tmp_path / 'open/open_clip_config.json'
  content = json.loads(path.read_text())
  content['model_cfg']['vision_cfg']['pool_type'] = 'avg'
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='pool_type'):
    load_clip(tmp_path / 'open')


def test_query_key_and_value_of_open_clip_lie_in_this_order(tmp_path):
  model = tiny_model()
  write_open_clip(model, tmp_path / 'open')
  arrays = safetensors.numpy.load_file(tmp_path / 'open/open_clip_model.safetensors')
  fused = arrays['visual.transformer.resblocks.1.attn.in_proj_weight']
  attention = model.params['image']['block_01']['attention']
  expected = [attention[name]['kernel'].T for name in ('query', 'key', 'value')]
  np.testing.assert_array_equal(fused, np.concatenate(expected))


def test_weights_in_parts(folder):
  arrays = safetensors.numpy.load_file(folder / 'model.safetensors')
  names = sorted(arrays)
  parts = {'model-1.safetensors': names[:30], 'model-2.safetensors': names[30:]}
  for part, held in parts.items():
    safetensors.numpy.save_file({name: arrays[name] for name in held}, folder / part)
  index = {'weight_map': {name: part for part, held in parts.items() for name in held}}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  (folder / 'model.safetensors').unlink()
  assert_same(tiny_model(), load_clip(folder))
  (folder / 'model-2.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match=r'model-2\.safetensors'):
    load_clip(folder)


def edit(folder, change):
  path = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(path)
  change(arrays)
  safetensors.numpy.save_file(arrays, path)


def test_missing_and_misshapen_arrays_are_listed(folder):
  def change(arrays):
    del arrays['text_projection.weight']
    arrays['vision_model.embeddings.class_embedding'] = np.zeros(13, np.float32)
    arrays['text_model.embeddings.position_ids'] = np.zeros((1, 6), np.int64)  # A buffer: of no meaning.

  edit(folder, change)
  with pytest.raises(ValueError, match=r'\(2 arrays\)') as caught:
    load_clip(folder)
  assert 'text_projection.weight: missing' in str(caught.value)
  assert 'class_embedding: found (13,), expected (12,)' in str(caught.value)


def test_half_precision_weights_become_float32(folder):
  edit(folder, lambda arrays: arrays.update({name: x.astype(np.float16) for name, x in arrays.items()}))
  leaves = flatten_dict(load_clip(folder).params).values()
  assert all(x.dtype == np.float32 for x in leaves)


def test_damaged_files_are_named(folder):
  whole = (folder / 'model.safetensors').read_bytes()
  (folder / 'model.safetensors').write_bytes(whole[:1000])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    load_clip(folder)
  (folder / 'model.safetensors').write_bytes(whole)
  preprocess = json.loads((folder / 'preprocessor_config.json').read_text())
  (folder / 'preprocessor_config.json').write_text(json.dumps(preprocess | {'crop_size': {'height': 8, 'width': 8}}))
  with pytest.raises(ValueError, match='makes pictures of 8 pixels'):
    load_clip(folder)
  (folder / 'config.json').write_text('{"model_type": "blip"}')
  with pytest.raises(ValueError, match="'blip'; models of pictures and sentences that are read: CLIP and SigLIP"):
    load_clip(folder)
  (folder / 'config.json').write_text('{')
  with pytest.raises(ValueError, match=r'config\.json is no JSON'):
    load_clip(folder)
  (folder / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'neither config\.json'):
    load_clip(folder)
  with pytest.raises(FileNotFoundError, match='there is no CLIP model'):
    load_clip(folder / 'nowhere')


def test_an_existing_folder_is_not_overwritten(folder):
  with pytest.raises(FileExistsError, match='exists'):
    save_clip(tiny_model(), folder)


def test_an_end_token_that_would_be_read_as_another_is_refused(tmp_path):
  with pytest.raises(ValueError, match='end token has id 2'):
    save_clip(tiny_model(end=2), tmp_path / 'clip')
  assert not (tmp_path / 'clip').exists()
