"""Files of pictures, which anybody may have made."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import pictures


def written(image, kind='PNG', **options):
  image.save(buffer := io.BytesIO(), kind, **options)
  return buffer.getvalue()


def ramp(width=30, height=20):
  pixels = np.zeros((height, width, 3), np.uint8)
  pixels[..., 0], pixels[..., 1] = np.arange(width)[None] * 8, np.arange(height)[:, None] * 12
  return pixels


def test_kinds():
  pixels = ramp()
  np.testing.assert_array_equal(pictures.read(written(Image.fromarray(pixels)), 'x'), pixels)
  for kind in ('JPEG', 'WEBP'):
    found = pictures.read(written(Image.fromarray(pixels), kind, quality=95), 'x')
    assert found.shape == pixels.shape and np.abs(found.astype(int) - pixels).mean() < 6
  for mode in ('L', '1', 'P', 'CMYK'):
    content = written(Image.fromarray(pixels).convert(mode), 'JPEG' if mode == 'CMYK' else 'PNG')
    assert pictures.read(content, 'x').shape == (20, 30, 3)
  assert pictures.read(written(Image.new('I;16', (4, 3))), 'x').shape == (3, 4, 3)


def test_upright_on_white_and_small():
  exif = Image.Exif()
  exif[0x0112] = 6  # To be turned by 90 degrees clockwise.
  turned = pictures.read(written(Image.fromarray(ramp()), exif=exif), 'x')
  np.testing.assert_array_equal(turned, np.rot90(ramp(), -1))
  clear = np.dstack([ramp(), np.zeros((20, 30), np.uint8)])
  assert (pictures.read(written(Image.fromarray(clear)), 'x') == 255).all()
  assert max(pictures.read(written(Image.new('RGB', (3000, 600))), 'x').shape) == 1024


def bomb(width, height):
  """A PNG of a few bytes that says it has so many pixels."""

  def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b'')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'cannot be read as a picture'),
    (b'#!/bin/sh\n', 'cannot be read as a picture'),
    (written(Image.new('RGB', (9, 9)), 'GIF'), 'cannot be read as a picture'),
    (written(Image.new('RGB', (9, 9)), 'TIFF'), 'cannot be read as a picture'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'cannot be read as a picture'),
    (written(Image.fromarray(ramp()))[:60], 'cannot be read as a picture'),
    (bomb(50_000, 50_000), 'at most 40,000,000 pixels are decoded'),
    (bomb(40_000, 1001), 'at most 40,000,000 pixels are decoded'),
    (bytes(pictures.MOST_BYTES + 1), 'at most 20,971,520 are searched with'),
  ],
  ids=range(9),
)
def test_what_is_no_picture(content, message):
  with pytest.raises(UserError, match=message):
    pictures.read(content, 'dropped.png')


def test_a_file(tmp_path):
  (tmp_path / 'x.png').write_bytes(written(Image.fromarray(ramp())))
  np.testing.assert_array_equal(pictures.read_file(tmp_path / 'x.png'), ramp())
  with pytest.raises(FileNotFoundError):
    pictures.read_file(tmp_path / 'y.png')
