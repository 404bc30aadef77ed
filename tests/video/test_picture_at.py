"""Pictures at a time are those that the decoder shows then, however the file is indexed or broken."""

import pathlib

import av
import numpy as np
import pytest

from dlkd_jax.video import decoding, pictures
from dlkd_jax.video.files import VideoError
from dlkd_jax.video.picture_at import picture_at


@pytest.fixture(scope='module')
def counted(tmp_path_factory):
  """Ten seconds whose grey says the time, with key frames now and then, B-frames, and a start that is not 0."""
  path = tmp_path_factory.mktemp('counted') / 'counted.mkv'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=10, options={'g': '25', 'bf': '2', 'crf': '10'})
    stream.width, stream.height, stream.pix_fmt = 128, 64, 'yuv420p'
    for number in range(100):
      frame = av.VideoFrame.from_ndarray(np.full((64, 128, 3), 20 + 2 * number, np.uint8), format='rgb24')
      frame.pts = number
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return str(path)


@pytest.mark.parametrize('time', [0, 0.05, 0.1, 2.4, 2.45, 2.5, 4.99, 5.0, 7.3, 9.9, 9.95, 50])
def test_the_picture_is_the_one_shown(counted, time):
  """Against the decoder that reads from the front to the back."""
  expected = None
  for frame in decoding.decoded_frames(counted):
    if float(frame.time) <= time + 1e-3:
      expected = pictures.Converter(64)(frame.frame, frame.aspect)
  found = picture_at(counted, time, 64)
  assert found.shape == (32, 64, 3)
  np.testing.assert_array_equal(found, expected)


def test_files_that_are_no_videos(tmp_path):
  (tmp_path / 'x.mp4').write_bytes(b'x' * 100)
  with pytest.raises(VideoError, match='not a video'):
    picture_at(str(tmp_path / 'x.mp4'), 1.0, 64)


def test_a_truncated_file_gives_its_last_picture(counted, tmp_path):
  content = pathlib.Path(counted).read_bytes()
  (tmp_path / 'cut.mkv').write_bytes(content[: len(content) // 2])
  assert picture_at(str(tmp_path / 'cut.mkv'), 9.0, 64).shape == (32, 64, 3)
