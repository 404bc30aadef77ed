"""CLIP as a backbone: against the model applied to each picture and sentence alone."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from dlkd_jax.files import fingerprint_of_files
from dlkd_jax.models import clip, clip_files
from dlkd_jax.video import backbones
from tests.models import clip_variants, clips, test_siglip
from tests.paths import golden


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('clip') / 'tiny'
  clip_files.save_clip(clips.tiny_model(), path)
  return path


def _pictures():
  random = np.random.default_rng(0)
  return [random.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((20, 30), (16, 16), (64, 24))]


def test_frames_are_in_the_joint_space(folder):
  model, backbone = clips.tiny_model(), backbones.open_frame_backbone(f'clip:{folder}')
  found = backbone(_pictures())
  assert found.shape == (3, backbone.features) == (3, 10) and found.dtype == np.float32
  for picture, row in zip(_pictures(), found, strict=True):
    image = clips.apply(model, model.preprocess(picture)[None], method='encode_image')
    np.testing.assert_allclose(row, image.features[0], atol=1e-5)


@pytest.mark.parametrize('layer, blocks', [(-1, 2), (-2, 1), (1, 1)])
def test_frames_of_a_layer(folder, layer, blocks):
  model, backbone = clips.tiny_model(), backbones.open_frame_backbone(f'clip:{folder}@layer={layer}')
  found = backbone(_pictures())
  assert found.shape == (3, 12)
  for picture, row in zip(_pictures(), found, strict=True):
    states = clips.apply(model, model.preprocess(picture)[None], method='encode_image', layers=blocks).states[0, 0]
    np.testing.assert_allclose(row, states - states.mean(), atol=1e-5)


def test_sentences_and_tokens(folder):
  model, backbone = clips.tiny_model(), backbones.open_text_backbone(f'clip:{folder}')
  texts = ['a red square', 'moves', 'a red blue circle moves left']  # The last one is cut to 6 tokens.
  sentences, tokens = backbone.sentences(texts), backbone.tokens(texts)
  assert sentences.shape == (3, backbone.sentence_features) == (3, 10)
  assert [rows.shape for rows in tokens] == [(4, 8), (2, 8), (5, 8)] and backbone.token_features == 8
  for text, sentence, rows in zip(texts, sentences, tokens, strict=True):
    output = clips.apply(model, model.tokenizer([text]), method='encode_text')
    np.testing.assert_allclose(sentence, output.features[0], atol=1e-5)
    np.testing.assert_allclose(rows, output.states[0, 1 : 1 + len(rows)], atol=1e-5)
  assert backbone.tokens([]) == [] and backbone.sentences([]).shape == (0, 10)


def test_tokens_of_a_layer(folder):
  model, backbone = clips.tiny_model(), backbones.open_text_backbone(f'clip:{folder}@layer=-2')
  config = model.config
  short = dataclasses.replace(config.text, tower=dataclasses.replace(config.text.tower, layers=1))
  output = clip.TextTower(short, config.features).apply({'params': model.params['text']}, model.tokenizer(['a red']))
  np.testing.assert_allclose(backbone.tokens(['a red'])[0], output.states[0, 1:4], atol=1e-5)
  whole = backbones.open_text_backbone(f'clip:{folder}')
  np.testing.assert_allclose(backbone.sentences(['a red']), whole.sentences(['a red']), atol=1e-6)


def test_fingerprints_follow_weights_and_layer(folder, tmp_path):
  clip_files.save_clip(clips.tiny_model(), tmp_path / 'copy')
  clip_files.save_clip(clips.tiny_model(seed=1), tmp_path / 'other')
  paths = (f'clip:{folder}', f'clip:{tmp_path / "copy"}', f'clip:{tmp_path / "other"}', f'clip:{folder}@layer=-2')
  first, copy, other, layer = (backbones.open_frame_backbone(path).fingerprint for path in paths)
  assert first == copy and len({first, other, layer}) == 3


def test_what_is_missing_is_said(folder, tmp_path):
  model = clips.tiny_model()
  clip_files.save_clip(dataclasses.replace(model, preprocess=None, tokenizer=None), tmp_path / 'bare')
  with pytest.raises(ValueError, match=r'add its preprocessor_config\.json'):
    backbones.open_frame_backbone(f'clip:{tmp_path / "bare"}')
  with pytest.raises(ValueError, match=r'add its tokenizer\.json'):
    backbones.open_text_backbone(f'clip:{tmp_path / "bare"}')
  with pytest.raises(FileNotFoundError, match='no CLIP model'):
    backbones.open_frame_backbone(f'clip:{tmp_path / "nowhere"}')
  for layer in (0, 3, -3):
    with pytest.raises(ValueError, match='the tower has 1 to 2'):
      backbones.open_frame_backbone(f'clip:{folder}@layer={layer}')


def test_fingerprints_follow_what_was_read_otherwise_before(folder, tmp_path):
  frames = {}
  texts = {}
  for name in ('hf plain', 'hf processor_config', 'hf do_rescale', 'hf size square', 'open plain', 'open squash'):
    path = clip_variants.write(tmp_path / name, name)
    clips.word_tokenizer(clips.WORDS).save(str(path / 'tokenizer.json'))
    frames[name] = backbones.open_frame_backbone(f'clip:{path}').fingerprint
    texts[name] = backbones.open_text_backbone(f'clip:{path}').fingerprint
    assert backbones.open_text_backbone(f'clip:{path}').of_pictures == frames[name]
  assert len(set(frames.values())) == len(frames)
  for name in ('hf plain', 'open plain'):  # As ever: of the files alone.
    path = tmp_path / name
    files = sorted(file for file in path.iterdir())
    assert frames[name] == texts[name] == f'clip:{fingerprint_of_files(*files)}'
  config_dict = clip_variants.write(tmp_path / 'dict', 'hf config_dict')
  clips.word_tokenizer(clips.WORDS).save(str(config_dict / 'tokenizer.json'))
  files = sorted(file for file in config_dict.iterdir())
  assert backbones.open_text_backbone(f'clip:{config_dict}').fingerprint not in (
    *texts.values(),
    f'clip:{fingerprint_of_files(*files)}',
  )


def test_sentences_say_what_is_read(folder):
  backbone = backbones.open_text_backbone(f'clip:{folder}')
  assert backbone.reads('a red square') == (3, 3, 3)
  assert backbone.reads('a red dog runs over the square') == (7, 4, 2)


def test_a_siglip_is_read_where_a_clip_is(tmp_path):
  folder = shutil.copytree(golden('siglip_tiny'), tmp_path / 'siglip', ignore=shutil.ignore_patterns('io.npz'))
  size = {'size': {'height': 32, 'width': 32}}
  (folder / 'preprocessor_config.json').write_text(json.dumps({'image_processor_type': 'SiglipImageProcessor', **size}))
  test_siglip.write_pieces(folder / 'spiece.model')
  model, pictures = clip_files.load_clip(folder), _pictures()
  pixels = np.stack([model.preprocess(picture) for picture in pictures])
  image = clips.apply(model, pixels, method='encode_image')
  np.testing.assert_allclose(backbones.open_frame_backbone(f'clip:{folder}')(pictures), image.features, atol=1e-5)
  state = clips.apply(model, pixels, method='encode_image', layers=2).states.mean(axis=1)
  found = backbones.open_frame_backbone(f'clip:{folder}@layer=-2')(pictures)
  np.testing.assert_allclose(found, state - state.mean(axis=1, keepdims=True), atol=1e-5)
  text, texts = backbones.open_text_backbone(f'clip:{folder}'), ['a dog', 'it']
  expected = clips.apply(model, model.tokenizer(texts), method='encode_text')
  np.testing.assert_allclose(text.sentences(texts), expected.features, atol=1e-5)
  for rows, states, length in zip(text.tokens(texts), expected.states, (3, 2), strict=True):
    np.testing.assert_allclose(rows, states[:length], atol=1e-5)
