"""Pictures are those of the right time, each is made once, and they take bounded memory."""

import asyncio
import io
import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from dlkd_jax.page import thumbnails
from dlkd_jax.page.refusal import RefusalError
from dlkd_jax.page.thumbnails import Thumbnails, picture_at
from dlkd_jax.video import decoding, pictures
from dlkd_jax.video.files import VideoError


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


def gather(function, **limits):
  async def main():
    made = Thumbnails(64, **{'most_bytes': 10**6, **limits})
    try:
      return await function(made), made
    finally:
      made.close()

  return asyncio.run(main())


@pytest.fixture
def calls(monkeypatch):
  made = []

  def picture(path, time, side):
    made.append((path, time))
    if time == 13:
      raise VideoError(path, 'has no frame')
    return np.zeros((32, 64, 3), np.uint8)

  monkeypatch.setattr(thumbnails, 'picture_at', picture)
  return made


def test_jpeg_of_the_right_size(counted):
  (data,), _ = gather(lambda made: asyncio.gather(made.get(counted, 'tag', 5.0)))
  image = Image.open(io.BytesIO(data))
  assert image.format == 'JPEG' and image.size == (64, 32) and abs(np.asarray(image).mean() - 120) < 4


def test_each_is_made_once(calls):
  async def ask(made):
    await asyncio.gather(*(made.get('a', 'tag', 1.0) for _ in range(10)))
    await made.get('a', 'tag', 1.001)  # The same hundredth.
    await made.get('a', 'other', 1.0)  # The file has changed.

  gather(ask)
  assert calls == [('a', 1.0), ('a', 1.0)]


def test_memory_is_bounded(calls):
  async def ask(made):
    for number in range(50):
      await made.get('a', 'tag', number / 10)
    await made.get('a', 'tag', 4.9)
    return made.kept_bytes

  size = len(thumbnails.jpeg(np.zeros((32, 64, 3), np.uint8)))
  kept, made = gather(ask, most_bytes=5 * size + 1)
  assert kept == 5 * size == sum(map(len, made._kept.values())) and len(calls) == 50


def test_failures_are_told_and_not_kept(calls):
  async def ask(made):
    return await asyncio.gather(*(made.get('a', 'tag', 13.0) for _ in range(3)), return_exceptions=True)

  errors, made = gather(ask)
  assert all(isinstance(error, VideoError) for error in errors) and len(calls) == 1
  assert not made._made and not made._kept


def test_too_many_are_refused(calls):
  async def ask(made):
    return await asyncio.gather(*(made.get('a', 'tag', float(n)) for n in range(5)), return_exceptions=True)

  answers, _ = gather(ask, waiting=3)
  assert [isinstance(answer, RefusalError) for answer in answers] == [False] * 3 + [True] * 2


def test_who_leaves_does_not_take_the_picture_along(calls):
  async def ask(made):
    leaves = asyncio.create_task(made.get('a', 'tag', 1.0))
    stays = asyncio.create_task(made.get('a', 'tag', 1.0))
    await asyncio.sleep(0)
    leaves.cancel()
    return await stays

  data, _ = gather(ask)
  assert data[:2] == b'\xff\xd8'
