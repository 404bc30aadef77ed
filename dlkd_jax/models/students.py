"""What a student is, and making the one that `config.model.name` names.

A student outside of this package is a Flax module that fulfils `Student`, named as 'package.module:Class'. Its fields
are filled from `config.model` by name, as far as it has them, from `config.model.options` (fields of its own), and with
`max_frames`, `max_words` and `dtype`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from dlkd_jax import plugins
from dlkd_jax.errors import UserError
from dlkd_jax.layout import Array, Layout
from dlkd_jax.models.dldkd import DlDkdStudent

# Students of this package by name; the modules of others than the paper's are imported where they are asked for.
STUDENTS = {
  'dldkd': DlDkdStudent,
  'anchored': 'dlkd_jax.models.anchored:AnchoredStudent',
  'plus': 'dlkd_jax.models.plus:PlusStudent',
}
# Fields of `config.model` that are no field of a student.
_NOT_OF_A_STUDENT = ('name', 'options', 'precision')


class Student(Protocol):
  """A Flax module (hashable: equal students are compiled once) that encodes videos and captions for its branches.

  A branch scores a caption and a video by the largest cosine of the caption's vector and any of the video's. No result
  may depend on how sequences are packed into rows or what lies beside them: with `dlkd_jax.models.dropout`, not even
  what is dropped.

  Attributes:
    branches: names of the branches, those of `config.model.branches`.
    dtype: of matrix products.
  """

  branches: tuple[str, ...]
  dtype: Any

  def layouts(self, layout: Layout) -> dict[str, Layout]:
    """Tells where the vectors of the videos lie in what `encode_frames` returns, without any parameters.

    Args:
      layout: of the frames that are given.

    Returns:
      branch → layout of `[R, L_b]` positions with the same videos in the same slots (`ordinals` and `where` are those
      given); `layout` itself where a branch has one vector a frame, as a distilled one must. A video never has more
      vectors than frames.
    """

  def encode_frames(self, frames: Array, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes unit rows of frames `[R, L, Dv]` to `{branch: [R, L_b, H_b]}`; what is padded means nothing.

    The layout may be a mask `[R, L]`, true at real frames, where every row is one video. With `deterministic` there is
    no dropout; without, the 'dropout' stream of random numbers is given.
    """

  def encode_tokens(self, tokens: Array, layout: Layout | Array, deterministic: bool = True) -> dict[str, jax.Array]:
    """Encodes unit rows of tokens `[Rw, W, Dq]` to a vector a slot, `[Rw, S, H_b]`; to `[Rw, H_b]` with a mask.

    Where batches have `query_anchors` (`dlkd_jax.data.batch`), training hands them on as `anchors`.
    """

  def __call__(self, frames, frame_layout, tokens, token_layout, deterministic: bool = True):
    """Encodes both sides; parameters are initialised by it."""

  def apply(self, variables: Any, *args: Any, rngs: Any = None, method: str | None = None, **kwargs: Any) -> Any:
    """Of `flax.linen.Module`."""

  def init(self, rngs: Any, *args: Any) -> Any:
    """Of `flax.linen.Module`."""


def product_dtype(config: ml_collections.ConfigDict, platform: str | None = None) -> Any:
  """Returns the type of matrix products; where `model.precision` is 'auto', float32 on a CPU and bfloat16 elsewhere."""
  auto = 'float32' if (platform or jax.default_backend()) == 'cpu' else 'bfloat16'
  return jnp.dtype(auto if config.model.precision == 'auto' else config.model.precision)


def make_student(config: ml_collections.ConfigDict, platform: str | None = None) -> Student:
  """Makes the student of a configuration for a platform, by default the one at hand.

  Raises:
    UserError: there is no such student, or it has no such option.
  """
  model, data = config.model, config.data
  kind = plugins.find(model.name, STUDENTS, 'config.model.name')
  if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
    raise UserError(f'config.model.name is {model.name!r}, which is no class of a Flax module.')
  fields = {field.name for field in dataclasses.fields(kind)}
  if odd := sorted({*model.options} - fields):
    raise UserError(f'the student {model.name!r} has no option {", ".join(odd)} (config.model.options).')
  given = {name: value for name, value in model.items() if name not in _NOT_OF_A_STUDENT}
  given |= {'max_frames': data.max_frames, 'max_words': data.max_words, 'dtype': product_dtype(config, platform)}
  if kind is DlDkdStudent:  # The fields of `config.model` are its own.
    del given['distilled']
  else:
    given = {name: value for name, value in given.items() if name in fields}
  return kind(**given, **model.options)


def teacher_features(config: ml_collections.ConfigDict) -> int:
  """Returns how many features of the teacher a student sees behind its own in every row; 0: none."""
  return config.model.options.get('teacher_features') or 0


def learns_from_teacher(config: ml_collections.ConfigDict) -> bool:
  """Whether a student learns from the teacher: in its training, or in the anchors that it starts from."""
  anchored = config.model.name == 'anchored' and {*config.model.branches} != {'exploration'}
  return config.loss.teacher or anchored


def init_parameters(student: Student, key: jax.Array, frame_features: int, token_features: int) -> Any:
  """Draws the parameters of a student, a pytree of float32, for inputs of the sizes Dv and Dq."""
  frames, tokens = jnp.zeros((1, 1, frame_features)), jnp.zeros((1, 1, token_features))
  mask = jnp.ones((1, 1), bool)
  return student.init(key, frames, mask, tokens, mask)['params']
