"""The student of the recipe argument `plus`: branches of the paper's shape with parts of later models, each by itself.

- **Clip tokens**: a branch that does not learn from the teacher's frames sees a video as a few clips, each the mean of
  so many consecutive frames (MS-SL and its successors), so that the two branches have different evidence.
- **Several widths**: frames attend to each other by several softmaxes over the same scores, damped with the distance in
  time by a Gaussian of each width, and every position learns how to mix what they give (GMMFormer v2). Queries, keys,
  values and all that follows are shared by the widths, where that model has an attention block for each.
- **A feed-forward part** behind the attention, for frames and for tokens.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Array, Layout, padded_layout
from dlkd_jax.models.dldkd import Branch, DlDkdStudent
from dlkd_jax.models.dropout import Dropout, dropping
from dlkd_jax.models.layers import LayerNorm, attention_bias, attention_scores, dense

# A width of 1 is a Gaussian whose standard deviation is a ninth of so many frames, as in GMMFormer v2.
_WIDTH_FRAMES = 128
_MIXER = 128  # Hidden features of what mixes the widths.


class WidthsAttention(nn.Module):
  """Attention at several widths, mixed at every position; the mix is sown as `measures/width_entropy` by position.

  Attributes:
    hidden, heads, dropout, dtype: as of `SelfAttention`.
    widths: of the Gaussians; 0 is attention without one.
    temperature: of the mix.
    frames: that a position stands for.
  """

  hidden: int
  heads: int
  dropout: float
  dtype: Any
  widths: tuple[float, ...]
  temperature: float
  frames: int

  @nn.compact
  def __call__(self, inputs: jax.Array, layout: Layout, deterministic: bool) -> jax.Array:
    """Maps `[R, T, H]` to `[R, T, H]`; a position attends to those of its own sequence."""
    rows, length, _ = inputs.shape
    split = (rows, length, self.heads, self.hidden // self.heads)
    query, key, value = (
      dense(self.hidden, name, dtype=self.dtype)(inputs).reshape(split) for name in ('query', 'key', 'value')
    )
    scores = attention_scores(query, key) / jnp.sqrt(float(split[3]))
    apart = (layout.position[:, :, None] - layout.position[:, None, :]) * (self.frames / _WIDTH_FRAMES)
    bias = attention_bias(layout)
    # One mask for all widths.
    drop = Dropout(self.dropout, name='probability_dropout'), Dropout(self.dropout, name='output_dropout')
    norm, found = LayerNorm(self.dtype, name='norm'), []
    for width in self.widths:
      damped = scores * jnp.exp(-0.5 * (9.0 * apart / width) ** 2)[:, None] if width else scores
      probabilities = drop[0](nn.softmax(damped + bias, axis=-1), deterministic)
      context = jnp.einsum('rhqk,rkhd->rqhd', probabilities.astype(self.dtype), value).reshape(inputs.shape)
      found.append(norm(inputs + drop[1](context, deterministic)))
    return self._mix(jnp.stack(found, axis=2), layout)

  def _mix(self, found: jax.Array, layout: Layout) -> jax.Array:
    """Mixes `[R, T, W, H]` to `[R, T, H]`, by each position and the mean of its sequence."""
    members = layout.by_slot.astype(jnp.float32)
    shares = members / jnp.maximum(members.sum(axis=2, keepdims=True), 1.0)
    means = jnp.einsum('rst,rtwh->rswh', shares.astype(self.dtype), found)
    of_sequence = dense(_MIXER, 'mix_sequence', use_bias=False, dtype=self.dtype)(means)
    of_sequence = jnp.einsum('rst,rswm->rtwm', members.astype(self.dtype), of_sequence)
    hidden = nn.relu(dense(_MIXER, 'mix_position', dtype=self.dtype)(found) + of_sequence)
    logits = dense(1, 'mix')(hidden)[..., 0].astype(jnp.float32) / self.temperature
    weights = nn.softmax(logits, axis=2)
    self.sow('measures', 'width_entropy', _entropy(weights))
    return jnp.einsum('rtw,rtwh->rth', weights.astype(self.dtype), found)


def _entropy(weights: jax.Array) -> jax.Array:
  """Entropy over the last axis, as a share of its largest value."""
  nats = -jnp.sum(weights * jnp.log(jnp.maximum(weights, 1e-12)), axis=-1)
  return jax.lax.stop_gradient(nats / jnp.log(float(max(2, weights.shape[-1]))))


def clip_layout(layout: Layout, frames: int) -> Layout:
  """Returns where the clips of a layout's videos lie: one video behind the other in a row, as they do.

  Args:
    layout: of L positions and S slots a row.
    frames: k of a clip. A video of n frames has ⌈n/k⌉ clips, of nearly equal sizes, which hold each frame once.

  Returns:
    The layout of ⌊(L + S(k − 1))/k⌋ positions a row, which suffice.
  """
  clips = -(-_counts(layout) // frames)
  ends = jnp.cumsum(clips, axis=1)
  width = (layout.slot.shape[1] + layout.slots * (frames - 1)) // frames
  place = jnp.arange(width, dtype=jnp.int32)[None, :, None]
  inside = (place >= (ends - clips)[:, None]) & (place < ends[:, None])
  slot = jnp.where(jnp.any(inside, axis=2), jnp.argmax(inside, axis=2), -1).astype(jnp.int32)
  position = jnp.sum(jnp.where(inside, place - (ends - clips)[:, None], 0), axis=2, dtype=jnp.int32)
  return layout.replace(slot=slot, position=position)


def clip_means(rows: jax.Array, layout: Layout, clips: Layout, frames: int) -> jax.Array:
  """Returns the mean of the frames `[R, L, D]` of each clip, of length 1: `[R, L_c, D]`, 0 where there is none."""
  slot = jnp.maximum(layout.slot, 0)
  of_video = jnp.take_along_axis(_counts(layout), slot, axis=1)
  # The clip that the middle of a frame lies in; an index spreads the vectors of clips over frames in this way, too.
  number = (2 * layout.position + 1) * -(-of_video // frames) // jnp.maximum(2 * of_video, 1)
  here = (clips.slot[:, :, None] == slot[:, None]) & (clips.position[:, :, None] == number[:, None])
  here = (here & layout.mask[:, None]).astype(rows.dtype)
  means = jnp.einsum('rpl,rld->rpd', here / jnp.maximum(here.sum(axis=2, keepdims=True), 1.0), rows)
  return means * jax.lax.rsqrt(jnp.maximum(jnp.sum(means * means, axis=-1, keepdims=True), 1e-24))


def _counts(layout: Layout) -> jax.Array:
  """Positions of the sequence in each slot, `[R, S]` int32."""
  return jnp.sum(layout.by_slot, axis=2, dtype=jnp.int32)


class PlusStudent(DlDkdStudent):
  """See `dlkd_jax.models.students.Student`, and the module's docstring; without any option it is `DlDkdStudent`.

  Attributes:
    distilled: branches that have a vector a frame; those of the others are of clips.
    frames_per_clip: 1: all branches have a vector a frame.
    widths: of the attention among frames, 0 for none; (): the attention of the paper.
    width_temperature: of their mix.
    feed_forward: hidden features of the feed-forward parts by H; 0: there are none.
  """

  distilled: tuple[str, ...] = ()
  frames_per_clip: int = 1
  widths: tuple[float, ...] = ()
  width_temperature: float = 0.6
  feed_forward: int = 0

  def setup(self):
    whole = {'frames_per_clip': 1, 'feed_forward': 0}
    for name, least in whole.items():
      if type(getattr(self, name)) is not int or getattr(self, name) < least:
        raise UserError(f'config.model.options.{name} is {getattr(self, name)!r}; expected a whole number from {least}')
    if any(width < 0 for width in self.widths) or self.width_temperature <= 0:
      raise UserError(
        f'config.model.options: widths {self.widths}, width_temperature {self.width_temperature}; expected numbers '
        'of 0 or more, and a positive one'
      )
    super().setup()

  @nn.nowrap
  def make_branch(self, name: str) -> Branch:
    """Makes the branch of a name."""
    frames, attention = 1 if name in self.distilled else self.frames_per_clip, None
    common = self.hidden, self.heads, self.dropout, self.dtype
    if self.widths:
      own = tuple(self.widths), self.width_temperature, frames
      attention = functools.partial(WidthsAttention, *common, *own)
    sizes = self.hidden, self.heads, -(-self.max_frames // frames), self.max_words
    return Branch(*sizes, self.input_dropout, self.dropout, self.dtype, attention, self.feed_forward)

  @nn.nowrap
  def layouts(self, layout: Layout) -> dict[str, Layout]:
    """Branches that are not distilled have a vector a clip."""
    clips = layout if self.frames_per_clip == 1 else clip_layout(layout, self.frames_per_clip)
    return {name: layout if name in self.distilled else clips for name in self.branches}

  def encode_frames(self, frames, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes frames `[R, L, Dv]` to `{branch: [R, L or L_c, H]}`."""
    layout = layout if isinstance(layout, Layout) else padded_layout(layout)
    layouts, encoded = self.layouts(layout), {}
    clipped = [name for name in self.branches if layouts[name] is not layout]
    parts = [([name for name in self.branches if name not in clipped], layout, frames)]
    if clipped:
      clips = layouts[clipped[0]]
      parts.append((clipped, clips, clip_means(frames, layout, clips, self.frames_per_clip)))
    for names, own, rows in parts:
      with dropping(self._dropout_key(deterministic), own):
        encoded |= {name: getattr(self, name).encode_frames(rows, own, deterministic) for name in names}
    return {name: encoded[name] for name in self.branches}
