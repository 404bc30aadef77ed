"""The student of DL-DKD++: two branches of one shape that share nothing.

The inheritance branch learns from the teacher, the exploration branch from the data alone. A single-branch student
has the inheritance branch only.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

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
  """

  hidden: int
  heads: int
  max_frames: int
  max_words: int
  input_dropout: float
  dropout: float

  def setup(self):
    def encoder(positions):
      return SequenceEncoder(self.hidden, self.heads, positions, self.input_dropout, self.dropout)

    self.frame_encoder = encoder(self.max_frames)
    self.token_encoder = encoder(self.max_words)
    self.frame_projection = dense(self.hidden)
    self.token_pooling = dense(1, use_bias=False)

  def encode_frames(self, frames, mask, deterministic: bool) -> jax.Array:
    """Encodes frames `[B, L, Dv]` with mask `[B, L]` to `[B, L, H]`; rows of padded frames mean nothing."""
    return self.frame_projection(self.frame_encoder(frames, mask, deterministic))

  def encode_tokens(self, tokens, mask, deterministic: bool) -> jax.Array:
    """Encodes tokens `[Q, W, Dq]` with mask `[Q, W]` to one vector a caption, `[Q, H]`."""
    states = self.token_encoder(tokens, mask, deterministic)
    scores = jnp.where(mask, self.token_pooling(states)[..., 0], _PADDED_SCORE)
    return jnp.einsum('qw,qwh->qh', nn.softmax(scores, axis=-1), states)


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
  """

  hidden: int = 384
  heads: int = 4
  max_frames: int = 128
  max_words: int = 30
  input_dropout: float = 0.2
  dropout: float = 0.2
  dual: bool = True

  @property
  def branch_names(self) -> tuple[str, ...]:
    """Names of the branches, inheritance first."""
    return (INHERITANCE, EXPLORATION) if self.dual else (INHERITANCE,)

  def setup(self):
    if self.hidden % self.heads:
      raise ValueError(f'hidden size {self.hidden} is not divisible by {self.heads} attention heads.')
    for name in self.branch_names:
      branch = Branch(
        self.hidden,
        self.heads,
        self.max_frames,
        self.max_words,
        self.input_dropout,
        self.dropout,
      )
      setattr(self, name, branch)

  def encode_frames(self, frames, mask, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes frames `[B, L, Dv]` with mask `[B, L]` to `{branch: [B, L, H]}`."""
    return {n: getattr(self, n).encode_frames(frames, mask, deterministic) for n in self.branch_names}

  def encode_tokens(self, tokens, mask, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes tokens `[Q, W, Dq]` with mask `[Q, W]` to `{branch: [Q, H]}`."""
    return {n: getattr(self, n).encode_tokens(tokens, mask, deterministic) for n in self.branch_names}

  def __call__(self, frames, frame_mask, tokens, token_mask, deterministic: bool = True):
    """Encodes both sides: returns (`{branch: [B, L, H]}`, `{branch: [Q, H]}`)."""
    return (
      self.encode_frames(frames, frame_mask, deterministic),
      self.encode_tokens(tokens, token_mask, deterministic),
    )


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
