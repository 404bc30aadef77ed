"""Preparing pictures and sentences for CLIP, against its authors' and against plain formulas."""

import json

import numpy as np
import pytest
import tokenizers
from PIL import Image

from dlkd_jax.models.clip_inputs import Preprocess, Tokenizer, read_preprocess, read_tokenizer
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
  assert read_preprocess(path) == preprocess
  path.write_text('{"size": 224, "crop_size": 224, "resample": 3}')  # The older generation.
  assert read_preprocess(path) == Preprocess()
  path.write_text('{"do_center_crop": false}')
  with pytest.raises(ValueError, match='do_center_crop is off'):
    read_preprocess(path)
  path.write_text('{"size": {"height": 3}}')
  with pytest.raises(ValueError, match='does not describe'):
    read_preprocess(path)


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
