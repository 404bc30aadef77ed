"""The towers of CLIP, against the transformers library's numbers and against loops in numpy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.models.clip import SIZES, TowerConfig
from dlkd_jax.models.clip_files import load_clip, parameter_shapes
from tests.models.clips import apply, inputs, tiny_config, tiny_model
from tests.paths import golden


def norm(x, p):
  x = x - x.mean()
  return x / math.sqrt((x * x).mean() + 1e-5) * p['scale'] + p['bias']


def linear(x, p):
  return x @ p['kernel'] + p['bias']


def plain_attention(rows, p, heads, causal):
  """One query and one head at a time."""
  size, mixed = len(rows[0]) // heads, []
  query, key, value = ([linear(x, p[name]) for x in rows] for name in ('query', 'key', 'value'))
  for t in range(len(rows)):
    parts = []
    for head in range(heads):
      own = slice(head * size, (head + 1) * size)
      seen = range(t + 1 if causal else len(rows))
      weights = np.array([math.exp(query[t][own] @ key[s][own] / math.sqrt(size)) for s in seen])
      parts.append(sum(w * value[s][own] for w, s in zip(weights / weights.sum(), seen, strict=True)))
    mixed.append(linear(np.concatenate(parts), p['output']))
  return mixed


def plain_blocks(rows, params, tower, causal):
  act = {
    'quick_gelu': lambda x: x / (1 + np.exp(-1.702 * x)),
    'gelu': lambda x: np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]),
  }[tower.activation]
  for layer in range(tower.layers):
    p = params[f'block_{layer:02}']
    attended = plain_attention([norm(x, p['attention_norm']) for x in rows], p['attention'], tower.heads, causal)
    rows = [x + y for x, y in zip(rows, attended, strict=True)]
    rows = [x + linear(act(linear(norm(x, p['mlp_norm']), p['expand'])), p['project']) for x in rows]
  return rows


def plain_image(pixels, params, config):
  patch, rows = config.patch, [params['class_token']]
  for top in range(0, config.size, patch):
    for left in range(0, config.size, patch):
      window = pixels[top : top + patch, left : left + patch]
      rows.append(np.einsum('hwc,hwcd->d', window, params['patches']['kernel']))
  rows = [norm(x + y, params['input_norm']) for x, y in zip(rows, params['positions'], strict=True)]
  states = plain_blocks(rows, params, config.tower, causal=False)
  return norm(states[0], params['output_norm']) @ params['projection']['kernel'], np.array(states)


def plain_text(ids, params, config):
  rows = [params['tokens']['embedding'][i] + params['positions'][t] for t, i in enumerate(ids)]
  states = [norm(x, params['output_norm']) for x in plain_blocks(rows, params, config.tower, causal=True)]
  return states[int(np.argmax(ids))] @ params['projection']['kernel'], np.array(states)


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_towers_agree_with_loops(activation):
  model = tiny_model(activation=activation)
  pixels, ids = inputs()
  image, text = apply(model, pixels, ids)
  for n in range(3):
    features, states = plain_image(pixels[n], model.params['image'], model.config.image)
    np.testing.assert_allclose(image.features[n], features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(image.states[n], states, rtol=1e-4, atol=1e-5)
    features, states = plain_text(ids[n], model.params['text'], model.config.text)
    np.testing.assert_allclose(text.features[n], features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(text.states[n], states, rtol=1e-4, atol=1e-5)


def test_towers_agree_with_transformers():
  model, io = load_clip(golden('clip_tiny')), np.load(golden('clip_tiny') / 'io.npz')
  pixels, ids = io['pixel_values'].transpose(0, 2, 3, 1), io['input_ids'].astype(np.int32)
  image, text = apply(model, pixels, ids)
  for found, name in (
    (image.features, 'image_features'),
    (image.states, 'vision_last_hidden_state'),
    (text.features, 'text_features'),
    (text.states, 'text_last_hidden_state'),
  ):
    np.testing.assert_allclose(found, io[name], rtol=1e-5, atol=1e-5, err_msg=name)
  np.testing.assert_allclose(model.params['logit_scale'], io['logit_scale'])


def test_an_end_token_that_is_not_the_largest_id():
  model = tiny_model()
  pixels, ids = inputs()
  end = ids.max()
  ids = np.where(ids == end, 0, ids + 1)  # The end token is now the smallest.
  params = dict(model.params)
  table = np.roll(model.params['text']['tokens']['embedding'], 1, axis=0)
  params['text'] = dict(model.params['text'], tokens={'embedding': table})
  other = apply(dataclasses.replace(model, config=tiny_config(end=0), params=params), pixels, ids)[1]
  same = apply(model, *inputs())[1]
  np.testing.assert_allclose(other.features, same.features, rtol=1e-5, atol=1e-6)


def test_what_follows_the_end_changes_nothing():
  model = tiny_model()
  ids = inputs()[1][2:]
  encode = lambda ids: apply(model, ids, method='encode_text').features  # noqa: E731
  cut = ids[:, : model.tokenizer.lengths(ids)[0]]
  assert cut.shape[1] < ids.shape[1]
  np.testing.assert_allclose(encode(ids), encode(cut), rtol=1e-5, atol=1e-6)


def test_states_of_an_earlier_layer():
  model = tiny_model()
  pixels = inputs()[0]
  found = apply(model, pixels, method='encode_image', layers=1).states
  params = model.params['image']
  one = TowerConfig(12, 1, 3, 20)
  rows = [params['class_token']] + [
    np.einsum('hwc,hwcd->d', pixels[0, t : t + 8, s : s + 8], params['patches']['kernel'])
    for t in (0, 8)
    for s in (0, 8)
  ]
  rows = [norm(x + y, params['input_norm']) for x, y in zip(rows, params['positions'], strict=True)]
  np.testing.assert_allclose(found[0], plain_blocks(rows, params, one, causal=False), rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match='layer 3 was asked for'):
    model.module().apply({'params': model.params}, pixels, 3, method='encode_image')


def test_bfloat16_products_stay_near():
  model = tiny_model()
  exact, near = apply(model, *inputs()), apply(model, *inputs(), dtype=jnp.bfloat16)
  for a, b in zip(exact, near, strict=True):
    assert b.features.dtype == jnp.float32
    cosine = jnp.sum(a.features * b.features, -1) / jnp.linalg.norm(a.features, axis=-1) / jnp.linalg.norm(b.features)
    assert jnp.all(jnp.linalg.norm(a.features - b.features, axis=-1) < 0.05 * jnp.linalg.norm(a.features, axis=-1)), (
      cosine
    )


# Millions of parameters as their authors publish them.
@pytest.mark.parametrize(
  ('name', 'millions'),
  [
    ('ViT-B/32', 151),
    ('ViT-B/16', 150),
    ('ViT-L/14', 428),
    ('ViT-L/14@336', 428),
    ('ViT-H/14', 986),
    ('ViT-g/14', 1367),
  ],
)
def test_sizes_are_those_of_the_families(name, millions):
  total = sum(math.prod(shape) for shape in parameter_shapes(SIZES[name]).values())
  assert round(total / 1e6) == millions


def test_wrong_inputs_are_refused():
  model = tiny_model()
  with pytest.raises(ValueError, match=r'expected images \[N, 16, 16, 3\]'):
    model.module().apply({'params': model.params}, np.zeros((1, 8, 8, 3)), method='encode_image')
  with pytest.raises(ValueError, match='texts of 7 tokens'):
    model.module().apply({'params': model.params}, np.zeros((1, 7), np.int32), method='encode_text')
  with pytest.raises(ValueError, match='unknown activation'):
    TowerConfig(8, 1, 2, 8, 'relu')
  with pytest.raises(ValueError, match='heads divide'):
    TowerConfig(8, 1, 3, 8)


def test_gradients_reach_every_parameter():
  model = tiny_model()

  def loss(params):
    image, text = model.module().apply({'params': params}, *inputs())
    return jnp.sum(image.features @ text.features.T) * jnp.exp(params['logit_scale'])

  gradients = jax.jit(jax.grad(loss))(model.params)
  assert all(np.any(np.asarray(x)) for x in jax.tree.leaves(gradients))
