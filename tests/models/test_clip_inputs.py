"""Preparing pictures and sentences for CLIP, against its authors' and against plain formulas."""

import json

import numpy as np
import pytest
import tokenizers
from PIL import Image

from dlkd_jax.errors import UserError
from dlkd_jax.models.clip_inputs import Preprocess, Tokenizer, find_tokenizer, parse_preprocess, read_tokenizer
from dlkd_jax.models.fields import read_fields
from tests.models.clips import word_tokenizer
from tests.paths import golden


def test_preprocessing_agrees_with_transformers():
  data = np.load(golden('clip_preprocess.npz'))
  found = Preprocess()(data['image']).transpose(2, 0, 1)
  # Both resize with Pillow, so that only the rounding of the last step differs.
  np.testing.assert_allclose(found, data['pixel_values'], atol=1e-6)


def test_token_ids_agree_with_openai():
  samples = json.loads(golden('clip_tokenizer').joinpath('samples.json').read_text(encoding='utf-8'))
  tokenizer = read_tokenizer(golden('clip_tokenizer') / 'tokenizer.json')
  ids = tokenizer([sample['text'] for sample in samples])
  assert ids.shape == (len(samples), 77) and ids.dtype == np.int32
  for row, length, sample in zip(ids, tokenizer.lengths(ids), samples, strict=True):
    assert row[:length].tolist() == sample['ids']


def split_tokenizer(folder):
  """Writes the golden tokenizer as vocab.json and merges.txt."""
  content = json.loads((golden('clip_tokenizer') / 'tokenizer.json').read_text(encoding='utf-8'))
  merges = [' '.join(pair) if isinstance(pair, list) else pair for pair in content['model']['merges']]
  (folder / 'vocab.json').write_text(json.dumps(content['model']['vocab']), encoding='utf-8')
  (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]), encoding='utf-8')


def test_token_ids_of_vocabulary_and_merges_agree_with_openai(tmp_path):
  split_tokenizer(tmp_path)
  samples = json.loads(golden('clip_tokenizer').joinpath('samples.json').read_text(encoding='utf-8'))
  tokenizer = find_tokenizer(tmp_path, 77, 49407, 49408)
  ids = tokenizer([sample['text'] for sample in samples])
  for row, length, sample in zip(ids, tokenizer.lengths(ids), samples, strict=True):
    assert row[:length].tolist() == sample['ids']
  (tmp_path / 'merges.txt').unlink()
  assert find_tokenizer(tmp_path, 77, 49407, 49408) is None


def test_tokenizers_that_do_not_fit_the_model_are_refused(tmp_path):
  split_tokenizer(tmp_path)
  with pytest.raises(
    UserError, match=r'vocab\.json: the tokenizer ends sentences with token 49407, .*eos_token_id.* 5'
  ):
    find_tokenizer(tmp_path, 77, 5, 49408)
  with pytest.raises(UserError, match=r'gives token 49407, and the text tower has 100'):
    find_tokenizer(tmp_path, 77, None, 100)(['a'])
  (tmp_path / 'merges.txt').write_text('a b c\n')
  with pytest.raises(UserError, match=r'merges\.txt: expected two parts a line'):
    find_tokenizer(tmp_path, 77, None, 49408)
  (tmp_path / 'merges.txt').write_text('nowhere there\n')
  with pytest.raises(UserError, match=r'vocab\.json and merges\.txt do not belong together'):
    find_tokenizer(tmp_path, 77, None, 49408)
  (tmp_path / 'vocab.json').write_text('{"a": 0}')
  with pytest.raises(UserError, match=r'vocab\.json: <\|startoftext\|> is missing'):
    find_tokenizer(tmp_path, 77, None, 49408)


def test_settings_of_a_tokenizer(tmp_path):
  tokenizer = word_tokenizer(['a', 'b'])
  tokenizer.enable_truncation(3)
  tokenizer.enable_padding(length=9)
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  # The model's length counts, as where the libraries prepare a batch.
  assert find_tokenizer(tmp_path, 6, None, 9)(['a b a'])[0].tolist() == [1, 2, 3, 2, 4, 4]
  for field, odd in (('padding_side', 'left'), ('truncation_side', 'left'), ('add_eos_token', False)):
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({field: odd}))
    with pytest.raises(UserError, match=rf'tokenizer_config\.json: {field} is'):
      find_tokenizer(tmp_path, 6, None, 9)
  (tmp_path / 'tokenizer_config.json').unlink()
  tokenizer.enable_padding(direction='left')
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(UserError, match=r'tokenizer\.json: padding\.direction is "Left"'):
    find_tokenizer(tmp_path, 6, None, 9)


def test_what_is_read_of_a_sentence():
  tokenizer = Tokenizer(word_tokenizer(['a', 'b']), context=4)
  assert tokenizer.reads('a b') == (2, 2, 2)
  assert tokenizer.reads('a c b a b') == (5, 2, 1)  # c is not known.
  assert tokenizer.reads('') == (0, 0, 0) and tokenizer.reads('c') == (1, 1, 0)
  ids = tokenizer(['a c b a b'])
  assert tokenizer.lengths(ids)[0] - 2 == 2


@pytest.mark.parametrize(('height', 'width'), [(90, 160), (160, 90), (64, 64), (20, 300)])
def test_the_middle_square_is_cut_out(height, width):
  image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  short = min(height, width)
  scaled = (int(32 * width / short), int(32 * height / short))
  resized = np.asarray(Image.fromarray(image).resize(scaled, Image.BICUBIC))
  top, left = (resized.shape[0] - 32) // 2, (resized.shape[1] - 32) // 2
  preprocess = Preprocess(32)
  np.testing.assert_array_equal(preprocess.crop(image), resized[top : top + 32, left : left + 32])
  expected = (preprocess.crop(image)[3, 5, 1] / 255 - preprocess.mean[1]) / preprocess.std[1]
  assert preprocess(image)[3, 5, 1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(image):
  with pytest.raises(ValueError, match='expected a picture'):
    Preprocess(32)(image)


def test_preprocessing_is_read_as_written(tmp_path):
  path = tmp_path / 'preprocessor_config.json'
  preprocess = Preprocess(48, 56, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 'bilinear')
  path.write_text(json.dumps(preprocess.as_json()))
  assert parse_preprocess(read_fields(path)) == preprocess
  squash = Preprocess(48, (50, 60), scale=1.0, resampling='box')
  path.write_text(json.dumps(squash.as_json()))
  assert parse_preprocess(read_fields(path)) == squash
  path.write_text('{"resample": "BILINEAR"}')
  assert parse_preprocess(read_fields(path)) == Preprocess(resampling='bilinear')
  with pytest.raises(UserError, match='as OpenCLIP does it'):
    Preprocess(rounding='even').as_json()
  path.write_text('{"size": 224, "crop_size": 224, "resample": 3}')  # The older generation.
  assert parse_preprocess(read_fields(path)) == Preprocess()
  path.write_text('{"do_center_crop": false}')
  with pytest.raises(ValueError, match='do_center_crop is off'):
    parse_preprocess(read_fields(path))
  path.write_text('{"size": {"height": 3}}')
  with pytest.raises(ValueError, match='does not describe'):
    parse_preprocess(read_fields(path))


def test_sentences_are_cut_and_keep_their_end():
  tokenizer = Tokenizer(word_tokenizer(['a', 'b', 'c']), context=4)
  ids = tokenizer(['a b', 'a b c a b', ''])
  start, end = ids[0, 0], tokenizer.end
  assert ids.tolist() == [[start, *ids[0, 1:3], end], [start, *ids[0, 1:3], end], [start, end, end, end]]
  assert tokenizer.lengths(ids).tolist() == [4, 4, 2]


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
  bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0, '?': 1}, unk_token='?'))
  with pytest.raises(ValueError, match='no end token'):
    Tokenizer(bare)
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.raises(ValueError, match='no file of the tokenizers library'):
    read_tokenizer(tmp_path / 'tokenizer.json')
