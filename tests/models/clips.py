"""Small CLIP models for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from dlkd_jax.models.clip import Clip, ClipConfig, ImageConfig, TextConfig, TowerConfig
from dlkd_jax.models.clip_files import ClipModel
from dlkd_jax.models.clip_inputs import Preprocess, Tokenizer

WORDS = ['a', 'red', 'blue', 'square', 'circle', 'moves', 'left', 'right']


def word_tokenizer(words):
  """A tokenizer of whole words that puts start and end tokens, as CLIP's does; the end token has the largest id."""
  vocabulary = {word: number for number, word in enumerate(['?', '<start>', *words, '<end>'])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token='?'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='<start> $A <end>',
    special_tokens=[('<start>', vocabulary['<start>']), ('<end>', vocabulary['<end>'])],
  )
  return tokenizer


def tiny_config(activation='quick_gelu', end=None):
  """Two blocks a tower, 16-pixel images in 4 patches."""
  return ClipConfig(
    ImageConfig(TowerConfig(12, 2, 3, 20, activation), 16, 8),
    TextConfig(TowerConfig(8, 2, 2, 16, activation), len(WORDS) + 3, 6, end),
    10,
  )


def tiny_model(seed=0, activation='quick_gelu', end=None):
  """A model whose parameters are all random, none zero or one, so that a mixed-up one shows."""
  return random_model(tiny_config(activation, end), seed)


def random_model(config, seed=0, scale=0.4):
  """A model of any size with random parameters of this standard deviation, which knows the WORDS."""
  size, context = config.image.size, config.text.context
  pixels, ids = np.zeros((1, size, size, 3)), np.zeros((1, context), np.int32)
  shapes = jax.eval_shape(Clip(config).init, jax.random.key(0), pixels, ids)
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda x: rng.normal(0.0, scale, x.shape).astype(np.float32), shapes['params'])
  return ClipModel(config, params, Preprocess(size), Tokenizer(word_tokenizer(WORDS), context))


def inputs(seed=1):
  """Three images and three texts of the tiny model."""
  rng = np.random.default_rng(seed)
  ids = tiny_model().tokenizer(['a red square', 'blue circle moves left right', 'a'])
  return rng.normal(size=(3, 16, 16, 3)).astype(np.float32), ids


@functools.cache
def _program(config, dtype, method, layers):
  module, more = ClipModel(config, None).module(dtype), () if layers is None else (layers,)
  return jax.jit(lambda params, *inputs: module.apply({'params': params}, *inputs, *more, method=method))


def apply(model, *inputs, method=None, dtype=jnp.float32, layers=None):
  """What the module of a model says to inputs: one program for all models of its sizes."""
  return _program(model.config, dtype, method, layers)(model.params, *inputs)
