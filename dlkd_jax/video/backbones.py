"""What turns pictures and sentences into features, named by a short text on the command line.

| name | pictures | sentences |
|---|---|---|
| clip:DIR | the joint space, Dt features | the joint space; tokens are the text tower's last states |
| clip:DIR@layer=-2 | the class state after that block, less its mean | the joint space; tokens after that block |
| efficientnet_lite0:FILE.safetensors | 1,280 features of ImageNet | |
| statistics | colours, gradients and positions, no weights | |
| words:256 | | a fixed random vector a word; a character and a pair, of scripts without spaces |
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.files import expand

FRAME_SPECS = 'clip:DIR, clip:DIR@layer=-2, efficientnet_lite0:FILE.safetensors, statistics'
TEXT_SPECS = 'clip:DIR, clip:DIR@layer=-2, words:256'


class FrameBackbone(Protocol):
  """Features of pictures.

  Attributes:
    name: the text that it was opened by, without folders.
    features: D.
    fingerprint: differs between backbones that give different features; the same for the same weights anywhere.
  """

  name: str
  features: int
  fingerprint: str

  def prepare(self, image: np.ndarray) -> np.ndarray:
    """Makes of a picture, uint8 [H, W, 3], what `encode` takes; may be called from several threads."""

  def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of prepared pictures; a picture's do not depend on the others."""

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of pictures, uint8 [H, W, 3] RGB of any sizes."""


class TextBackbone(Protocol):
  """Features of sentences.

  Attributes:
    name, fingerprint: as of a `FrameBackbone`.
    token_features: Dq.
    sentence_features: Dt.
  """

  name: str
  token_features: int
  sentence_features: int
  fingerprint: str

  def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the features of each sentence's tokens in their order, float32 [n_i, Dq], n_i at least 1."""

  def sentences(self, texts: Sequence[str]) -> np.ndarray:
    """Returns one vector a sentence, float32 [N, Dt]."""

  def reads(self, text: str) -> tuple[int, int, int]:
    """Returns how many tokens a sentence has, how many of them are read, and how many of these are known."""


def open_frame_backbone(spec: str) -> FrameBackbone:
  """Opens what a text names; the module lists the names.

  Raises:
    ValueError: there is no such backbone, or its files are not what they should be.
    OSError: its files are absent.
  """
  kind, where, options = _parse(spec)
  if kind == 'statistics' and not where and not options:
    from dlkd_jax.video.picture_statistics import PictureStatistics

    return PictureStatistics()
  if kind == 'clip' and where and options.keys() <= {'layer'}:
    layer = _layer(spec, options)
    from dlkd_jax.video.clip_backbone import ClipFrames

    return ClipFrames(expand(where), layer)
  if kind == 'efficientnet_lite0' and where and not options:
    from dlkd_jax.video.efficientnet_backbone import EfficientNetFrames

    return EfficientNetFrames(expand(where))
  raise UserError(f'there is no backbone of frames {spec!r}; expected one of {FRAME_SPECS}')


def open_text_backbone(spec: str) -> TextBackbone:
  """Opens what a text names; errors are those of `open_frame_backbone`."""
  kind, where, options = _parse(spec)
  if kind == 'words' and not options:
    from dlkd_jax.video.word_vectors import WordVectors

    if where and not (where.isdecimal() and int(where) > 0):
      raise UserError(f'{spec!r}: expected the number of features after the colon, as words:256')
    return WordVectors(int(where or 256))
  if kind == 'clip' and where and options.keys() <= {'layer'}:
    layer = _layer(spec, options)
    from dlkd_jax.video.clip_backbone import ClipText

    return ClipText(expand(where), layer)
  raise UserError(f'there is no backbone of sentences {spec!r}; expected one of {TEXT_SPECS}')


def forget_files() -> None:
  """Frees what was kept of files that several backbones share; to be called once all of them are open."""
  if module := sys.modules.get('dlkd_jax.video.clip_backbone'):
    module.forget()
    if hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
      libc.malloc_trim(0)  # The C library of Linux would keep most of the room for itself.


def _parse(spec: str) -> tuple[str, str, dict[str, str]]:
  """Returns kind, what follows the colon, and the options behind an @ at the end."""
  kind, _, rest = spec.partition(':')
  where, at, tail = rest.rpartition('@')
  if not at or '=' not in tail:  # A folder's name may hold an @.
    return kind, rest, {}
  return kind, where, dict(part.partition('=')[::2] for part in tail.split(','))


def _layer(spec: str, options: dict[str, Any]) -> int | None:
  """Returns the layer of the options; None where none is named."""
  if 'layer' not in options:
    return None
  try:
    return int(options['layer'])
  except ValueError as error:
    raise UserError(f'{spec!r}: layer is {options["layer"]!r}; expected a whole number, as layer=-2') from error
