"""Pretraining: the loss against a plain one, learning, and going on where it was stopped."""

import dataclasses

import jax
import numpy as np
import pytest

from dlkd_jax.demo import pretraining, words, world
from dlkd_jax.demo.settings import SIZES
from dlkd_jax.models import clip_files

TINY = SIZES['tiny']


def test_the_loss_is_that_of_plain_loops():
  rng = np.random.default_rng(0)
  images, texts, scale = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), 1.3
  cosines = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in texts] for a in images]
  logits = np.exp(scale) * np.array(cosines)
  total = 0.0
  for table in (logits, logits.T):
    for n in range(5):
      total += np.log(np.exp(table[n]).sum()) - table[n, n]
  found = pretraining.contrastive_loss(images.astype(np.float32), texts.astype(np.float32), np.float32(scale))
  assert found == pytest.approx(total / 10, rel=1e-5)


def test_the_loss_of_words_is_that_of_plain_loops():
  rng = np.random.default_rng(1)
  features, head = rng.normal(size=(4, 3)), rng.normal(size=(3, 6))
  said = np.array([[3, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 3, 0, 1, 1, 0], [0, 0, 0, 0, 3, 1]], np.float32)
  total = 0.0
  for row, weights in zip(features @ head, said, strict=True):
    shares = np.exp(row) / np.exp(row).sum()
    total -= sum(weight / weights.sum() * np.log(share) for weight, share in zip(weights, shares, strict=True))
  found = pretraining.word_loss(features.astype(np.float32), head.astype(np.float32), said)
  assert found == pytest.approx(total / 4, rel=1e-5)


def test_every_sentence_says_something_that_a_picture_shows():
  tokenizer, telling = pretraining.make_tokenizer(), pretraining._telling()
  ids = tokenizer([world.scene(0, number)[3] for number in range(100)])
  assert (telling[ids].max(axis=1) == 3).all()  # Its shape.
  silent = tokenizer(['it is there and it orbits'])[0]
  assert not telling[silent].any()


def test_the_tokenizer_knows_every_word():
  tokenizer = pretraining.make_tokenizer()
  texts = [world.scene(0, number)[3] for number in range(100)] + ['zebra']
  ids = tokenizer(texts)
  assert ids.shape[1] >= tokenizer.lengths(ids).max() == max(len(text.split()) for text in texts) + 2
  assert not (ids[:-1] == 0).any() and ids[-1, 1] == 0
  assert len(set(tokenizer(words.vocabulary())[:, 1])) == len(words.vocabulary())


def test_the_scenes_of_a_step_are_those_of_its_number():
  pictures, texts = pretraining.scenes(TINY, 3)
  again, same = pretraining.scenes(TINY, 3)
  assert np.array_equal(pictures, again) and texts == same
  assert pretraining.scenes(TINY, 4)[1] != texts


@pytest.mark.slow
def test_a_stopped_pretraining_ends_alike(tmp_path, monkeypatch):
  pretraining.pretrain(TINY, tmp_path / 'whole')
  whole = clip_files.load_clip(tmp_path / 'whole')

  prepare = pretraining._prepare

  def stop(settings, tokenizer, preprocess, step):
    if step == 3:
      raise KeyboardInterrupt
    return prepare(settings, tokenizer, preprocess, step)

  monkeypatch.setattr(pretraining, '_prepare', stop)
  with pytest.raises(KeyboardInterrupt):
    pretraining.pretrain(TINY, tmp_path / 'stopped')
  assert not (tmp_path / 'stopped').exists()
  asked = []
  monkeypatch.setattr(pretraining, '_prepare', lambda *a: asked.append(a[-1]) or prepare(*a))
  pretraining.pretrain(TINY, tmp_path / 'stopped')
  assert asked[0] == 2
  assert sorted(path.name for path in tmp_path.iterdir()) == ['stopped', 'whole'], 'what was kept to go on is gone'
  stopped = clip_files.load_clip(tmp_path / 'stopped')
  assert stopped.config == pretraining.make_config(TINY, pretraining.make_tokenizer().end)
  assert jax.tree.all(jax.tree.map(np.array_equal, whole.params, stopped.params))
  assert stopped.preprocess == whole.preprocess and stopped.config == whole.config
  assert np.array_equal(stopped.tokenizer(['a red ball rises']), whole.tokenizer(['a red ball rises']))


def test_another_models_state_is_not_taken(tmp_path):
  state = {'a': np.zeros(3, np.float32), 'n': np.int32(5)}
  pretraining._save(tmp_path / 'state.safetensors', 5, state)
  assert pretraining._restore(tmp_path / 'state.safetensors', state)[0] == 5
  other = {'a': np.zeros(4, np.float32), 'n': np.int32(0)}
  assert pretraining._restore(tmp_path / 'state.safetensors', other) == (0, other)


@pytest.mark.slow
def test_it_learns(tmp_path):
  settings = dataclasses.replace(TINY, steps=150, batch=32, width=32, save_every=1000)
  pretraining.pretrain(settings, tmp_path / 'clip')
  model = clip_files.load_clip(tmp_path / 'clip')
  pictures, texts = pretraining.scenes(settings, 10**6)
  module = model.module()
  images, sentences = module.apply(
    {'params': model.params}, model.preprocess.normalize(pictures), model.tokenizer(texts)
  )
  loss = pretraining.contrastive_loss(images.features, sentences.features, model.params['logit_scale'])
  assert loss < np.log(32) - 0.3
