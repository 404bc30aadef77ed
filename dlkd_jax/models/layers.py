"""Building blocks of the student: dropout, self-attention and the sequence encoder of one branch.

Sizes: N sequences, T positions (frames or words), D input features, H hidden features.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYER_NORM_EPSILON = 1e-5
# Added to attention scores at padded keys. It is finite, so that a sequence that is all padding stays finite too.
PADDED_KEY_BIAS = -10000.0
_INIT = nn.initializers.normal(stddev=0.02)


def dense(features: int, name: str | None = None, use_bias: bool = True) -> nn.Dense:
  """Returns a linear layer with the method's initialisation: N(0, 0.02) weights, zero biases."""
  return nn.Dense(features, use_bias=use_bias, kernel_init=_INIT, name=name)


def layer_norm(name: str) -> nn.LayerNorm:
  """Returns a layer normalisation with the method's epsilon and the two-pass variance."""
  return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, name=name)


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> tuple[jax.Array, float]:
  """Draws a dropout mask from 16 random bits an element.

  Random bits are a visible share of a training step, and 16 of them resolve a rate to 1.5e-5: one 32-bit word
  serves two elements.

  Args:
    key: typed PRNG key.
    shape: shape of the mask.
    rate: probability of an element being dropped, in [0, 1).

  Returns:
    The boolean mask and the factor that keeps the expectation, for the rate as resolved.
  """
  threshold = round(rate * 2**16)
  half = -(-shape[-1] // 2)
  words = jax.random.bits(key, (*shape[:-1], half), jnp.uint32)
  low, high = words & 0xFFFF, words >> 16
  keep = jnp.concatenate([low >= threshold, high >= threshold], axis=-1)[..., : shape[-1]]
  return keep, 2**16 / (2**16 - threshold)


class Dropout(nn.Module):
  """Sets elements to zero with probability `rate` and scales the others to keep the expectation."""

  rate: float

  @nn.compact
  def __call__(self, inputs: jax.Array, deterministic: bool) -> jax.Array:
    if deterministic or self.rate == 0.0:
      return inputs
    keep, scale = keep_mask(self.make_rng('dropout'), inputs.shape, self.rate)
    return jnp.where(keep, inputs * scale, 0.0)


class SelfAttention(nn.Module):
  """One BERT attention block without a feed-forward part: LayerNorm(x + Dense(attention(x)))."""

  hidden: int
  heads: int
  dropout: float

  @nn.compact
  def __call__(self, inputs: jax.Array, mask: jax.Array, deterministic: bool) -> jax.Array:
    """Maps `[N, T, H]` and its `[N, T]` mask to `[N, T, H]`."""
    n, t, _ = inputs.shape
    size = self.hidden // self.heads
    split = (n, t, self.heads, size)
    query = dense(self.hidden, 'query')(inputs).reshape(split)
    key = dense(self.hidden, 'key')(inputs).reshape(split)
    value = dense(self.hidden, 'value')(inputs).reshape(split)

    bias = jnp.where(mask, 0.0, PADDED_KEY_BIAS)[:, None, None, :]
    scores = jnp.einsum('nqhd,nkhd->nhqk', query, key) / jnp.sqrt(float(size)) + bias
    probabilities = Dropout(self.dropout)(nn.softmax(scores, axis=-1), deterministic)
    context = jnp.einsum('nhqk,nkhd->nqhd', probabilities, value).reshape(inputs.shape)

    outputs = Dropout(self.dropout)(dense(self.hidden, 'output')(context), deterministic)
    return layer_norm('norm')(inputs + outputs)


class SequenceEncoder(nn.Module):
  """Encodes frames or tokens: projection, learned positions, one attention block (DL-DKD++, the student).

  LayerNorm(D) → dropout → Dense(D→H) → ReLU; + position → LayerNorm → dropout; → SelfAttention.

  Attributes:
    hidden: H.
    heads: attention heads; divides H.
    positions: longest sequence that the position embedding can serve.
    input_dropout: rate before the projection.
    dropout: rate everywhere else.
  """

  hidden: int
  heads: int
  positions: int
  input_dropout: float
  dropout: float

  @nn.compact
  def __call__(self, inputs: jax.Array, mask: jax.Array, deterministic: bool) -> jax.Array:
    """Maps `[N, T, D]` and its `[N, T]` mask to `[N, T, H]`.

    Raises:
      ValueError: T exceeds `positions`.
    """
    length = inputs.shape[1]
    if length > self.positions:
      raise ValueError(
        f'{self.name}: sequences of {length} positions, but the position embedding has {self.positions}; '
        f'cut or resample the inputs, or build the model with more positions.'
      )
    x = layer_norm('input_norm')(inputs)
    x = Dropout(self.input_dropout)(x, deterministic)
    x = nn.relu(dense(self.hidden, 'input_projection')(x))
    positions = self.param('position_embedding', _INIT, (self.positions, self.hidden))
    x = layer_norm('position_norm')(x + positions[None, :length])
    x = Dropout(self.dropout)(x, deterministic)
    attention = SelfAttention(self.hidden, self.heads, self.dropout, name='attention')
    return attention(x, mask, deterministic)
