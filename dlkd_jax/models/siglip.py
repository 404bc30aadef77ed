"""The image and text towers of SigLIP, and of SigLIP 2 at a fixed resolution, in Flax.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", https://arxiv.org/abs/2303.15343; Tschannen et al., "SigLIP
2", https://arxiv.org/abs/2502.14786. They differ from CLIP's (`models.clip`) in what is around the blocks: no class
token, an image is summed up by attention; texts are padded to one length and not masked, and their last place is read.

Sizes: N images or texts, S pixels a side, P patches, T tokens, C width of a tower, D features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlkd_jax.models import clip
from dlkd_jax.models.clip import Block, ImageConfig, ImageOutput, TextConfig, TextOutput, TowerConfig


@dataclasses.dataclass(frozen=True)
class SiglipConfig(clip.ClipConfig):
  """Both towers, and D: the width of the image tower. `text.context` is the length T of every text."""


class AttentionPool(nn.Module):
  """Sums up the patches of an image: one learned query attends to them, and a residual feed-forward part follows."""

  config: TowerConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[N, P, C]` to `[N, C]`."""
    config = self.config
    probe = self.param('probe', nn.initializers.xavier_uniform(), (1, 1, config.width)).astype(self.dtype)

    def project(name, x):
      return nn.Dense(config.width, dtype=self.dtype, name=name)(x)

    heads = (config.heads, config.width // config.heads)
    query = project('query', probe[0, 0]).reshape(heads)
    key, value = (project(name, x).reshape(*x.shape[:2], *heads) for name in ('key', 'value'))
    scores = jnp.einsum('hd,nkhd->nhk', query, key, preferred_element_type=jnp.float32) * heads[1] ** -0.5
    weights = nn.softmax(scores, axis=-1).astype(self.dtype)
    x = project('output', jnp.einsum('nhk,nkhd->nhd', weights, value).reshape(len(x), config.width))
    hidden = nn.Dense(config.hidden, dtype=self.dtype, name='expand')(clip.norm(config, self.dtype, 'norm')(x))
    return x + nn.Dense(config.width, dtype=self.dtype, name='project')(clip.ACTIVATIONS[config.activation](hidden))


class ImageTower(nn.Module):
  """A vision transformer without a class token."""

  config: ImageConfig
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pixels: jax.Array, layers: int | None = None) -> ImageOutput:
    """Encodes normalised images `[N, S, S, 3]`.

    Args:
      pixels: the images.
      layers: `states` are those behind so many blocks; None takes those behind the last normalisation.

    Returns:
      `states` are `[N, P, C]`; `features` are those of all blocks, or of as many as are run.

    Raises:
      ValueError: the images have another size, or there are not so many blocks.
    """
    config, tower = self.config, self.config.tower
    clip.check_images(config, pixels, layers)
    patch = (config.patch, config.patch)
    x = nn.Conv(tower.width, patch, patch, 'VALID', dtype=self.dtype, name='patches')(pixels)
    positions = self.param('positions', nn.initializers.normal(0.02), (config.patches, tower.width))
    x = x.reshape(len(pixels), -1, tower.width) + positions.astype(self.dtype)[None]
    for layer in range(tower.layers if layers is None else layers):
      x = Block(tower, self.dtype, name=f'block_{layer:02}')(x, causal=False)
    normed = clip.norm(tower, self.dtype, 'output_norm')(x)
    features = AttentionPool(tower, self.dtype, name='pool')(normed)
    return ImageOutput(features.astype(jnp.float32), (normed if layers is None else x).astype(jnp.float32))


class TextTower(nn.Module):
  """A transformer in which every token sees all, padding too; the state at the last place becomes the feature."""

  config: TextConfig
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ids: jax.Array) -> TextOutput:
    """Encodes token ids `[N, T]` int32, padded as in training.

    Raises:
      ValueError: the texts have another length than the model was trained with.
    """
    config, tower = self.config, self.config.tower
    if ids.shape[1] != config.context:
      raise ValueError(f'texts of {ids.shape[1]} tokens; the text tower reads {config.context}, padding included.')
    x = nn.Embed(config.vocabulary, tower.width, dtype=self.dtype, name='tokens')(ids)
    positions = self.param('positions', nn.initializers.normal(0.02), (config.context, tower.width))
    x = x + positions[None].astype(self.dtype)
    for layer in range(tower.layers):
      x = Block(tower, self.dtype, name=f'block_{layer:02}')(x, causal=False)
    x = clip.norm(tower, self.dtype, 'output_norm')(x)
    features = nn.Dense(self.features, dtype=self.dtype, name='projection')(x[:, -1])
    return TextOutput(features.astype(jnp.float32), x.astype(jnp.float32))


class Siglip(clip.Clip):
  """Both towers, and what makes logits of their cosines: exp(`logit_scale`)·cosine + `logit_bias`.

  A ranking of images by one text, or of texts by one image, needs neither scale nor bias.
  """

  config: SiglipConfig

  def setup(self):
    self.image = ImageTower(self.config.image, self.config.features, self.dtype)
    self.text = TextTower(self.config.text, self.config.features, self.dtype)
    self.logit_scale = self.param('logit_scale', nn.initializers.constant(clip.LOGIT_SCALE), ())
    self.logit_bias = self.param('logit_bias', nn.initializers.zeros, ())
