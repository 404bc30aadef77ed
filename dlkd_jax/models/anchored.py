"""A student that starts from closed-form anchors and learns only how far to turn each sentence away from them.

With a the anchor's vector of a sentence s and v_i those of the frames (`dlkd_jax.models.anchors`), a branch has

    q = unit(a + clip(Dᵀ s, reach))        score = max_i ⟨q, v_i⟩

where D is zero at first, so that at step 0 every score is the anchor's, and clip bounds the length of the turn. Only D
is trained: the anchors are parameters like others, saved, exported and searched with them, through which no gradient
goes. There is nothing here to overfit a few hundred captions with but D, and validation rates step 0, too.
"""

from __future__ import annotations

import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Array, Layout, padded_layout
from dlkd_jax.models.anchors import FITS, time_weights
from dlkd_jax.models.dropout import Dropout, dropping

_SENTENCE_LENGTH = 5.0  # Mean length of what D sees: about a quarter in each of 384 features.
_EPSILON = 1e-12
FROZEN = '_anchor'  # The end of the names of modules whose parameters do not learn.


class Branch(nn.Module):
  """One branch; attributes as of `AnchoredStudent`, sizes as of `dlkd_jax.models.dldkd`."""

  hidden: int
  dropout: float
  reach: float
  dtype: Any

  def setup(self):
    self.sentence_anchor = Anchor(self.hidden, self.dtype)
    self.frame_anchor = Anchor(self.hidden, self.dtype)
    self.sentence_dropout = Dropout(self.dropout)
    self.turn = nn.Dense(self.hidden, use_bias=False, kernel_init=nn.initializers.zeros, dtype=self.dtype)

  def frames(self, frames, layout: Layout) -> jax.Array:
    """Maps frames `[R, L, Dv]` to unit rows `[R, L, H]`, smoothed in time; padded ones mean nothing."""
    return _unit(_smoothed(self.frame_anchor(frames)[1], layout)).astype(self.dtype)

  def sentences(self, sentences, deterministic: bool, anchors: Array | None) -> jax.Array:
    """Maps sentences `[Rw, S, Dq]` to unit rows `[Rw, S, H]`, from `anchors` of that shape where they are given."""
    centred, start = self.sentence_anchor(sentences)
    start = _unit(start) if anchors is None else anchors
    turn = self.turn(self.sentence_dropout(_SENTENCE_LENGTH * centred, deterministic)).astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(turn * turn, axis=-1, keepdims=True) + _EPSILON)
    return _unit(start + turn * jnp.minimum(1.0, self.reach / length)).astype(self.dtype)


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

  Parameters are named `<branch>/{sentence_anchor,frame_anchor}/{mean,scale,map}` and `<branch>/turn/kernel`, which
  alone learns: Dq·H of each branch. The anchors are 0 until they are fitted (`dlkd_jax.training.anchoring`).

  Attributes:
    hidden: H; an anchor of fewer dimensions is filled up with zeros.
    dropout: share of a sentence's features that the turn does not see, in [0, 1).
    branches: some of `dlkd_jax.models.anchors.FITS`.
    dtype: of matrix products and of what is returned.
    reach: longest turn, where the anchor's vector has length 1.
  """

  hidden: int
  dropout: float
  branches: tuple[str, ...]
  dtype: Any
  reach: float = 0.5

  def setup(self):
    if odd := [name for name in self.branches if name not in FITS]:
      raise UserError(f'an anchored student has no branch {", ".join(odd)}; expected some of {", ".join(FITS)}.')
    for name in self.branches:
      setattr(self, name, Branch(self.hidden, self.dropout, self.reach, self.dtype))

  @nn.nowrap
  def layouts(self, layout: Layout) -> dict[str, Layout]:
    """Every branch has one vector a frame."""
    return dict.fromkeys(self.branches, layout)

  def encode_frames(self, frames, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes frames `[R, L, Dv]` to `{branch: [R, L, H]}`; the same whether deterministic or not."""
    del deterministic
    layout = layout if isinstance(layout, Layout) else padded_layout(layout)
    return {name: getattr(self, name).frames(frames, layout) for name in self.branches}

  def encode_tokens(
    self, tokens, layout: Layout | Array, deterministic: bool = True, anchors: Array | None = None
  ) -> dict[str, jax.Array]:
    """Encodes tokens `[Rw, W, Dq]` to `{branch: [Rw, S, H]}` by slots; to `{branch: [Rw, H]}` with a mask.

    `anchors` `[Rw, S, branches·H]` take the place of the anchors' own vectors in training: those that were predicted
    without the captions of the sentence's video.
    """
    placed = layout if isinstance(layout, Layout) else padded_layout(layout)
    sentences, by_slot = sentences_of(tokens, placed), _layout_of_slots(placed)
    given = [None] * len(self.branches) if anchors is None else jnp.split(anchors, len(self.branches), axis=-1)
    drops = not deterministic and self.dropout > 0.0
    with dropping(self.make_rng('dropout'), by_slot) if drops else contextlib.nullcontext():
      vectors = {
        name: getattr(self, name).sentences(sentences, deterministic, start)
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
