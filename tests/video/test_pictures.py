"""Tests of turning frames into upright RGB pictures with square pixels."""

from fractions import Fraction

import av
import numpy as np
import pytest

from dlkd_jax.video import decoding, pictures
from tests.video import films


@pytest.mark.parametrize('degrees', [0, 90, 180, 270])
@pytest.mark.parametrize(('suffix', 'hflip'), [('.mp4', False), ('.mp4', True), ('.mkv', False)])
def test_frames_are_turned_and_mirrored_as_the_file_says(tmp_path, suffix, degrees, hflip):
  path = films.render(tmp_path / f'a{suffix}', films.steady(2), rotation=degrees, hflip=hflip)
  image = next(decoding.sample_frames(path, 1)).image
  expected = np.rot90(films.draw(0), degrees // 90)
  if hflip:  # After the turn.
    expected = expected[:, ::-1]
  assert image.shape == expected.shape
  for corner in np.ndindex(2, 2):
    y, x = (8 if not c else s - 9 for c, s in zip(corner, image.shape[:2], strict=True))
    np.testing.assert_allclose(image[y, x].astype(int), expected[y, x], atol=6)
  info = decoding.probe(path)
  assert (info.height, info.width) == image.shape[:2]
  if not hflip:
    assert info.rotation == -degrees % 360


@pytest.mark.parametrize(
  ('aspect', 'max_side', 'rotation', 'size'),
  [
    (None, None, 0, (96, 128)),
    (Fraction(2), None, 0, (96, 256)),
    (Fraction(1, 2), None, 0, (96, 64)),
    (Fraction(2), None, 90, (256, 96)),
    (None, 64, 0, (48, 64)),
    (None, 64, 90, (64, 48)),
    (Fraction(2), 64, 0, (24, 64)),
    (None, 1000, 0, (96, 128)),
    (None, 1, 0, (1, 1)),
  ],
)
def test_sizes(tmp_path, aspect, max_side, rotation, size):
  path = films.render(tmp_path / 'a.mp4', films.steady(2), aspect=aspect, rotation=rotation)
  sample = next(decoding.sample_frames(path, 1, max_side=max_side))
  assert sample.image.shape == (*size, 3) and sample.image.dtype == np.uint8
  assert not sample.image.flags.writeable and sample.image.flags.c_contiguous


def test_shrinking_averages_and_does_not_alias():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  image = pictures.Converter(max_side=16)(av.VideoFrame.from_ndarray(stripes, 'rgb24'))
  assert image.shape == (16, 16, 3)
  np.testing.assert_allclose(image.astype(float)[:, 2:-2], 127.5, atol=12)


@pytest.mark.parametrize(
  ('height', 'space', 'tag'), [(96, 'ITU601', False), (720, 'ITU709', False), (96, 'ITU709', True)]
)
def test_colours_by_tag_or_by_size(height, space, tag):
  red = np.full((height, 64, 3), (200, 40, 10), np.uint8)
  frame = av.VideoFrame.from_ndarray(red, 'rgb24').reformat(format='yuv444p', dst_colorspace=space)
  if not tag:
    frame.colorspace = pictures._UNTAGGED
  image = pictures.Converter()(frame)
  np.testing.assert_allclose(image[10, 10].astype(int), (200, 40, 10), atol=4)
