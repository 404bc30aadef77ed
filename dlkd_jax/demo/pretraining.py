"""Pretrains a small CLIP on rendered scenes: the general model of the demonstration, and its teacher.

It sees single pictures, so it learns shapes, colours, sizes and places, and cannot see how things move. Scenes are
drawn as they are needed, none twice; the scenes of a step follow from its number, so a training that was stopped goes
on as if it had not been.

Beside CLIP's loss, a layer on the picture's features names the words of its sentence, and is thrown away at the end.
Where towers of pictures and of sentences both begin at random, each has to wait for the other to say anything of what
is hard to see; the words do not.
"""

from __future__ import annotations

import concurrent.futures
import functools
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy
from tokenizers import models, normalizers, pre_tokenizers, processors

from dlkd_jax.demo import render, words, world
from dlkd_jax.demo.settings import DemoSettings
from dlkd_jax.models import clip, clip_files, clip_inputs
from dlkd_jax.models.parameter_files import save_arrays
from dlkd_jax.progress import Progress

_CONTEXT = 20  # Tokens of a sentence at most, start and end among them.
_STATE = 'state.safetensors'
# Weight of CLIP's loss beside that of the words. Whole, its gradients are so noisy that shapes are not learned at all.
_CONTRASTIVE = 0.1
_SPECIAL = ('<unknown>', '<start>', '<end>')


def _numbers() -> dict[str, int]:
  """Returns word → id; the end has the highest, as in CLIP's own vocabulary."""
  return {word: number for number, word in enumerate((*_SPECIAL[:2], *words.vocabulary(), _SPECIAL[2]))}


def make_tokenizer() -> clip_inputs.Tokenizer:
  """Returns a tokenizer of whole words: those of the rendered world."""
  numbers = _numbers()
  tokenizer = tokenizers.Tokenizer(models.WordLevel(numbers, unk_token=_SPECIAL[0]))
  tokenizer.normalizer = normalizers.Lowercase()
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.post_processor = processors.TemplateProcessing(
    single='<start> $A <end>', special_tokens=[(word, numbers[word]) for word in _SPECIAL[1:]]
  )
  return clip_inputs.Tokenizer(tokenizer, _CONTEXT)


def make_config(settings: DemoSettings, end: int) -> clip.ClipConfig:
  """Returns the sizes of the small CLIP; `end` is the id of the end token."""
  width = settings.width

  def tower(layers: int) -> clip.TowerConfig:
    return clip.TowerConfig(width, layers, heads=4, hidden=4 * width)

  text = clip.TextConfig(tower(2), vocabulary=len(words.vocabulary()) + len(_SPECIAL), context=_CONTEXT, end=end)
  return clip.ClipConfig(clip.ImageConfig(tower(3), settings.clip_side, settings.clip_side // 4), text, features=width)


def scenes(settings: DemoSettings, step: int) -> tuple[np.ndarray, list[str]]:
  """Returns the pictures, uint8 [N, S, S, 3], and the sentences of a step."""
  drawn = [world.scene(settings.seed, step * settings.batch + place) for place in range(settings.batch)]
  pictures = [render.picture(segment, time, settings.clip_side, light) for segment, time, light, _ in drawn]
  return np.stack(pictures), [text for *_, text in drawn]


def contrastive_loss(images: jax.Array, texts: jax.Array, scale: jax.Array) -> jax.Array:
  """Returns CLIP's loss: the mean cross entropy of pairs among all pictures and among all sentences.

  Args:
    images: features of pictures, [N, D].
    texts: features of their sentences, [N, D].
    scale: log of the factor of the cosines.
  """
  images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
  logits = images @ texts.T * jnp.exp(jnp.minimum(scale, np.log(100.0)))
  own = jnp.arange(len(images))
  losses = [optax.softmax_cross_entropy_with_integer_labels(rows, own) for rows in (logits, logits.T)]
  return (losses[0].mean() + losses[1].mean()) / 2


def word_loss(features: jax.Array, head: jax.Array, said: jax.Array) -> jax.Array:
  """Returns the mean cross entropy of the words of each picture's sentence.

  Args:
    features: of pictures, [N, D].
    head: a layer that scores words, [D, V].
    said: weights of the words that each sentence says, [N, V], 0 for all others; not all 0.
  """
  share = said / said.sum(axis=1, keepdims=True)
  return optax.softmax_cross_entropy(features @ head, share).mean()


def pretrain(settings: DemoSettings, folder: pathlib.Path) -> None:
  """Trains the small CLIP and writes it as a Hugging Face directory `folder`; nothing is done where that exists.

  Raises:
    OSError: it cannot be written.
  """
  if folder.exists():
    return
  state_file = folder.with_name(folder.name + '.partial') / _STATE
  tokenizer, preprocess = make_tokenizer(), clip_inputs.Preprocess(settings.clip_side)
  config = make_config(settings, tokenizer.end)
  module = clip.Clip(config)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, settings.learning_rate, max(1, settings.steps // 15), settings.steps
  )
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))

  @jax.jit
  def begin():
    pixels = jnp.zeros((1, settings.clip_side, settings.clip_side, 3))
    key = jax.random.key(settings.seed, impl='threefry2x32')
    params = module.init(key, pixels, jnp.zeros((1, _CONTEXT), jnp.int32))['params']
    params = {'clip': params, 'head': jnp.zeros((config.features, config.text.vocabulary))}
    return params, optimizer.init(params)

  step, state = _restore(state_file, begin())
  train_step = _train_step(module, optimizer, _telling())
  label = 'start'
  with (
    concurrent.futures.ThreadPoolExecutor(1) as ahead,
    Progress(settings.steps - step, 'steps', every=15.0) as bar,
  ):
    prepare = functools.partial(_prepare, settings, tokenizer, preprocess)
    upcoming = ahead.submit(prepare, step)
    while step < settings.steps:
      batch = upcoming.result()
      upcoming = ahead.submit(prepare, step + 1)
      state, loss = train_step(state, *batch)
      step += 1
      if step % 10 == 0 or step == settings.steps:
        label = f'loss {float(loss):.2f}'
      bar.step(label)
      if step % settings.save_every == 0 and step < settings.steps:
        _save(state_file, step, state)
  params = jax.tree.map(np.asarray, state[0]['clip'])
  clip_files.save_clip(clip_files.ClipModel(config, params, preprocess, tokenizer), folder)
  shutil.rmtree(state_file.parent, ignore_errors=True)


def _prepare(settings: DemoSettings, tokenizer, preprocess, step: int) -> tuple[np.ndarray, np.ndarray]:
  pictures, texts = scenes(settings, step)
  return preprocess.normalize(pictures), tokenizer(texts)


def _telling() -> np.ndarray:
  """Returns how much each id tells of a picture, [V]: shapes most, for they are the hardest to see; motions nothing."""
  numbers = _numbers()
  telling = np.zeros(len(numbers), np.float32)
  for factor, weight in (('shape', 3.0), ('colour', 1.0), ('size', 1.0), ('background', 1.0)):
    said = ' '.join(phrase for concept in words.FACTORS[factor] for phrase in concept)
    telling[[numbers[word] for word in said.split()]] = weight
  return telling


def _train_step(module: clip.Clip, optimizer: optax.GradientTransformation, telling: np.ndarray):
  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, pixels, ids):
    params, memory = state

    def loss_of(params):
      images, texts = module.apply({'params': params['clip']}, pixels, ids)
      loss = contrastive_loss(images.features, texts.features, params['clip']['logit_scale'])
      said = jax.nn.one_hot(ids, len(telling)).max(axis=1) * telling[None]
      return _CONTRASTIVE * loss + word_loss(images.features, params['head'], said), loss

    (_, loss), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, memory = optimizer.update(gradients, memory, params)
    return (optax.apply_updates(params, updates), memory), loss

  return step


def _save(path: pathlib.Path, step: int, state: Any) -> None:
  """Writes parameters, the optimiser's memory and the step; whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {f'{number:04d}': np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state))}
  save_arrays(arrays, path, {'step': str(step)})


def _restore(path: pathlib.Path, state: Any) -> tuple[int, Any]:
  """Returns step and state as saved, or the given state and 0 where there is none that fits."""
  if not path.exists():
    return 0, state
  leaves, tree = jax.tree.flatten(state)
  try:
    saved = safetensors_numpy.load_file(path)
  except SafetensorError:
    return 0, state
  found = [saved.get(f'{number:04d}') for number in range(len(leaves))]
  if len(saved) != len(leaves) or any(x is None or x.shape != y.shape for x, y in zip(found, leaves, strict=True)):
    return 0, state
  counts = [int(x) for x in found if x.ndim == 0 and x.dtype.kind == 'i']
  return max(counts), jax.tree.unflatten(tree, [jnp.asarray(x) for x in found])
