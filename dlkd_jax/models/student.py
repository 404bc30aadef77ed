"""The student of DL-DKD++: two branches of one shape that share nothing.

The inheritance branch learns from the teacher, the exploration branch from the data alone. A single-branch student
has the inheritance branch only.

Sizes: R rows of L frames, Rw rows of W tokens, S slots a row (captions that may share it), D features, H hidden.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Array, Layout, padded_layout
from dlkd_jax.models.dropout import PositionSeeds, draw_seeds
from dlkd_jax.models.layers import SequenceEncoder, dense

INHERITANCE = 'inheritance'
EXPLORATION = 'exploration'
_PADDED_SCORE = -1e10


class Branch(nn.Module):
  """One branch: an encoder for frames, one for tokens, and the heads of both.

  Attributes:
    hidden: H, size of the space in which queries and frames meet.
    heads: attention heads; divides H.
    max_frames: positions of the frame encoder.
    max_words: positions of the token encoder.
    input_dropout: dropout rate of the input features.
    dropout: dropout rate inside the encoders.
    dtype: of matrix products.
  """

  hidden: int
  heads: int
  max_frames: int
  max_words: int
  input_dropout: float
  dropout: float
  dtype: Any

  def setup(self):
    def encoder(positions):
      return SequenceEncoder(self.hidden, self.heads, positions, self.input_dropout, self.dropout, self.dtype)

    self.frame_encoder = encoder(self.max_frames)
    self.token_encoder = encoder(self.max_words)
    self.frame_projection = dense(self.hidden, dtype=self.dtype)
    self.token_pooling = dense(1, use_bias=False)

  def encode_frames(self, frames, layout: Layout, seeds: PositionSeeds | None) -> jax.Array:
    """Encodes frames `[R, L, Dv]` to `[R, L, H]`; padded frames mean nothing."""
    return self.frame_projection(self.frame_encoder(frames, layout, seeds))

  def encode_tokens(self, tokens, layout: Layout, seeds: PositionSeeds | None) -> jax.Array:
    """Encodes tokens `[Rw, W, Dq]` to one vector a slot, `[Rw, S, H]`; empty slots mean nothing."""
    states = self.token_encoder(tokens, layout, seeds)
    slots = jnp.arange(layout.slots, dtype=jnp.int32)[None, :, None]
    scores = self.token_pooling(states)[..., 0][:, None]
    weights = nn.softmax(jnp.where(layout.slot[:, None] == slots, scores, _PADDED_SCORE), axis=-1)
    pooled = jnp.einsum('rsw,rwh->rsh', weights.astype(self.dtype), states, preferred_element_type=jnp.float32)
    return pooled.astype(self.dtype)


class Student(nn.Module):
  """The two-branch student; its methods return one array a branch, by the branch's name.

  Parameters are named `{inheritance,exploration}/{frame_encoder,token_encoder,frame_projection,token_pooling}/…`.
  About 5.8 M of them at TVR sizes (Dv 3072, Dq 768), 4.4 M at ActivityNet's and Charades' (1024, 1024).

  Attributes:
    hidden: H, size of the space in which queries and frames meet.
    heads: attention heads; divides H.
    max_frames: longest video, in frames.
    max_words: longest caption, in tokens.
    input_dropout: dropout rate of the input features, in [0, 1).
    dropout: dropout rate inside the encoders, in [0, 1).
    dual: with the exploration branch; False gives the single-branch student.
    dtype: of matrix products and activations: float32, or bfloat16 for accelerators. Parameters, means, variances and
      softmax stay float32.
  """

  hidden: int
  heads: int
  max_frames: int
  max_words: int
  input_dropout: float
  dropout: float
  dual: bool
  dtype: Any

  @property
  def branch_names(self) -> tuple[str, ...]:
    """Names of the branches, inheritance first."""
    return (INHERITANCE, EXPLORATION) if self.dual else (INHERITANCE,)

  def setup(self):
    if self.hidden % self.heads:
      raise UserError(f'hidden size {self.hidden} is not divisible by {self.heads} attention heads.')
    for name in self.branch_names:
      branch = Branch(
        self.hidden,
        self.heads,
        self.max_frames,
        self.max_words,
        self.input_dropout,
        self.dropout,
        self.dtype,
      )
      setattr(self, name, branch)

  def encode_frames(self, frames, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes frames to `{branch: [R, L, H]}`.

    Args:
      frames: `[R, L, Dv]`.
      layout: of the videos in the rows; or a mask `[R, L]`, true at real frames, where every row is one video.
      deterministic: no dropout.
    """
    layout = _as_layout(layout)
    seeds = self._seeds(layout, deterministic)
    return {n: getattr(self, n).encode_frames(frames, layout, seeds) for n in self.branch_names}

  def encode_tokens(self, tokens, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes tokens to one vector a caption.

    Args:
      tokens: `[Rw, W, Dq]`.
      layout: of the captions in the rows; or a mask `[Rw, W]`, true at real tokens, where every row is one caption.
      deterministic: no dropout.

    Returns:
      `{branch: [Rw, S, H]}` by slots; `{branch: [Rw, H]}` where a mask was given.
    """
    placed = _as_layout(layout)
    seeds = self._seeds(placed, deterministic)
    slots = {n: getattr(self, n).encode_tokens(tokens, placed, seeds) for n in self.branch_names}
    return slots if isinstance(layout, Layout) else {n: vectors[:, 0] for n, vectors in slots.items()}

  def _seeds(self, layout: Layout, deterministic: bool) -> PositionSeeds | None:
    if deterministic or self.input_dropout == self.dropout == 0.0:
      return None
    return draw_seeds(self.make_rng('dropout'), layout)

  def __call__(self, frames, frame_layout, tokens, token_layout, deterministic: bool = True):
    """Encodes both sides: returns the results of `encode_frames` and of `encode_tokens`."""
    return (
      self.encode_frames(frames, frame_layout, deterministic),
      self.encode_tokens(tokens, token_layout, deterministic),
    )


def _as_layout(layout: Layout | Array) -> Layout:
  return layout if isinstance(layout, Layout) else padded_layout(layout)


def init_parameters(student: Student, key: jax.Array, frame_features: int, token_features: int):
  """Draws the parameters of a student for inputs of the given feature sizes.

  Args:
    student: the module.
    key: typed PRNG key.
    frame_features: Dv.
    token_features: Dq.

  Returns:
    The pytree of float32 parameters.
  """
  frames = jnp.zeros((1, 1, frame_features))
  tokens = jnp.zeros((1, 1, token_features))
  mask = jnp.ones((1, 1), bool)
  return student.init(key, frames, mask, tokens, mask)['params']
