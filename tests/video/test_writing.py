"""Tests of writing videos."""

import numpy as np
import pytest

from dlkd_jax.video import decoding, writing

IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.webm'])
def test_what_is_written_is_read_back(tmp_path, name):
  images = [np.full((48, 64, 3), shade, np.uint8) for shade in (20, 120, 220)]
  assert writing.write_video(tmp_path / name, images, 5, (64, 48)) == 3
  info = decoding.probe(tmp_path / name)
  assert (info.width, info.height, info.rate) == (64, 48, 5) and info.duration == pytest.approx(0.6, abs=0.01)
  for image, sample in zip(images, decoding.sample_frames(tmp_path / name, 5), strict=True):
    np.testing.assert_allclose(sample.image.astype(int), image, atol=6)


def test_nothing_is_written_when_it_cannot_be_whole(tmp_path):
  def failing():
    yield IMAGE
    raise RuntimeError('no more')

  for name, images, size, error, message in (
    ('b.mp4', [IMAGE, IMAGE[:, :62]], (64, 48), ValueError, r'picture 1 is \[48, 62, 3\]; expected \[48, 64, 3\]'),
    ('b.mp4', [], (64, 48), ValueError, 'no picture'),
    ('b.mp4', [IMAGE], (63, 48), ValueError, 'even numbers'),
    ('b.gif', [IMAGE], (64, 48), ValueError, 'a name that ends in .mp4'),
    ('b.mp4', failing(), (64, 48), RuntimeError, 'no more'),
  ):
    with pytest.raises(error, match=message):
      writing.write_video(tmp_path / name, images, 5, size)
    assert not any(tmp_path.iterdir())
