"""Dropout: rate, expectation, and where masks are drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.models.layers import Dropout, keep_mask
from dlkd_jax.models.student import Student, init_parameters


@pytest.mark.parametrize('rate', [0.0, 0.15, 0.2, 0.25, 0.9])
@pytest.mark.parametrize('last', [128, 127, 1])
def test_share_of_kept_elements(rate, last):
  shape = (200_000 // last, last)
  keep, scale = keep_mask(jax.random.key(3), shape, rate)
  keep = np.asarray(keep)
  assert keep.shape == shape and keep.dtype == bool
  deviation = 5 * np.sqrt(max(rate * (1 - rate), 1e-9) / keep.size)
  assert abs(keep.mean() - (1 - rate)) <= deviation + 1e-5
  np.testing.assert_allclose(scale * (1 - rate), 1.0, rtol=2e-4)
  # Each place along the last axis has the rate on its own.
  assert np.abs(keep.mean(axis=0) - (1 - rate)).max() <= 6 * np.sqrt(max(rate * (1 - rate), 1e-9) / shape[0]) + 1e-5


def test_the_two_halves_of_a_word_are_independent():
  keep = np.asarray(keep_mask(jax.random.key(0), (4000, 10), 0.5)[0]).astype(float)
  correlation = np.corrcoef(keep.T) - np.eye(10)
  assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_module_scales_what_it_keeps():
  x = jnp.full((400, 101), 3.0)
  y = np.asarray(Dropout(0.2).apply({}, x, False, rngs={'dropout': jax.random.key(1)}))
  assert set(np.unique(y)) == {0.0, y.max()}
  np.testing.assert_allclose(y.max(), 3.0 / 0.8, rtol=1e-4)
  np.testing.assert_allclose(y.mean(), 3.0, rtol=0.02)
  np.testing.assert_array_equal(Dropout(0.2).apply({}, x, True), x)
  np.testing.assert_array_equal(Dropout(0.0).apply({}, x, False), x)


@functools.cache
def world():
  student = Student(hidden=8, heads=2, max_frames=5, max_words=5, input_dropout=0.5, dropout=0.5)
  params = dict(jax.jit(lambda: init_parameters(student, jax.random.key(0), 6, 6))())
  params['exploration'] = params['inheritance']  # Any difference is that of the masks.
  x, mask = jax.random.normal(jax.random.key(1), (2, 5, 6)), jnp.ones((2, 5), bool)

  @functools.partial(jax.jit, static_argnums=0)
  def encode(deterministic, key):
    rngs = {'dropout': key}
    return student.apply({'params': params}, x, mask, deterministic, rngs=rngs, method='encode_tokens')

  return encode


def test_branches_draw_their_own_masks():
  encoded = world()(False, jax.random.key(0))
  assert np.abs(encoded['inheritance'] - encoded['exploration']).min() > 1e-6


def test_key_decides_and_deterministic_needs_none():
  encode = world()
  first, again, other = (encode(False, jax.random.key(k))['inheritance'] for k in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  plain = [encode(True, jax.random.key(k)) for k in (0, 1)]
  np.testing.assert_array_equal(plain[0]['inheritance'], plain[1]['inheritance'])
  np.testing.assert_array_equal(plain[0]['inheritance'], plain[0]['exploration'])
