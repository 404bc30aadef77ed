"""The student of DL-DKD++: branches of one shape that share nothing.

The paper has two: one learns from the teacher, the other from the data alone. What tells them apart is in the losses.
Sizes: R rows of L frames, Rw rows of W tokens, S slots a row (captions that may share it), D features, H hidden.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Array, Layout, padded_layout
from dlkd_jax.models.dropout import dropping
from dlkd_jax.models.layers import SequenceEncoder, dense

_PADDED_SCORE = -1e10


class Branch(nn.Module):
  """One branch: an encoder for frames, one for tokens, and the heads of both.

  Attributes are those of `DlDkdStudent`, what makes the attention among frames (None: the paper's), and the size of the
  feed-forward parts by H (0: none, as in the paper).
  """

  hidden: int
  heads: int
  max_frames: int
  max_words: int
  input_dropout: float
  dropout: float
  dtype: Any
  frame_attention: Any
  feed_forward: int

  def setup(self):
    def encoder(positions, attention):
      sizes = self.hidden, self.heads, positions, self.input_dropout, self.dropout
      return SequenceEncoder(*sizes, self.dtype, attention, self.feed_forward)

    self.frame_encoder = encoder(self.max_frames, self.frame_attention)
    self.token_encoder = encoder(self.max_words, None)
    self.frame_projection = dense(self.hidden, dtype=self.dtype)
    self.token_pooling = dense(1, use_bias=False)

  def encode_frames(self, frames, layout: Layout, deterministic: bool) -> jax.Array:
    """Encodes frames `[R, L, Dv]` to `[R, L, H]`; padded frames mean nothing."""
    return self.frame_projection(self.frame_encoder(frames, layout, deterministic))

  def encode_tokens(self, tokens, layout: Layout, deterministic: bool) -> jax.Array:
    """Encodes tokens `[Rw, W, Dq]` to one vector a slot, `[Rw, S, H]`; empty slots mean nothing."""
    states = self.token_encoder(tokens, layout, deterministic)
    scores = self.token_pooling(states)[..., 0][:, None]
    weights = nn.softmax(jnp.where(layout.by_slot, scores, _PADDED_SCORE), axis=-1)
    pooled = jnp.einsum('rsw,rwh->rsh', weights.astype(self.dtype), states, preferred_element_type=jnp.float32)
    return pooled.astype(self.dtype)


class DlDkdStudent(nn.Module):
  """The student of the paper; see `dlkd_jax.models.students.Student`.

  Parameters are named `<branch>/{frame_encoder,token_encoder,frame_projection,token_pooling}/…`. Two branches have
  about 5.8 M of them at TVR sizes (Dv 3072, Dq 768), 4.4 M at ActivityNet's and Charades' (1024, 1024).

  Attributes:
    hidden: H, size of the space in which queries and frames meet.
    heads: attention heads; divides H.
    max_frames: longest video, in frames.
    max_words: longest caption, in tokens.
    input_dropout, dropout: rates of the input features and inside the encoders, in [0, 1).
    branches: their names.
    dtype: of matrix products and activations: float32, or bfloat16 for accelerators. Parameters, means, variances and
      softmax stay float32.
  """

  hidden: int
  heads: int
  max_frames: int
  max_words: int
  input_dropout: float
  dropout: float
  branches: tuple[str, ...]
  dtype: Any

  def setup(self):
    if self.hidden % self.heads:
      raise UserError(f'hidden size {self.hidden} is not divisible by {self.heads} attention heads.')
    for name in self.branches:
      setattr(self, name, self.make_branch(name))

  @nn.nowrap
  def make_branch(self, name: str) -> Branch:
    """Makes the branch of a name."""
    del name
    sizes = self.hidden, self.heads, self.max_frames, self.max_words
    return Branch(*sizes, self.input_dropout, self.dropout, self.dtype, frame_attention=None, feed_forward=0)

  @nn.nowrap
  def layouts(self, layout: Layout) -> dict[str, Layout]:
    """Every branch has one vector a frame."""
    return dict.fromkeys(self.branches, layout)

  def encode_frames(self, frames, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes frames `[R, L, Dv]` to `{branch: [R, L, H]}`."""
    layout = layout if isinstance(layout, Layout) else padded_layout(layout)
    with dropping(self._dropout_key(deterministic), layout):
      return {n: getattr(self, n).encode_frames(frames, layout, deterministic) for n in self.branches}

  def encode_tokens(self, tokens, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes tokens `[Rw, W, Dq]` to `{branch: [Rw, S, H]}` by slots; to `{branch: [Rw, H]}` with a mask."""
    placed = layout if isinstance(layout, Layout) else padded_layout(layout)
    with dropping(self._dropout_key(deterministic), placed):
      slots = {n: getattr(self, n).encode_tokens(tokens, placed, deterministic) for n in self.branches}
    return slots if placed is layout else {n: vectors[:, 0] for n, vectors in slots.items()}

  def _dropout_key(self, deterministic: bool) -> jax.Array | None:
    return None if deterministic or self.input_dropout == self.dropout == 0.0 else self.make_rng('dropout')

  def __call__(self, frames, frame_layout, tokens, token_layout, deterministic: bool = True):
    """Encodes both sides: returns the results of `encode_frames` and of `encode_tokens`."""
    return (
      self.encode_frames(frames, frame_layout, deterministic),
      self.encode_tokens(tokens, token_layout, deterministic),
    )
