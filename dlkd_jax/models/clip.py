"""The image and text towers of CLIP in Flax: the teacher, frozen, of every size that a vision transformer comes in.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", https://arxiv.org/abs/2103.00020.

Sizes: N images or texts, S pixels a side, P patches, T tokens, C width of a tower, D features (Dt of the teacher).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

# The scale of the logits that training starts from: log(1 / 0.07).
LOGIT_SCALE = 2.6592
# Added to attention scores of later tokens; finite, since the product may be bfloat16.
_LATER = -1e9


def quick_gelu(x: jax.Array) -> jax.Array:
  """The approximation x·sigmoid(1.702x) that OpenAI's weights were trained with."""
  return x * nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
  """x·Φ(x), as most of OpenCLIP's weights were trained with."""
  return nn.gelu(x, approximate=False)


def tanh_gelu(x: jax.Array) -> jax.Array:
  """The approximation of x·Φ(x) by a hyperbolic tangent, which some of OpenCLIP's weights were trained with."""
  return nn.gelu(x, approximate=True)


ACTIVATIONS = {'quick_gelu': quick_gelu, 'gelu': exact_gelu, 'gelu_tanh': tanh_gelu}


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """The size of one transformer.

  Attributes:
    width: C.
    layers: residual blocks.
    heads: attention heads; divides the width.
    hidden: units of the feed-forward part.
    activation: of the feed-forward part, one of `ACTIVATIONS`.
    epsilon: of the layer normalisations.
  """

  width: int
  layers: int
  heads: int
  hidden: int
  activation: str = 'quick_gelu'
  epsilon: float = 1e-5

  def __post_init__(self):
    """Checks the fields.

    Raises:
      ValueError: one of them makes no transformer.
    """
    if min(self.width, self.layers, self.heads, self.hidden) < 1 or self.width % self.heads:
      raise ValueError(f'{self}: expected sizes of 1 and more, and a width that the heads divide.')
    if self.activation not in ACTIVATIONS:
      raise ValueError(f'unknown activation {self.activation!r}; expected one of {sorted(ACTIVATIONS)}.')


@dataclasses.dataclass(frozen=True)
class ImageConfig:
  """The image tower: its transformer, side of the images and of a patch in pixels."""

  tower: TowerConfig
  size: int
  patch: int

  @property
  def patches(self) -> int:
    """P, patches of one image."""
    return (self.size // self.patch) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The text tower.

  Attributes:
    tower: its transformer.
    vocabulary: token ids.
    context: T at most.
    end: id of the token at whose first place a text's feature is read; None takes the largest id of each text, which is
      the end token of OpenAI's vocabulary.
  """

  tower: TowerConfig
  vocabulary: int = 49408
  context: int = 77
  end: int | None = None


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Both towers, and D, the size of the space in which they meet."""

  image: ImageConfig
  text: TextConfig
  features: int


def _size(features, size, patch, image, text, activation='quick_gelu', mlp=4.0) -> ClipConfig:
  def tower(width, layers, heads, mlp=4.0):
    return TowerConfig(width, layers, heads, round(width * mlp), activation)

  return ClipConfig(ImageConfig(tower(*image, mlp), size, patch), TextConfig(tower(*text)), features)


# Image and text towers as (width, layers, heads). The first four are OpenAI's; OpenCLIP trained those with either
# activation, and the larger ones.
SIZES = {
  'ViT-B/32': _size(512, 224, 32, (768, 12, 12), (512, 12, 8)),
  'ViT-B/16': _size(512, 224, 16, (768, 12, 12), (512, 12, 8)),
  'ViT-L/14': _size(768, 224, 14, (1024, 24, 16), (768, 12, 12)),
  'ViT-L/14@336': _size(768, 336, 14, (1024, 24, 16), (768, 12, 12)),
  'ViT-H/14': _size(1024, 224, 14, (1280, 32, 16), (1024, 24, 16), 'gelu'),
  'ViT-g/14': _size(1024, 224, 14, (1408, 40, 16), (1024, 24, 16), 'gelu', 4.3637),
  'ViT-bigG/14': _size(1280, 224, 14, (1664, 48, 16), (1280, 32, 20), 'gelu', 4.9231),
}


class ImageOutput(NamedTuple):
  """Of images: `features` `[N, D]`, not normalised, and `states` `[N, 1 + P, C]` behind the last block."""

  features: jax.Array
  states: jax.Array


class TextOutput(NamedTuple):
  """Of texts: `features` `[N, D]`, not normalised, and `states` `[N, T, C]` behind the last normalisation."""

  features: jax.Array
  states: jax.Array


class Attention(nn.Module):
  """Multi-head self-attention."""

  config: TowerConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, causal: bool) -> jax.Array:
    """Maps `[N, T, C]` to `[N, T, C]`; where `causal`, no token sees later ones."""
    heads, length = self.config.heads, x.shape[1]
    size = self.config.width // heads

    def project(name):
      return nn.Dense(self.config.width, dtype=self.dtype, name=name)

    query, key, value = (project(name)(x).reshape(*x.shape[:2], heads, size) for name in ('query', 'key', 'value'))
    scores = jnp.einsum('nqhd,nkhd->nhqk', query, key, preferred_element_type=jnp.float32) * size**-0.5
    if causal:
      scores = jnp.where(jnp.tri(length, dtype=bool)[None, None], scores, _LATER)
    weights = nn.softmax(scores, axis=-1).astype(self.dtype)
    return project('output')(jnp.einsum('nhqk,nkhd->nqhd', weights, value).reshape(x.shape))


class Block(nn.Module):
  """Residual block, normalised first: x + attention(norm(x)), then x + feed-forward(norm(x))."""

  config: TowerConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, causal: bool) -> jax.Array:
    """Maps `[N, T, C]` to `[N, T, C]`."""
    config = self.config
    x = x + Attention(config, self.dtype, name='attention')(norm(config, self.dtype, 'attention_norm')(x), causal)
    hidden = nn.Dense(config.hidden, dtype=self.dtype, name='expand')(norm(config, self.dtype, 'mlp_norm')(x))
    return x + nn.Dense(config.width, dtype=self.dtype, name='project')(ACTIVATIONS[config.activation](hidden))


def norm(config: TowerConfig, dtype: Any, name: str) -> nn.LayerNorm:
  """Returns a layer normalisation of a tower."""
  return nn.LayerNorm(epsilon=config.epsilon, use_fast_variance=False, dtype=dtype, name=name)


def check_images(config: ImageConfig, pixels: jax.Array, layers: int | None) -> None:
  """Checks what an image tower is asked for.

  Raises:
    ValueError: the images are not `[N, S, S, 3]`, or there are not so many blocks.
  """
  if pixels.shape[1:] != (config.size, config.size, 3):
    raise ValueError(f'expected images [N, {config.size}, {config.size}, 3], found {list(pixels.shape)}.')
  if layers is not None and not 0 < layers <= config.tower.layers:
    raise ValueError(f'layer {layers} was asked for, and the image tower has 1 to {config.tower.layers}.')


class ImageTower(nn.Module):
  """A vision transformer whose first position is the class token; its state becomes the image's feature."""

  config: ImageConfig
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pixels: jax.Array, layers: int | None = None) -> ImageOutput:
    """Encodes normalised images `[N, S, S, 3]`.

    Args:
      pixels: the images.
      layers: only so many blocks are run for `states`; None runs all.

    Raises:
      ValueError: the images have another size, or there are not so many blocks.
    """
    config, tower = self.config, self.config.tower
    check_images(config, pixels, layers)
    patch = (config.patch, config.patch)
    patches = nn.Conv(tower.width, patch, patch, 'VALID', use_bias=False, dtype=self.dtype, name='patches')(pixels)
    patches = patches.reshape(len(pixels), -1, tower.width)
    class_token = self.param('class_token', nn.initializers.normal(tower.width**-0.5), (tower.width,))
    shape = (1 + config.patches, tower.width)
    positions = self.param('positions', nn.initializers.normal(tower.width**-0.5), shape)
    first = jnp.broadcast_to(class_token.astype(self.dtype), (len(pixels), 1, tower.width))
    x = jnp.concatenate([first, patches], axis=1) + positions.astype(self.dtype)[None]
    x = norm(tower, self.dtype, 'input_norm')(x)
    for layer in range(tower.layers if layers is None else layers):
      x = Block(tower, self.dtype, name=f'block_{layer:02}')(x, causal=False)
    summary = norm(tower, self.dtype, 'output_norm')(x[:, 0])
    features = nn.Dense(self.features, use_bias=False, dtype=self.dtype, name='projection')(summary)
    return ImageOutput(features.astype(jnp.float32), x.astype(jnp.float32))


class TextTower(nn.Module):
  """A causal transformer; the state at the end token becomes the text's feature."""

  config: TextConfig
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ids: jax.Array) -> TextOutput:
    """Encodes token ids `[N, T]` int32, T at most the context; what follows the end token changes no feature.

    Raises:
      ValueError: the texts are longer than the context.
    """
    config, tower, length = self.config, self.config.tower, ids.shape[1]
    if length > config.context:
      raise ValueError(f'texts of {length} tokens, and the text tower has {config.context} positions; cut them.')
    x = nn.Embed(config.vocabulary, tower.width, dtype=self.dtype, name='tokens')(ids)
    positions = self.param('positions', nn.initializers.normal(0.01), (config.context, tower.width))
    x = x + positions[None, :length].astype(self.dtype)
    for layer in range(tower.layers):
      x = Block(tower, self.dtype, name=f'block_{layer:02}')(x, causal=True)
    x = norm(tower, self.dtype, 'output_norm')(x)
    last = jnp.argmax(ids if config.end is None else ids == config.end, axis=1)
    summary = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    features = nn.Dense(self.features, use_bias=False, dtype=self.dtype, name='projection')(summary)
    return TextOutput(features.astype(jnp.float32), x.astype(jnp.float32))


class Clip(nn.Module):
  """Both towers and the scale of their cosines; parameters are named `image/…`, `text/…` and `logit_scale`.

  Attributes:
    config: sizes.
    dtype: of products and activations; parameters, softmax, means and variances and the results are float32.
  """

  config: ClipConfig
  dtype: Any = jnp.float32

  def setup(self):
    self.image = ImageTower(self.config.image, self.config.features, self.dtype)
    self.text = TextTower(self.config.text, self.config.features, self.dtype)
    self.logit_scale = self.param('logit_scale', nn.initializers.constant(LOGIT_SCALE), ())

  def encode_image(self, pixels: jax.Array, layers: int | None = None) -> ImageOutput:
    """Encodes normalised images `[N, S, S, 3]`; see `ImageTower`."""
    return self.image(pixels, layers)

  def encode_text(self, ids: jax.Array) -> TextOutput:
    """Encodes token ids `[N, T]`; see `TextTower`."""
    return self.text(ids)

  def __call__(self, pixels: jax.Array, ids: jax.Array) -> tuple[ImageOutput, TextOutput]:
    """Encodes both."""
    return self.image(pixels), self.text(ids)
