"""Pictures as queries: a file that anybody may have made becomes pixels, and these a vector of the index's own teacher.

The model that saw the frames of an index sees the picture; of its scorers only the teacher has one for single pictures.
"""

from __future__ import annotations

import functools
import io
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.encoding import TEACHER
from dlkd_jax.gallery.segments import IndexFolderError
from dlkd_jax.models import hub
from dlkd_jax.vectors import unit
from dlkd_jax.video import backbones, spans

FORMATS = ('PNG', 'JPEG', 'WEBP')
MOST_BYTES = 20 * 2**20
# A picture of as many takes 160 MB while it is decoded; JPEG is shrunk on the way.
MOST_PIXELS = 40_000_000
# Backbones see a few hundred pixels.
_SIDE = 1024


def read(content: bytes, name: str) -> np.ndarray:
  """Decodes a picture: upright, on white where it is transparent, its longer side at most 1,024 pixels.

  Args:
    content: of a PNG, JPEG or WebP file; of several pictures in it the first is taken.
    name: what to call it in messages.

  Returns:
    uint8 `[H, W, 3]`, RGB.

  Raises:
    UserError: it is none of these, is damaged, or is too large.
  """
  if len(content) > MOST_BYTES:
    raise UserError(f'{name} has {len(content):,} bytes; pictures of at most {MOST_BYTES:,} are searched with')
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Pillow's own limit is higher than this one.
      with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
          raise Image.DecompressionBombError
        image.draft('RGB', (_SIDE, _SIDE))
        image.load()
        image = ImageOps.exif_transpose(image)
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(_on_white(image))
  except Image.DecompressionBombError as error:
    raise UserError(f'{name} is too large; at most {MOST_PIXELS:,} pixels are decoded. Shrink it') from error
  except Exception as error:  # Of many kinds, whatever a decoder stumbles over.
    kinds = ', '.join(FORMATS)
    raise UserError(f'{name} cannot be read as a picture ({type(error).__name__}); expected {kinds}') from error


def read_file(path: pathlib.Path) -> np.ndarray:
  """Reads the file of a picture; errors are those of `read`, and of the system."""
  with path.open('rb') as file:
    return read(file.read(MOST_BYTES + 1), str(path))


def _on_white(image: Image.Image) -> Image.Image:
  if image.mode not in ('RGBA', 'LA', 'PA') and 'transparency' not in image.info:
    return image.convert('RGB')
  image = image.convert('RGBA')
  return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')


class PictureEncoder:
  """Turns pictures into query vectors of the teacher; its model is opened when the first picture comes."""

  def __init__(self, manifest: Mapping[str, Any], clip: str | None = None):
    """Takes the manifest of an index, and where its CLIP is now."""
    # Indexes of before pictures were noted say it of sentences, which are of the same model.
    of = (manifest.get('pictures') or manifest['text']).get(TEACHER)
    self._about = of if TEACHER in manifest['scorers'] else None
    self._clip = clip

  def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Encodes pictures, uint8 `[H, W, 3]`; returns `[q, Dt]` float32 unit vectors.

    Raises:
      IndexFolderError: no model of this index sees pictures, or it is not there.
    """
    if self._about is None:
      raise IndexFolderError(
        'a picture cannot be searched for here: the frames of this index were scored by nothing that is known to see '
        'pictures. Search with a sentence, or for more like a moment (--like=VIDEO@SECONDS)'
      )
    about = self._about
    return unit(_opened(about['fingerprint'], about.get('where', about.get('clip')), self._clip)(pictures))


@functools.lru_cache(maxsize=2)
def _opened(fingerprint: str, then: str | None, now: str | None) -> backbones.FrameBackbone:
  """Opens the backbone of frames that an index was made by; errors are those of `PictureEncoder`."""
  place = now or then
  made = f'the frames of this index are made by {fingerprint!r}'
  try:
    spec = backbones.spec_again(fingerprint, place, pictures=True)
  except LookupError as error:
    raise IndexFolderError(f'{made}, which sees no pictures here: {error}') from error
  if spec is None or (':' in spec and not hub.find(place).path.exists()):
    where = 'the index does not know where it is' if spec is None else f'{place} does not exist'
    raise IndexFolderError(f'{made}, and {where}; say where it is with --clip=DIR')
  backbone = backbones.open_frame_backbone(spec)
  backbones.forget_files()
  if spans.span_of(backbone) != spans.SINGLE:
    raise IndexFolderError(f'{made}, which sees what moves; a picture cannot be searched for here')
  if backbone.fingerprint != fingerprint:
    raise IndexFolderError(
      f'{made}; {place} holds {backbone.fingerprint!r}. Say with --clip=DIR where the right one is'
    )
  return backbone
