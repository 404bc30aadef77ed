"""From pictures and sentences to what the towers of CLIP read, as its authors prepare them.

Sizes: N texts, T tokens, S pixels a side.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
from PIL import Image

from dlkd_jax.errors import UserError
from dlkd_jax.models.pictures import check_picture

# Of OpenAI's training pictures, in shares of 255.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_RESAMPLING = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic'}


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Shorter side to `resize` pixels, the middle square of `size` cut out, mean and spread of the training pictures.

  Attributes:
    size: S.
    resize: pixels of the shorter side before the cut; None: `size`.
    mean: of the three channels, in [0, 1].
    std: likewise.
    resampling: nearest, lanczos, bilinear or bicubic.
  """

  size: int = 224
  resize: int | None = None
  mean: tuple[float, float, float] = MEAN
  std: tuple[float, float, float] = STD
  resampling: str = 'bicubic'

  def __post_init__(self):
    """Checks the fields.

    Raises:
      ValueError: the sizes or the resampling cannot be.
    """
    if self.size < 1 or (self.resize or self.size) < self.size:
      raise UserError(f'a side of {self.size} pixels cannot be cut out of pictures resized to {self.resize}.')
    if self.resampling not in _RESAMPLING.values():
      raise UserError(f'unknown resampling {self.resampling!r}; expected one of {sorted(_RESAMPLING.values())}.')

  def crop(self, image: np.ndarray) -> np.ndarray:
    """Maps one RGB picture `[H, W, 3]` uint8 to its resized middle `[S, S, 3]` uint8.

    Raises:
      ValueError: the picture has another shape or type, or no pixels.
    """
    check_picture(image)
    height, width = image.shape[:2]
    short = self.resize or self.size
    scaled = (max(short, width * short // height), max(short, height * short // width))
    left, top = (scaled[0] - self.size) // 2, (scaled[1] - self.size) // 2
    resized = Image.fromarray(image).resize(scaled, Image.Resampling[self.resampling.upper()])
    return np.asarray(resized)[top : top + self.size, left : left + self.size]

  def normalize(self, crops: np.ndarray) -> np.ndarray:
    """Maps uint8 values `[…, 3]` to the float32 that the image tower reads."""
    mean, std = (np.asarray(x, np.float32) for x in (self.mean, self.std))
    return (crops.astype(np.float32) * np.float32(1 / 255) - mean) / std

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Maps one RGB picture `[H, W, 3]` uint8 to `[S, S, 3]` float32: crop, then normalize."""
    return self.normalize(self.crop(image))

  def as_json(self) -> dict[str, Any]:
    """Returns the content of a `preprocessor_config.json`."""
    numbers = {name: number for number, name in _RESAMPLING.items()}
    return {
      'image_processor_type': 'CLIPImageProcessor',
      'do_convert_rgb': True,
      'do_resize': True,
      'size': {'shortest_edge': self.resize or self.size},
      'resample': numbers[self.resampling],
      'do_center_crop': True,
      'crop_size': {'height': self.size, 'width': self.size},
      'do_rescale': True,
      'rescale_factor': 1 / 255,
      'do_normalize': True,
      'image_mean': list(self.mean),
      'image_std': list(self.std),
    }


def read_preprocess(path: pathlib.Path) -> Preprocess:
  """Reads a `preprocessor_config.json`, of either generation (sizes as numbers or as objects).

  Raises:
    ValueError: it is no JSON, or describes another way of preparing pictures than `Preprocess`.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    size, crop = content.get('size', 224), content.get('crop_size', 224)
    resize = size if isinstance(size, int) else size['shortest_edge']
    sides = (crop, crop) if isinstance(crop, int) else (crop['height'], crop['width'])
    preprocess = Preprocess(
      sides[0],
      None if resize == sides[0] else resize,
      tuple(content.get('image_mean', MEAN)),
      tuple(content.get('image_std', STD)),
      _RESAMPLING[content.get('resample', 3)],
    )
  except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path} does not describe the preparation of pictures as CLIP does it: {error!r}') from error
  odd = [f'{key} is off' for key in ('do_resize', 'do_center_crop', 'do_normalize') if not content.get(key, True)]
  odd += [f'the cut is {sides[0]} by {sides[1]}'] * (sides[0] != sides[1])
  if odd:
    raise UserError(f'{path}: {", ".join(odd)}; only resizing, cutting a square and normalising are supported.')
  return preprocess


class Tokenizer:
  """A sentence's token ids, from a `tokenizer.json` of the tokenizers library.

  Attributes:
    context: T, tokens of the result; longer sentences are cut, and keep their end token.
    end: id of the end token.
  """

  def __init__(self, tokenizer: tokenizers.Tokenizer, context: int = 77, end: int | None = None):
    """Wraps a tokenizer that puts the start and end tokens itself.

    Args:
      tokenizer: of the tokenizers library; it is not changed.
      context: T.
      end: id of the end token; None takes what ends an empty sentence.
    """
    self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    empty = self._tokenizer.encode('').ids
    if end is None and not empty:
      raise UserError('the tokenizer puts no end token behind a sentence; CLIP reads the feature there.')
    self.end = empty[-1] if end is None else end
    self.context = context

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Returns ids `[N, T]` int32; places behind the end token repeat it, as OpenAI's models expect or ignore."""
    ids = np.full((len(texts), self.context), self.end, np.int32)
    for row, encoding in zip(ids, self._tokenizer.encode_batch(list(texts)), strict=True):
      found = encoding.ids[: self.context]
      row[: len(found)] = found
      row[len(found) - 1] = self.end  # Also where the sentence was cut.
    return ids

  def lengths(self, ids: np.ndarray) -> np.ndarray:
    """Returns how many of the ids `[N, T]` are a sentence's own, start and end included, `[N]` int32."""
    return (np.argmax(ids == self.end, axis=1) + 1).astype(np.int32)

  def to_json(self) -> str:
    """Returns the content of a `tokenizer.json`."""
    return self._tokenizer.to_str(pretty=False)


def read_tokenizer(path: pathlib.Path, context: int = 77, end: int | None = None) -> Tokenizer:
  """Reads a `tokenizer.json`.

  Raises:
    ValueError: the tokenizers library does not understand the file.
  """
  try:
    loaded = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The library raises bare exceptions.
    raise UserError(f'{path} is no file of the tokenizers library: {error}') from error
  return Tokenizer(loaded, context, end)
