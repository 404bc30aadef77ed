"""SigLIP against transformers; its files, pictures and sentences."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest
import tokenizers
from PIL import Image

from dlkd_jax.models.clip_files import load_clip
from dlkd_jax.models.fields import Fields
from dlkd_jax.models.siglip_files import parse_siglip_preprocess, read_sentence_pieces
from tests.models.clips import apply
from tests.paths import golden


@pytest.fixture
def folder(tmp_path):
  return shutil.copytree(golden('siglip_tiny'), tmp_path / 'siglip', ignore=shutil.ignore_patterns('io.npz'))


def _change(path, **fields):
  content = json.loads(path.read_text()) if path.is_file() else {}
  path.write_text(json.dumps({**content, **fields}))


def test_towers_agree_with_transformers():
  model, io = load_clip(golden('siglip_tiny')), np.load(golden('siglip_tiny') / 'io.npz')
  image, text = apply(model, io['pixel_values'].transpose(0, 2, 3, 1), io['input_ids'].astype(np.int32))
  unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
  scale, bias = (model.params[name] for name in ('logit_scale', 'logit_bias'))
  for found, name in (
    (image.features, 'image_features'),
    (image.states, 'image_last_hidden'),
    (text.features, 'text_features'),
    (text.states, 'text_last_hidden'),
    (np.exp(scale) * unit(image.features) @ unit(text.features).T + bias, 'logits_per_image'),
  ):
    np.testing.assert_allclose(found, io[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_what_asks_for_another_computation_is_refused(folder):
  config = json.loads((folder / 'config.json').read_text())
  for field, value in (('vision_config', {'vision_use_head': False}), ('text_config', {'projection_size': 32})):
    _change(folder / 'config.json', **{field: config[field] | value})
    with pytest.raises(ValueError, match=f'{field}.{next(iter(value))} is '):
      load_clip(folder)
    _change(folder / 'config.json', **config)
  _change(folder / 'preprocessor_config.json', size={'height': 16, 'width': 16})
  with pytest.raises(ValueError, match=r'makes pictures of 16 pixels, and config.json expects 32'):
    load_clip(folder)
  _change(folder / 'config.json', model_type='siglip2')
  with pytest.raises(ValueError, match=r"is of a model of type 'siglip2'.*CLIP and SigLIP"):
    load_clip(folder)


def test_pictures_are_squashed():
  picture = np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8)
  prepare = parse_siglip_preprocess(Fields({'size': {'height': 32, 'width': 32}, 'resample': 2}, 'file'))
  squashed = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR), np.float32)
  np.testing.assert_allclose(prepare(picture), squashed / 127.5 - 1, atol=1e-6)
  with pytest.raises(ValueError, match=r'size\.width is 30'):
    parse_siglip_preprocess(Fields({'size': {'height': 32, 'width': 30}}, 'file'))


PIECES = ['<pad>', '</s>', '<unk>', '▁', 'a', 'd', 'g', 'o', '▁a', '▁dog', '▁do', 'og', '▁it', 's']


def _message(*fields):
  """Returns a message of Protocol Buffers of (number, value)."""
  parts = []
  for number, value in fields:
    if isinstance(value, float):
      parts.append(bytes([number << 3 | 5]) + struct.pack('<f', value))
    elif isinstance(value, int):
      parts.append(bytes([number << 3, value]))
    else:
      parts.append(bytes([number << 3 | 2, len(value)]) + value)
  return b''.join(parts)


def write_pieces(path, kind=1):
  pieces = [
    _message((1, piece.encode()), (2, len(piece) - 10.0), (3, {'<unk>': 2}.get(piece, 3 if number < 3 else 1)))
    for number, piece in enumerate(PIECES)
  ]
  path.write_bytes(_message(*[(1, piece) for piece in pieces], (2, _message((3, kind))), (3, _message((3, 1)))))


def test_sentences_of_siglip(folder):
  write_pieces(folder / 'spiece.model')
  tokenizer = load_clip(folder).tokenizer
  ids = tokenizer(['  A dog, it\N{RIGHT SINGLE QUOTATION MARK}s!', 'A DOG', '', 'dog ' * 30])
  pieces = [[PIECES[i] for i in row] for row in ids]
  assert ids.shape == (4, 16)
  assert pieces[0] == ['▁a', '▁dog', '▁it', '<unk>', 's'] + ['</s>'] * 11  # Only ASCII's marks are left out.
  assert pieces[1] == ['▁a', '▁dog'] + ['</s>'] * 14 and pieces[2] == ['</s>'] * 16
  assert pieces[3] == ['▁dog'] * 15 + ['</s>']
  assert tokenizer.lengths(ids).tolist() == [6, 3, 1, 16]
  assert tokenizer.reads('a dog!') == (2, 2, 2) and tokenizer.reads('dog ' * 30) == (30, 15, 15)
  # Its tokenizer.json, whatever that does to letters and at the end.
  read_sentence_pieces(folder / 'spiece.model').save(str(folder / 'tokenizer.json'))
  (folder / 'spiece.model').unlink()
  np.testing.assert_array_equal(load_clip(folder).tokenizer(['A dog, it\N{RIGHT SINGLE QUOTATION MARK}s!']), ids[:1])


def test_sentences_of_siglip_2(folder):
  vocabulary = {token: number for number, token in enumerate(['<pad>', '<eos>', '<bos>', '<unk>', *'▁adgo,'])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token='<unk>'))
  tokenizer.normalizer = tokenizers.normalizers.Replace(' ', '▁')
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing('<bos> $A', special_tokens=[('<bos>', 2)])
  tokenizer.save(str(folder / 'tokenizer.json'))
  ids = load_clip(folder).tokenizer(['A dog,'])
  assert ids.tolist() == [[vocabulary[token] for token in 'a▁dog,'] + [1] + [0] * 9]
  _change(folder / 'tokenizer_config.json', padding_side='left')
  with pytest.raises(ValueError, match='padding_side is "left"'):
    load_clip(folder)
  _change(folder / 'tokenizer_config.json', padding_side='right', eos_token={'content': '</end>'})
  with pytest.raises(ValueError, match=r'eos_token is .*no such token'):
    load_clip(folder)


def test_models_of_sentence_piece_of_other_kinds_are_refused(tmp_path):
  write_pieces(tmp_path / 'pairs', kind=2)
  with pytest.raises(ValueError, match=r'of a kind that is not read here; add its tokenizer\.json'):
    read_sentence_pieces(tmp_path / 'pairs')
  for number, content in enumerate((b'', b'<html>', (tmp_path / 'pairs').read_bytes()[:-3])):
    (tmp_path / str(number)).write_bytes(content)
    with pytest.raises(ValueError, match='is no model of SentencePiece'):
      read_sentence_pieces(tmp_path / str(number))
