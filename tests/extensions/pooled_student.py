"""A student of another architecture: its first branch has a vector a frame, the others a few of equal parts a video."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.layout import Array, Layout, padded_layout


class PooledStudent(nn.Module):
  """See `dlkd_jax.models.students.Student`; `vectors` of a video are those of `config.model.options`."""

  hidden: int
  branches: tuple[str, ...]
  dtype: Any
  vectors: int

  def setup(self) -> None:
    for name in self.branches:
      setattr(self, f'{name}_frames', nn.Dense(self.hidden, dtype=self.dtype))
      setattr(self, f'{name}_tokens', nn.Dense(self.hidden, dtype=self.dtype))

  @nn.nowrap
  def layouts(self, layout: Layout) -> dict[str, Layout]:
    """Vector t of slot s lies at position s · vectors + t of its row."""
    counts = self._counts(layout)
    place = jnp.arange(layout.slots * self.vectors, dtype=jnp.int32)
    slot, position = place // self.vectors, place % self.vectors
    there = position[None] < jnp.minimum(counts, self.vectors)[:, slot]
    pooled = dataclasses.replace(
      layout, slot=jnp.where(there, slot[None], -1), position=jnp.where(there, position[None], 0)
    )
    return {name: layout if i == 0 else pooled for i, name in enumerate(self.branches)}

  def encode_frames(self, frames: Array, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    layout = layout if isinstance(layout, Layout) else padded_layout(layout)
    counts = jnp.take_along_axis(self._counts(layout), jnp.maximum(layout.slot, 0), axis=1)
    parts = layout.position * jnp.minimum(counts, self.vectors) // jnp.maximum(counts, 1)
    place = jnp.where(layout.mask, layout.slot * self.vectors + parts, -1)
    weights = (place[..., None] == jnp.arange(layout.slots * self.vectors)[None, None]).astype(frames.dtype)
    weights /= jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    pooled = jnp.einsum('rlp,rld->rpd', weights, frames)
    inputs = {name: frames if i == 0 else pooled for i, name in enumerate(self.branches)}
    return {name: getattr(self, f'{name}_frames')(x) for name, x in inputs.items()}

  def encode_tokens(self, tokens: Array, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    placed = layout if isinstance(layout, Layout) else padded_layout(layout)
    member = placed.slot[:, None] == jnp.arange(placed.slots)[None, :, None]
    means = jnp.einsum('rsw,rwd->rsd', member / jnp.maximum(member.sum(-1, keepdims=True), 1), tokens)
    encoded = {name: getattr(self, f'{name}_tokens')(means) for name in self.branches}
    return encoded if placed is layout else {name: x[:, 0] for name, x in encoded.items()}

  def __call__(
    self,
    frames: Array,
    frame_layout: Layout | Array,
    tokens: Array,
    token_layout: Layout | Array,
    deterministic: bool = True,
  ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    return self.encode_frames(frames, frame_layout), self.encode_tokens(tokens, token_layout)

  @nn.nowrap
  def _counts(self, layout: Layout) -> jax.Array:
    """Frames of each slot, `[R, S]`."""
    return (layout.slot[..., None] == jnp.arange(layout.slots)[None, None]).sum(axis=1)
