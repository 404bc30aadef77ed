"""From pictures and sentences to what the towers of CLIP read, as its authors prepare them.

Sizes: N texts, T tokens, S pixels a side.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from PIL import Image

from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import whose_kind
from dlkd_jax.files import lines, read_text
from dlkd_jax.models.fields import Fields, read_fields
from dlkd_jax.models.pictures import check_picture

# Of OpenAI's training pictures, in shares of 255.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_SCALE = 1 / 255
_RESAMPLING = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic', 4: 'box', 5: 'hamming'}


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Resized, the middle square of `size` cut out, scaled, mean and spread of the training pictures.

  Attributes:
    size: S.
    resize: pixels of the shorter side before the cut, or height and width; None: a shorter side of `size`.
    mean: of the three channels, in [0, 1].
    std: likewise.
    resampling: nearest, lanczos, bilinear, bicubic, box or hamming.
    scale: what values in 0..255 are multiplied by first.
    rounding: where the middle of an odd rest is: half a pixel 'down', as transformers cuts, or at the 'even' pixel, as
      OpenCLIP does.
  """

  size: int = 224
  resize: int | tuple[int, int] | None = None
  mean: tuple[float, float, float] = MEAN
  std: tuple[float, float, float] = STD
  resampling: str = 'bicubic'
  scale: float = _SCALE
  rounding: str = 'down'

  def __post_init__(self):
    """Checks the fields.

    Raises:
      UserError: the sizes or the resampling cannot be.
    """
    sides = self.resize if isinstance(self.resize, tuple) else (self.resize or self.size,)
    if self.size < 1 or min(sides) < self.size:
      raise UserError(f'a side of {self.size} pixels cannot be cut out of pictures resized to {self.resize}.')
    if self.resampling not in _RESAMPLING.values():
      raise UserError(f'unknown resampling {self.resampling!r}; expected one of {sorted(_RESAMPLING.values())}.')
    if not all(self.std):
      raise UserError(f'the spread of colours is {self.std}, by which nothing can be divided.')

  def crop(self, image: np.ndarray) -> np.ndarray:
    """Maps one RGB picture `[H, W, 3]` uint8 to its resized middle `[S, S, 3]` uint8.

    Raises:
      ValueError: the picture has another shape or type, or no pixels.
    """
    check_picture(image)
    height, width = image.shape[:2]
    if isinstance(self.resize, tuple):
      scaled = self.resize[::-1]
    else:
      short = self.resize or self.size
      scaled = (max(short, width * short // height), max(short, height * short // width))
    rests = [side - self.size for side in scaled]
    # Python rounds a half to the even neighbour.
    left, top = (round(rest / 2) if self.rounding == 'even' else rest // 2 for rest in rests)
    resized = Image.fromarray(image).resize(scaled, Image.Resampling[self.resampling.upper()])
    return np.asarray(resized)[top : top + self.size, left : left + self.size]

  def normalize(self, crops: Any) -> Any:
    """Maps uint8 values `[…, 3]`, of numpy or of JAX, to the float32 that the image tower reads."""
    mean, std = (np.asarray(x, np.float32).reshape((1,) * (crops.ndim - 1) + (3,)) for x in (self.mean, self.std))
    return (crops.astype(np.float32) * np.float32(self.scale) - mean) / std

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Maps one RGB picture `[H, W, 3]` uint8 to `[S, S, 3]` float32: crop, then normalize."""
    return self.normalize(self.crop(image))

  def as_json(self) -> dict[str, Any]:
    """Returns the content of a `preprocessor_config.json`.

    Raises:
      UserError: the format has no word for this rounding.
    """
    if self.rounding != 'down':
      raise UserError('the middle of a picture is cut as OpenCLIP does it, which Hugging Face files cannot say')
    numbers = {name: number for number, name in _RESAMPLING.items()}
    pair = isinstance(self.resize, tuple)
    size = (
      dict(zip(('height', 'width'), self.resize, strict=True)) if pair else {'shortest_edge': self.resize or self.size}
    )
    return {
      'image_processor_type': 'CLIPImageProcessor',
      'do_convert_rgb': True,
      'do_resize': True,
      'size': size,
      'resample': numbers[self.resampling],
      'do_center_crop': True,
      'crop_size': {'height': self.size, 'width': self.size},
      'do_rescale': True,
      'rescale_factor': self.scale,
      'do_normalize': True,
      'image_mean': list(self.mean),
      'image_std': list(self.std),
    }


_OUR_PROCESSORS = ('CLIPImageProcessor', 'CLIPImageProcessorFast', 'CLIPImageProcessorPil', 'CLIPFeatureExtractor')
_STEPS = ('do_resize', 'do_center_crop', 'do_rescale', 'do_normalize', 'do_convert_rgb')


def parse_preprocess(content: Fields) -> Preprocess:
  """Returns what an image processor of transformers does; UserError where `Preprocess` does not do that."""
  for field in ('image_processor_type', 'feature_extractor_type'):
    content.only(field, *_OUR_PROCESSORS)
  content.only('use_square_size', False)
  for field in sorted(content.content):
    if field.startswith('do_') and field not in _STEPS:
      content.only(field, False)
  steps = {step: content.flag(step, True) for step in _STEPS}
  if not steps['do_resize']:
    _refuse(content, 'do_resize is off, and pictures of all sizes come')
  resize = _resize(content)
  if steps['do_center_crop']:
    sides = _pair(content, 'crop_size', 224)
    if sides is None or sides[0] != sides[1]:
      content.refuse('crop_size', 'supported: the side of a square in pixels, or {"height": 224, "width": 224}')
  elif isinstance(resize, tuple) and resize[0] == resize[1]:
    sides = resize
  else:
    _refuse(content, 'do_center_crop is off, and size makes no square')
  size = sides[0]
  if min(resize if isinstance(resize, tuple) else (resize,)) < size:
    content.refuse('crop_size', f'more than size leaves, {resize}; the library would put a black border around')
  off = not steps['do_normalize']
  return _checked(
    content,
    size,
    None if resize == size else resize,
    (0.0, 0.0, 0.0) if off else content.colours('image_mean', MEAN),
    (1.0, 1.0, 1.0) if off else content.colours('image_std', STD),
    parse_resampling(content),
    content.number('rescale_factor', _SCALE) if steps['do_rescale'] else 1.0,
  )


def parse_resampling(content: Fields) -> str:
  """Returns by what an image processor of transformers resamples; UserError where that is not known."""
  resample = content.get('resample', 3)
  resampling = _RESAMPLING.get(resample) if type(resample) is int else str(resample).lower()
  if resampling not in _RESAMPLING.values():
    content.refuse('resample', f'supported: {", ".join(f"{n} ({name})" for n, name in _RESAMPLING.items())}')
  return resampling


def parse_open_clip_preprocess(content: Fields, size: int) -> Preprocess:
  """Returns how OpenCLIP prepares pictures for a model of `size` pixels.

  Args:
    content: `preprocess_cfg` of open_clip_config.json; its own size gives way to the model's.
    size: S.

  Raises:
    UserError: it asks for what `Preprocess` does not do; the field is named.
  """
  content.known(('size', 'mode', 'mean', 'std', 'interpolation', 'resize_mode', 'fill_color'))
  content.only('mode', 'RGB')
  content.only('resize_mode', 'shortest', 'squash')
  content.only('interpolation', 'bicubic', 'bilinear', 'random')
  squash = content.get('resize_mode') == 'squash'
  return _checked(
    content,
    size,
    (size, size) if squash else None,
    content.colours('mean', MEAN),
    content.colours('std', STD),
    'bilinear' if content.get('interpolation') == 'bilinear' else 'bicubic',  # Random is of training only.
    rounding='even',
  )


def _resize(content: Fields) -> int | tuple[int, int]:
  """Returns the shorter side, or height and width, that pictures are resized to."""
  size = content.get('size', 224)
  if type(size) is int and not content.flag('default_to_square', False):
    return content.whole('size', 224)
  if isinstance(size, dict) and size.keys() == {'shortest_edge'}:
    return content.part('size').whole('shortest_edge')
  if (pair := _pair(content, 'size', 224)) is not None:
    return pair
  expected = '{"shortest_edge": 224}, {"height": 224, "width": 224}, 224 or [224, 224]'
  _refuse(content, f'size is {json.dumps(size)}; supported: {expected}')


def _pair(content: Fields, field: str, default: int) -> tuple[int, int] | None:
  """Returns height and width, which may be written as a number, a list or an object; None: as something else."""
  value = content.get(field, default)
  value = [value, value] if type(value) is int else value
  if isinstance(value, dict) and value.keys() == {'height', 'width'}:
    value = [value['height'], value['width']]
  fits = isinstance(value, list) and len(value) == 2 and all(type(x) is int and x > 0 for x in value)
  return (value[0], value[1]) if fits else None


def _refuse(content: Fields, why: str) -> None:
  raise UserError(f'{content.file} does not describe the preparation of pictures as CLIP does it: {why}')


def _checked(content: Fields, *fields: Any, **more: Any) -> Preprocess:
  try:
    return Preprocess(*fields, **more)
  except UserError as error:
    raise UserError(f'{content.file}: {error}') from error


class Reading(NamedTuple):
  """What of a sentence is read: tokens that it has, tokens that are read, and of these those that are known words."""

  needed: int
  read: int
  known: int


class Tokenizer:
  """A sentence's token ids, from a `tokenizer.json` of the tokenizers library.

  Attributes:
    context: T, tokens of the result; longer sentences are cut, and keep their end token.
    end: id of the end token.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    context: int = 77,
    end: int | None = None,
    vocabulary: int | None = None,
    pad: int | None = None,
  ):
    """Wraps a tokenizer that puts the start and end tokens itself.

    Args:
      tokenizer: of the tokenizers library; it is not changed.
      context: T.
      end: id of the end token that the model looks for; None takes what ends an empty sentence.
      vocabulary: ids that the model has vectors for; None: as many as the tokenizer gives.
      pad: id of what stands behind the end token; None: the end token, which OpenAI's models expect or ignore.

    Raises:
      UserError: it puts no end token behind a sentence, or another one.
    """
    self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    empty = self._tokenizer.encode('').ids
    if not empty:
      raise UserError('the tokenizer puts no end token behind a sentence; CLIP reads the feature there.')
    if end is not None and empty[-1] != end:
      raise UserError(
        f'the tokenizer ends sentences with token {empty[-1]}, and the model (eos_token_id) looks for {end}.'
      )
    self.end, self.context, self._vocabulary, self._around = empty[-1], context, vocabulary, len(empty)
    self._pad = self.end if pad is None else pad
    unknown = getattr(self._tokenizer.model, 'unk_token', None)
    self._unknown = None if unknown is None else self._tokenizer.token_to_id(unknown)

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Returns ids `[N, T]` int32, padded.

    Raises:
      UserError: the tokenizer knows a word for which the model has no vector.
    """
    ids = np.full((len(texts), self.context), self._pad, np.int32)
    for row, encoding in zip(ids, self._tokenizer.encode_batch(list(texts)), strict=True):
      found = encoding.ids[: self.context]
      row[: len(found)] = found
      row[len(found) - 1] = self.end  # Also where the sentence was cut.
    if self._vocabulary is not None and ids.size and ids.max() >= self._vocabulary:
      raise UserError(
        f'the tokenizer gives token {ids.max()}, and the text tower has {self._vocabulary} (vocab_size): the tokenizer '
        'is of another model'
      )
    return ids

  def reads(self, text: str) -> Reading:
    """Returns what is read of a sentence; the tokens that stand around every sentence are not counted."""
    ids = self._tokenizer.encode(text).ids
    own = ids[self._around - 1 : -1] if self._around else ids
    read = own[: self.context - self._around]
    return Reading(len(own), len(read), sum(x not in (self._unknown, self.end) for x in read))

  def lengths(self, ids: np.ndarray) -> np.ndarray:
    """Returns how many of the ids `[N, T]` are a sentence's own, start and end included, `[N]` int32."""
    return (np.argmax(ids == self.end, axis=1) + 1).astype(np.int32)

  def to_json(self) -> str:
    """Returns the content of a `tokenizer.json`."""
    return self._tokenizer.to_str(pretty=False)


def read_tokenizer(
  path: pathlib.Path, context: int = 77, end: int | None = None, vocabulary: int | None = None
) -> Tokenizer:
  """Reads a `tokenizer.json`. How long its texts are and how they are padded is the model's matter, not the file's.

  Raises:
    UserError: the tokenizers library does not understand the file, or it does not fit the model.
  """
  return wrapped(path, read_tokenizers_file(path), context, end, vocabulary)


def read_tokenizers_file(path: pathlib.Path) -> tokenizers.Tokenizer:
  """Reads a `tokenizer.json` as it is; UserError where it pads or cuts on the left, or the library does not know it."""
  content = read_fields(path)
  for field in ('truncation', 'padding'):
    content.part(field).only('direction', 'Right')
  try:
    return tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The library raises bare exceptions.
    raise UserError(f'{path} is no file of the tokenizers library: {error}') from error


def find_tokenizer(folder: pathlib.Path, context: int, end: int | None, vocabulary: int) -> Tokenizer | None:
  """Reads a model's tokenizer: `tokenizer.json`, or else `vocab.json` and `merges.txt` as CLIP's authors split words.

  Returns:
    None where there is neither.

  Raises:
    UserError: a file is damaged, asks for what is not supported, or does not fit the model.
  """
  settings = folder / 'tokenizer_config.json'
  if settings.is_file():
    content = read_fields(settings)
    for field in ('padding_side', 'truncation_side'):
      content.only(field, 'right')
    for field, value in (('add_bos_token', True), ('add_eos_token', True), ('split_special_tokens', False)):
      content.only(field, value)
  path, vocab, merges = (folder / name for name in ('tokenizer.json', 'vocab.json', 'merges.txt'))
  if path.is_file():
    return read_tokenizer(path, context, end, vocabulary)
  if not (vocab.is_file() and merges.is_file()):
    return None
  return wrapped(vocab, _clip_tokenizer(vocab, merges), context, end, vocabulary)


def wrapped(path: pathlib.Path, *arguments: Any) -> Tokenizer:
  """Returns a `Tokenizer` of a file, which its errors name."""
  try:
    return Tokenizer(*arguments)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def _clip_tokenizer(vocab: pathlib.Path, merges: pathlib.Path) -> tokenizers.Tokenizer:
  """Returns the byte pairs of CLIP's authors over words, numbers and marks of lower-cased text."""
  numbers = read_fields(vocab)
  start, end = numbers.whole('<|startoftext|>', least=0), numbers.whole('<|endoftext|>', least=0)
  pairs = [tuple(line.split()) for _, line in lines(read_text(merges)) if not line.startswith('#version')]
  if odd := [pair for pair in pairs if len(pair) != 2]:
    raise UserError(f'{merges}: expected two parts a line, found {" ".join(odd[0])!r}; {whose_kind(merges, "damaged")}')
  try:
    model = tokenizers.models.BPE(numbers.content, pairs, unk_token='<|endoftext|>', end_of_word_suffix='</w>')
  except Exception as error:  # The library raises bare exceptions.
    raise UserError(f'{vocab} and {merges.name} do not belong together: {error}') from error
  tokenizer = tokenizers.Tokenizer(model)
  parts = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
  space = tokenizers.normalizers.Replace(tokenizers.Regex(r'\s+'), ' ')
  tokenizer.normalizer = tokenizers.normalizers.Sequence(
    [tokenizers.normalizers.NFC(), space, tokenizers.normalizers.Lowercase()]
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Split(tokenizers.Regex(parts), 'removed', invert=True),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  tokenizer.add_special_tokens(['<|startoftext|>', '<|endoftext|>'])
  tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
    ('<|endoftext|>', end), ('<|startoftext|>', start), trim_offsets=False, add_prefix_space=False
  )
  return tokenizer
