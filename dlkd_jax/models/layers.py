"""Building blocks of the student: self-attention and the sequence encoder of one branch.

Sizes: R rows, T positions of a row (frames or words), D input features, H hidden features. Several sequences may share
a row (`dlkd_jax.layout`); no result of one depends on another, nor on where in the rows it lies.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.layout import Layout
from dlkd_jax.models.dropout import Dropout

LAYER_NORM_EPSILON = 1e-5
# Added to attention scores at keys of padding and of other sequences; finite, so that a row of padding stays finite.
_PADDED_KEY_BIAS = -10000.0
_INIT = nn.initializers.normal(stddev=0.02)


def dense(features: int, name: str | None = None, use_bias: bool = True, dtype: Any = jnp.float32) -> nn.Dense:
  """Returns a linear layer with N(0, 0.02) weights and zero biases; `dtype` is that of the product."""
  return nn.Dense(features, use_bias=use_bias, kernel_init=_INIT, dtype=dtype, name=name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: Any) -> jax.Array:
  return _layer_norm_forward(x, scale, bias, dtype)[0]


def _layer_norm_forward(x, scale, bias, dtype):
  wide = x.astype(jnp.float32)
  mean = jnp.mean(wide, axis=-1, keepdims=True)
  spread = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
  return ((wide - mean) * (spread * scale) + bias).astype(dtype), (x, scale, mean, spread)


def _layer_norm_backward(dtype, kept, cotangent):
  x, scale, *statistics = kept
  # Behind the barrier XLA computes x anew in each program; else some write it in float32 for others to read.
  mean, spread = jax.lax.optimization_barrier(statistics)
  normal = (x.astype(jnp.float32) - mean) * spread
  cotangent = cotangent.astype(jnp.float32)
  scale_cotangent, bias_cotangent = (
    jnp.sum(y, axis=tuple(range(x.ndim - 1)), keepdims=True) for y in (cotangent * normal, cotangent)
  )
  g = cotangent * scale
  g -= jnp.mean(g, axis=-1, keepdims=True) + normal * jnp.mean(g * normal, axis=-1, keepdims=True)
  return (spread * g).astype(x.dtype), scale_cotangent, bias_cotangent


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
  """Layer normalisation over the last axis, in float32 with the two-pass variance; `dtype` is that of its output.

  Values and parameters are those of `flax.linen.LayerNorm`. The backward pass keeps the inputs, and means and variances
  alone beside them, and sums the gradients of scale and bias together: these take most of it where features are wide.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Normalises `[…, D]`."""
    size = inputs.shape[-1:]
    scale, bias = self.param('scale', nn.initializers.ones, size), self.param('bias', nn.initializers.zeros, size)
    scale, bias = (x.reshape((1,) * (inputs.ndim - 1) + size) for x in (scale, bias))
    return _layer_norm(inputs, scale, bias, self.dtype)


def attention_bias(layout: Layout) -> jax.Array:
  """Returns `[R, 1, T, T]` to add to attention scores: 0 where a position may attend, at those of its own sequence."""
  same = layout.slot[:, :, None] == layout.slot[:, None, :]
  return jnp.where(same & layout.mask[:, None, :], 0.0, _PADDED_KEY_BIAS)[:, None]


@jax.custom_vjp
def attention_scores(query: jax.Array, key: jax.Array) -> jax.Array:
  """Returns products `[R, heads, T, T]` float32 of `[R, T, heads, D]`; their cotangent is rounded to the type of these.

  So the products of the backward pass, too, are of the student's type.
  """
  return jnp.einsum('rqhd,rkhd->rhqk', query, key, preferred_element_type=jnp.float32)


def _attention_scores_backward(kept, cotangent):
  (query, key), cotangent = kept, cotangent.astype(kept[0].dtype)
  return jnp.einsum('rhqk,rkhd->rqhd', cotangent, key), jnp.einsum('rhqk,rqhd->rkhd', cotangent, query)


attention_scores.defvjp(lambda query, key: (attention_scores(query, key), (query, key)), _attention_scores_backward)


class SelfAttention(nn.Module):
  """One BERT attention block without a feed-forward part: LayerNorm(x + Dense(attention(x)))."""

  hidden: int
  heads: int
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, layout: Layout, deterministic: bool) -> jax.Array:
    """Maps `[R, T, H]` to `[R, T, H]`; a position attends to those of its own sequence."""
    rows, length, _ = inputs.shape
    size = self.hidden // self.heads
    split = (rows, length, self.heads, size)
    query, key, value = (
      dense(self.hidden, name, dtype=self.dtype)(inputs).reshape(split) for name in ('query', 'key', 'value')
    )
    scores = attention_scores(query, key)
    probabilities = nn.softmax(scores / jnp.sqrt(float(size)) + attention_bias(layout), axis=-1)
    probabilities = Dropout(self.dropout, name='probability_dropout')(probabilities, deterministic)
    context = jnp.einsum('rhqk,rkhd->rqhd', probabilities.astype(self.dtype), value).reshape(inputs.shape)

    outputs = dense(self.hidden, 'output', dtype=self.dtype)(context)
    outputs = Dropout(self.dropout, name='output_dropout')(outputs, deterministic)
    return LayerNorm(self.dtype, name='norm')(inputs + outputs)


class FeedForward(nn.Module):
  """LayerNorm(x + Dense(ReLU(Dense(x)))), with so many times H hidden features."""

  hidden: int
  factor: int
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, deterministic: bool) -> jax.Array:
    """Maps `[R, T, H]` to `[R, T, H]`."""
    x = nn.relu(dense(self.factor * self.hidden, 'inner', dtype=self.dtype)(inputs))
    x = Dropout(self.dropout, name='output_dropout')(dense(self.hidden, 'outer', dtype=self.dtype)(x), deterministic)
    return LayerNorm(self.dtype, name='norm')(inputs + x)


class SequenceEncoder(nn.Module):
  """Encodes frames or tokens: projection, learned positions, one attention block (DL-DKD++, the student).

  LayerNorm(D) → dropout → Dense(D→H) → ReLU; + position → LayerNorm → dropout; → SelfAttention.

  Attributes:
    hidden, heads, input_dropout, dropout, dtype: as of `dlkd_jax.models.dldkd.DlDkdStudent`.
    positions: longest sequence that the position embedding can serve.
    attention: makes another module in place of the self-attention, of a name.
    feed_forward: hidden features of a feed-forward part behind it by H; 0: there is none.
  """

  hidden: int
  heads: int
  positions: int
  input_dropout: float
  dropout: float
  dtype: Any = jnp.float32
  attention: Any = None
  feed_forward: int = 0

  @nn.compact
  def __call__(self, inputs: jax.Array, layout: Layout, deterministic: bool) -> jax.Array:
    """Maps `[R, T, D]` in its layout to `[R, T, H]`.

    Raises:
      ValueError: rows of one sequence each are longer than `positions`.
    """
    length = inputs.shape[1]
    if layout.slots == 1 and length > self.positions:
      raise ValueError(
        f'{self.name}: sequences of {length} positions, but the position embedding has {self.positions}; '
        f'cut or resample the inputs, or build the model with more positions.'
      )
    x = LayerNorm(self.dtype, name='input_norm')(inputs)
    x = Dropout(self.input_dropout, name='input_dropout')(x, deterministic)
    x = nn.relu(dense(self.hidden, 'input_projection', dtype=self.dtype)(x))
    positions = self.param('position_embedding', _INIT, (self.positions, self.hidden))
    x = LayerNorm(self.dtype, name='position_norm')(x + jnp.take(positions, layout.position, axis=0, mode='clip'))
    x = Dropout(self.dropout, name='position_dropout')(x, deterministic)
    own = functools.partial(SelfAttention, self.hidden, self.heads, self.dropout, self.dtype)
    x = (self.attention or own)(name='attention')(x, layout, deterministic)
    if not self.feed_forward:
      return x
    return FeedForward(self.hidden, self.feed_forward, self.dropout, self.dtype, name='feed_forward')(x, deterministic)
