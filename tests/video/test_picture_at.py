"""Pictures at a time are those that the decoder shows then, however the file is indexed or broken."""

import importlib
import itertools
import pathlib
import types
from fractions import Fraction

import av
import numpy as np
import pytest

from dlkd_jax.video import decoding, pictures
from dlkd_jax.video.files import VideoError
from dlkd_jax.video.picture_at import picture_at
from tests.video import films

picture_at_module = importlib.import_module('dlkd_jax.video.picture_at')


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


@pytest.mark.parametrize('second', [0, 0.05, 0.1, 2.4, 2.45, 2.5, 4.99, 5.0, 7.3, 9.9, 9.95, 50])
def test_the_picture_is_the_one_shown(counted, second):
  """Against the decoder that reads from the front to the back."""
  expected = None
  for frame in decoding.decoded_frames(counted):
    if float(frame.time) <= second + 1e-3:
      expected = pictures.Converter(64)(frame.frame, frame.aspect)
  found = picture_at(counted, second, 64)
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


def test_an_index_that_leads_behind_the_time_is_not_believed(tmp_path):
  """Without an edit list the times of a film with B-frames begin late, and its key frames are looked up too early."""
  path = tmp_path / 'late.mp4'
  with av.open(str(path), 'w', options={'use_editlist': '0'}) as container:
    films.numbered(container, 80, rate=10, g='10', bf='2')
  for frame in decoding.decoded_frames(path):
    expected = films.read(pictures.Converter()(frame.frame))
    assert films.read(picture_at(str(path), float(frame.time), 200)) == expected


def long_film(path, count, size=(640, 480)):
  """A film with one key frame, and pictures that take a while to decode."""
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
  with av.open(str(path), 'w') as container:
    options = {'preset': 'ultrafast', 'x264-params': 'keyint=infinite:scenecut=0', 'crf': '30'}
    stream = container.add_stream('libx264', rate=25, options=options)
    stream.width, stream.height, stream.pix_fmt = *size, 'yuv420p'
    for number in range(count):
      image = np.roll(noise, 8 * number, axis=1)
      image[100:200, :] = 255 if number >= count // 2 else 0
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
    container.mux(stream.encode())
  return str(path)


def test_a_picture_takes_no_longer_than_its_budget(tmp_path, monkeypatch):
  """By a clock that goes on by a second whenever it is looked at, which is at least once a frame."""
  path = long_film(tmp_path / 'long.mp4', 250)
  ticks = itertools.count()
  monkeypatch.setattr(picture_at_module, 'clock', types.SimpleNamespace(monotonic=lambda: next(ticks)))
  found = picture_at(path, 9.5, 64, budget=60)
  assert next(ticks) < 100 and found.shape == (48, 64, 3)
  assert found[15, 30].mean() < 50  # The latest that could be decoded, of the film's first half.
  assert picture_at(path, 9.5, 64, budget=10_000)[15, 30].mean() > 200


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.avi', '.ts', '.vob'])
def test_every_frame_of_every_kind_is_found(tmp_path, suffix):
  base = Fraction(1, 25 if suffix in ('.avi', '.vob') else 1000)
  path = films.render(tmp_path / f'a{suffix}', films.steady(60), keyframes=20, base=base)
  assert [films.read(picture_at(str(path), n / 25, 200)) for n in range(60)] == list(range(60))


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.ts', '.flv'])
def test_pictures_that_come_behind_a_later_key_frame(tmp_path, suffix):
  """In open groups an index leads to a key frame that is shown after them, and they build on what was before it."""
  path = tmp_path / f'open{suffix}'
  options = {'x264-params': 'open-gop=1:bframes=4:b-adapt=0:keyint=10:min-keyint=10'}
  with av.open(str(path), 'w') as container:
    films.numbered(container, 100, keyframes=10, **options)
  found = [films.read(picture_at(str(path), number / 25, 200)) for number in range(100)]
  assert found == list(range(100))
