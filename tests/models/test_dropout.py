"""Dropout: rate, expectation, independence, and masks that belong to the content wherever it lies."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.layout import Layout, padded_layout
from dlkd_jax.models.dropout import Dropout, dropping
from dlkd_jax.models.students import init_parameters
from tests import options as made


class Model(nn.Module):
  """Two dropouts, which tell each other apart by their names."""

  rate: float

  @nn.compact
  def __call__(self, x, deterministic=False):
    return [Dropout(self.rate, name=name)(x, deterministic) for name in ('first', 'second')]


@functools.partial(jax.jit, static_argnums=0)
def apply(rate, x, key=3):
  """What both make of `[R, T, D]`, or of `[R, heads, T, T]` of pairs, where every row is a sequence."""
  layout = padded_layout(np.ones((x.shape[0], x.shape[-2]), bool))
  with dropping(jax.random.key(key), layout):
    return Model(rate).apply({}, x)


def drop(rate, shape, key=3):
  return np.asarray(apply(rate, jnp.ones(shape), key)[0])


@pytest.mark.parametrize('rate', [0.0, 0.15, 0.2, 0.25, 0.9])
@pytest.mark.parametrize('shape', [(20, 40, 128), (20, 80, 63), (100, 400, 1)], ids=str)
def test_share_of_kept_features(rate, shape):
  kept = drop(rate, shape)
  keep = kept > 0
  deviation = np.sqrt(max(rate * (1 - rate), 1e-9) / keep.size)
  assert abs(keep.mean() - (1 - rate)) <= 5 * deviation + 1e-5
  np.testing.assert_allclose(kept.max() * (1 - rate), 1.0, rtol=2e-4)
  assert set(np.unique(kept)) <= {0.0, kept.max()}
  # Each feature, and each position, has the rate on its own.
  for axes in ((0, 1), (2,)):
    share = keep.mean(axis=axes)
    bound = 6 * np.sqrt(max(rate * (1 - rate), 1e-9) * share.size / keep.size)
    assert np.abs(share - (1 - rate)).max() <= bound + 1e-5


@pytest.mark.parametrize('heads', [1, 4, 5])
def test_share_of_kept_pairs(heads):
  keep = drop(0.2, (10, heads, 40, 40)) > 0
  for axes in ((0, 1, 2, 3), (0, 2, 3), (0, 1, 2), (0, 1, 3)):
    share = keep.mean(axis=axes)
    assert np.abs(share - 0.8).max() <= 6 * np.sqrt(0.16 * np.size(share) / keep.size)


def test_features_positions_sequences_and_heads_are_independent():
  def largest(columns):
    correlation = np.corrcoef(columns.astype(float)) - np.eye(len(columns))
    return np.abs(correlation).max() * np.sqrt(columns.shape[1])

  keep = drop(0.5, (40, 100, 12)) > 0
  assert largest(keep.reshape(-1, 12).T) < 5
  assert largest(keep.transpose(1, 0, 2).reshape(100, -1)) < 5.5
  assert largest(keep.reshape(40, -1)) < 5
  pairs = drop(0.5, (6, 4, 30, 30)) > 0
  assert largest(pairs.transpose(1, 0, 2, 3).reshape(4, -1)) < 5
  assert largest(pairs.transpose(2, 0, 1, 3).reshape(30, -1)) < 5.5
  # A query's key and a key's query are different pairs.
  assert abs(np.corrcoef(pairs.ravel(), np.swapaxes(pairs, 2, 3).ravel())[0, 1]) < 0.04


@pytest.mark.parametrize('shape', [(20, 50, 30), (5, 4, 30, 30)])
def test_modules_are_independent(shape):
  first, second = (np.ravel(x) > 0 for x in apply(0.5, jnp.ones(shape)))
  assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


def test_nothing_is_dropped_at_rate_zero_or_when_deterministic():
  x = jnp.full((2, 3, 4), 3.0)
  np.testing.assert_array_equal(Model(0.2).apply({}, x, deterministic=True)[0], x)
  np.testing.assert_array_equal(apply(0.0, x)[0], x)


def test_type_of_the_input_is_kept():
  x = jnp.ones((2, 3, 4), jnp.bfloat16)
  assert apply(0.2, x)[0].dtype == jnp.bfloat16


@functools.cache
def world():
  student = made.student(hidden=8, heads=2, max_frames=5, max_words=5, input_dropout=0.5, dropout=0.5)
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


def pack(lengths, rows, row_length, slots):
  """Lays sequences of the given lengths into rows, `rows[n]` being the row of sequence n: (layout, starts)."""
  count = max(rows) + 1
  slot, position = np.full((count, row_length), -1, np.int32), np.zeros((count, row_length), np.int32)
  ordinals, where, starts = np.full((count, slots), -1, np.int32), [], []
  used, filled = np.zeros(count, int), np.zeros(count, int)
  for n, (length, row) in enumerate(zip(lengths, rows, strict=True)):
    span = slice(filled[row], filled[row] + length)
    slot[row, span], position[row, span] = used[row], np.arange(length)
    ordinals[row, used[row]] = n
    where.append(row * slots + used[row])
    starts.append((row, span))
    used[row] += 1
    filled[row] += length
  return Layout(slot, position, ordinals, np.asarray(where, np.int32)), starts


@pytest.mark.parametrize('deterministic', [True, False])
def test_packing_changes_no_sequence(deterministic):
  lengths = (5, 2, 3, 1, 4, 2)
  student = made.student(hidden=8, heads=2, max_frames=5, max_words=5, input_dropout=0.4, dropout=0.4)
  params = jax.jit(lambda: init_parameters(student, jax.random.key(0), 6, 6))()
  rng = np.random.default_rng(0)
  sequences = [rng.standard_normal((n, 6)).astype(np.float32) for n in lengths]

  @functools.partial(jax.jit, static_argnums=2)
  def apply_student(x, layout, method):
    rngs = {'dropout': jax.random.key(7)}
    return student.apply({'params': params}, x, layout, deterministic, rngs=rngs, method=method)

  def encode(rows, row_length, slots, method):
    layout, starts = pack(lengths, rows, row_length, slots)
    x = rng.standard_normal((*layout.slot.shape, 6)).astype(np.float32)  # What stands at padding does not matter.
    for sequence, place in zip(sequences, starts, strict=True):
      x[place] = sequence
    encoded = apply_student(x, layout, method)
    if method == 'encode_frames':
      return {name: [np.asarray(y)[place] for place in starts] for name, y in encoded.items()}
    return {name: list(np.asarray(y).reshape(-1, 8)[layout.where]) for name, y in encoded.items()}

  for method in ('encode_frames', 'encode_tokens'):
    padded = encode(range(6), 5, 1, method)
    packed = encode((0, 0, 1, 0, 2, 1), 9, 3, method)
    for name in padded:
      for a, b in zip(padded[name], packed[name], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
