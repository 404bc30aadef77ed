"""A student that starts from closed-form anchors and learns only how far to turn away from them.

With a the anchor's vector of a sentence s and x_i those of the frames (`dlkd_jax.models.anchors`), a branch has

    q = unit(a + clip(Δq(s), reach))        v_i = unit(x_i + clip(Δv(x)_i, reach))        score = max_i ⟨q, v_i⟩

where Δq is a linear map, and Δv is 0. With many captions Δq has a hidden layer besides, and Δv is one of attention over
the frames of the video. All are zero at first, so that at step 0 every score is the anchor's, and clip bounds the
length of a turn. The anchors are parameters like others, saved, exported and searched with them, through which no
gradient goes: there is nothing to overfit a few hundred captions with but the turns, and validation rates step 0, too.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Array, Layout, padded_layout
from dlkd_jax.models.anchors import BRANCHES, TEACHER, time_weights
from dlkd_jax.models.dropout import Dropout, dropping
from dlkd_jax.models.layers import attention_bias, attention_scores

_SENTENCE_LENGTH = 5.0  # Mean length of what D sees: about a quarter in each of 384 features.
_EPSILON = 1e-12
FROZEN = '_anchor'  # The end of the names of modules whose parameters do not learn.
# What learns → the longest turn, where the anchor's vector has length 1.
REACH = {'linear': 0.5, 'full': 1.5}
_WIDTH, _HEADS, _FAR = 192, 4, 16  # Of the hidden layers; attention tells distances up to so many frames.


class Branch(nn.Module):
  """One branch; attributes as of `AnchoredStudent`, sizes as of `dlkd_jax.models.dldkd`."""

  hidden: int
  dropout: float
  residual: str
  dtype: Any

  def setup(self):
    self.sentence_anchor = Anchor(self.hidden, self.dtype)
    self.frame_anchor = Anchor(self.hidden, self.dtype)
    self.sentence_dropout = Dropout(self.dropout)
    self.turn = _zeros(self.hidden, self.dtype)
    if self.residual == 'full':
      self.sentence_layer = _dense(_WIDTH, self.dtype)
      self.layer_dropout = Dropout(self.dropout)
      self.layer_turn = _zeros(self.hidden, self.dtype)
      self.frame_turn = FrameTurn(self.hidden, self.dropout, self.dtype)

  def frames(self, frames, layout: Layout, deterministic: bool) -> jax.Array:
    """Maps frames `[R, L, Dv]` to unit rows `[R, L, H]`, smoothed in time; padded ones mean nothing."""
    start = _unit(_smoothed(self.frame_anchor(frames)[1], layout))
    if self.residual == 'full':
      start = _unit(start + self._clipped(self.frame_turn(start, layout, deterministic)))
    return start.astype(self.dtype)

  def sentences(self, sentences, deterministic: bool, anchors: Array | None) -> jax.Array:
    """Maps sentences `[Rw, S, Dq]` to unit rows `[Rw, S, H]`, from `anchors` of that shape where they are given."""
    centred, start = self.sentence_anchor(sentences)
    start = _unit(start) if anchors is None else anchors
    seen = self.sentence_dropout(_SENTENCE_LENGTH * centred, deterministic)
    turn = self.turn(seen)
    if self.residual == 'full':
      turn += self.layer_turn(self.layer_dropout(nn.gelu(self.sentence_layer(seen)), deterministic))
    return _unit(start + self._clipped(turn)).astype(self.dtype)

  def _clipped(self, turn: jax.Array) -> jax.Array:
    turn = turn.astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(turn * turn, axis=-1, keepdims=True) + _EPSILON)
    return turn * jnp.minimum(1.0, REACH[self.residual] / length)


def _dense(features: int, dtype: Any, deviation: float | None = None, use_bias: bool = True) -> nn.Dense:
  """A linear layer whose weights have a deviation, by default one that keeps the size of what goes through."""
  init = nn.initializers.lecun_normal() if deviation is None else nn.initializers.normal(deviation)
  return nn.Dense(features, use_bias=use_bias, kernel_init=init, dtype=dtype)


def _zeros(features: int, dtype: Any) -> nn.Dense:
  return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.zeros, dtype=dtype)


class FrameTurn(nn.Module):
  """How far each frame of a video turns away from its anchor, by what the other frames show; 0 at first."""

  hidden: int
  dropout: float
  dtype: Any

  def setup(self):
    self.input_dropout, self.layer_dropout = Dropout(self.dropout), Dropout(self.dropout)
    self.layer = _dense(_WIDTH, self.dtype, 1 / 3)  # Of rows of length 1.
    self.query, self.key, self.value = (_dense(_WIDTH, self.dtype, use_bias=False) for _ in range(3))
    self.distance = self.param('distance', nn.initializers.zeros, (2 * _FAR + 1, _HEADS))
    self.linear, self.turn = _zeros(self.hidden, self.dtype), _zeros(self.hidden, self.dtype)

  def __call__(self, frames: jax.Array, layout: Layout, deterministic: bool) -> jax.Array:
    """Maps unit rows `[R, L, H]` to turns `[R, L, H]`; a frame attends to those of its own video."""
    seen = self.input_dropout(frames, deterministic).astype(self.dtype)
    x = self.layer(seen)
    x = x + self._attention(x, layout)
    return self.linear(seen) + self.turn(self.layer_dropout(nn.gelu(x), deterministic))

  def _attention(self, x: jax.Array, layout: Layout) -> jax.Array:
    query, key, value = (part(x).reshape(*x.shape[:2], _HEADS, -1) for part in (self.query, self.key, self.value))
    scores = attention_scores(query, key)
    position = jnp.asarray(layout.position)
    apart = jnp.clip(position[:, None, :] - position[:, :, None], -_FAR, _FAR) + _FAR
    near = jnp.moveaxis(jnp.take(self.distance, apart, axis=0, mode='clip'), 3, 1)
    shares = nn.softmax(scores / jnp.sqrt(float(query.shape[-1])) + near + attention_bias(layout), axis=-1)
    return jnp.einsum('rhqk,rkhd->rqhd', shares.astype(self.dtype), value).reshape(x.shape)


class Anchor(nn.Module):
  """A fixed linear map, of float32 parameters through which no gradient goes."""

  hidden: int
  dtype: Any

  @nn.compact
  def __call__(self, x) -> tuple[jax.Array, jax.Array]:
    """Returns of `[R, T, D]` c = (x − mean)·scale, and c·map `[R, T, H]`, both float32."""
    mean = self.param('mean', nn.initializers.zeros, (x.shape[-1],))
    scale = self.param('scale', nn.initializers.ones, ())
    matrix = self.param('map', nn.initializers.zeros, (x.shape[-1], self.hidden))
    mean, scale, matrix = jax.lax.stop_gradient((mean, scale, matrix))
    centred = (x - mean[None, None]) * scale
    return centred, jnp.matmul(centred.astype(self.dtype), matrix.astype(self.dtype)).astype(jnp.float32)


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _EPSILON)


def _smoothed(frames: jax.Array, layout: Layout) -> jax.Array:
  """Smooths `[R, L, H]` in time within each video, as `dlkd_jax.models.anchors.smoothed`."""
  slot, index = jnp.asarray(layout.slot), jnp.arange(frames.shape[1], dtype=jnp.int32)[None]
  length = jnp.sum(slot[:, :, None] == slot[:, None, :], axis=2, dtype=jnp.int32)
  first = index - layout.position
  weights = time_weights()
  total = jnp.zeros_like(frames)
  for k, weight in enumerate(weights):
    near = jnp.clip(index + k - len(weights) // 2, first, first + length - 1)
    total += jnp.float32(weight) * jnp.take_along_axis(frames, near[:, :, None], axis=1, mode='clip')
  return total


def sentences_of(tokens: jax.Array, layout: Layout) -> jax.Array:
  """Returns the mean of each sentence's unit tokens `[Rw, W, Dq]`, of length 1, by slots: `[Rw, S, Dq]` float32."""
  return _unit(jnp.einsum('rsw,rwd->rsd', layout.by_slot.astype(jnp.float32), tokens))


class AnchoredStudent(nn.Module):
  """See `dlkd_jax.models.students.Student`, and the module's docstring.

  Parameters are named `<branch>/{sentence_anchor,frame_anchor}/{mean,scale,map}` and `<branch>/turn/kernel`, and in a
  full one `<branch>/{sentence_layer,layer_turn,frame_turn}/…`. The anchors are 0 until they are fitted
  (`dlkd_jax.training.anchoring`). Branches that begin with 'teacher_' see the teacher's features, which stand behind
  the student's in every row (`dlkd_jax.data.taught`).

  Attributes:
    hidden: H; an anchor of fewer dimensions is filled up with zeros.
    dropout: share of the features that the turns do not see, in [0, 1).
    branches: some of `dlkd_jax.models.anchors.BRANCHES`.
    dtype: of matrix products and of what is returned.
    residual: what learns: linear, or full.
    teacher_features: how many of the features of a row are the teacher's, Dt; 0: none.
  """

  hidden: int
  dropout: float
  branches: tuple[str, ...]
  dtype: Any
  residual: str = 'linear'
  teacher_features: int = 0

  def setup(self):
    if odd := [name for name in self.branches if name not in BRANCHES]:
      raise UserError(f'an anchored student has no branch {", ".join(odd)}; expected some of {", ".join(BRANCHES)}.')
    if self.residual not in REACH:
      found = f'config.model.options.residual is {self.residual!r}'
      raise UserError(f'{found}; expected {", ".join(REACH)}, or auto when a training begins.')
    for name in self.branches:
      setattr(self, name, Branch(self.hidden, self.dropout, self.residual, self.dtype))

  @nn.nowrap
  def layouts(self, layout: Layout) -> dict[str, Layout]:
    """Every branch has one vector a frame."""
    return dict.fromkeys(self.branches, layout)

  def _seen(self, rows: jax.Array) -> dict[str, jax.Array]:
    """Returns branch → the features of rows `[…, D]` that it sees, of length 1."""
    if not self.teacher_features:
      return dict.fromkeys(self.branches, rows)
    cut = rows.shape[-1] - self.teacher_features
    own, taught = _unit(rows[..., :cut]), _unit(rows[..., cut:])
    return {name: taught if name.startswith(TEACHER) else own for name in self.branches}

  def _dropout_key(self, drops: bool) -> jax.Array | None:
    return self.make_rng('dropout') if drops and self.dropout > 0.0 else None

  def encode_frames(self, frames, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes frames `[R, L, Dv]` to `{branch: [R, L, H]}`."""
    layout = layout if isinstance(layout, Layout) else padded_layout(layout)
    seen = self._seen(frames)
    with dropping(self._dropout_key(self.residual == 'full' and not deterministic), layout):
      return {name: getattr(self, name).frames(seen[name], layout, deterministic) for name in self.branches}

  def encode_tokens(
    self, tokens, layout: Layout | Array, deterministic: bool = True, anchors: Array | None = None
  ) -> dict[str, jax.Array]:
    """Encodes tokens `[Rw, W, Dq]` to `{branch: [Rw, S, H]}` by slots; to `{branch: [Rw, H]}` with a mask.

    `anchors` `[Rw, S, branches·H]` take the place of the anchors' own vectors in training: those that were predicted
    without the captions of the sentence's video.
    """
    placed = layout if isinstance(layout, Layout) else padded_layout(layout)
    sentences = {name: sentences_of(rows, placed) for name, rows in self._seen(tokens).items()}
    given = [None] * len(self.branches) if anchors is None else jnp.split(anchors, len(self.branches), axis=-1)
    with dropping(self._dropout_key(not deterministic), _layout_of_slots(placed)):
      vectors = {
        name: getattr(self, name).sentences(sentences[name], deterministic, start)
        for name, start in zip(self.branches, given, strict=True)
      }
    return vectors if placed is layout else {name: x[:, 0] for name, x in vectors.items()}

  def __call__(self, frames, frame_layout, tokens, token_layout, deterministic: bool = True):
    """Encodes both sides: returns the results of `encode_frames` and of `encode_tokens`."""
    return (
      self.encode_frames(frames, frame_layout, deterministic),
      self.encode_tokens(tokens, token_layout, deterministic),
    )


def _layout_of_slots(layout: Layout) -> Layout:
  """Returns the layout of one vector a sequence, in its slot."""
  slots = jnp.arange(layout.slots, dtype=jnp.int32)[None]
  slot = jnp.where(layout.ordinals >= 0, slots, -1)
  return Layout(slot=slot, position=jnp.zeros_like(slot), ordinals=layout.ordinals, where=layout.where)
