"""Small videos whose every frame shows its own time, and the ways in which files break."""

from __future__ import annotations

import pathlib
from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT = 128, 96
_COUNT = 8  # Black or white squares in a row: a binary number.
_ROWS = slice(40, 56)
CODECS = {'.mp4': 'libx264', '.mkv': 'libx264', '.webm': 'libvpx-vp9', '.avi': 'mpeg4', '.ts': 'libx264'}
CODECS['.vob'] = 'mpeg2video'


def draw(number: int) -> np.ndarray:
  """uint8 [96, 128, 3]: the number in binary in the middle, red above on the left and blue below on the right."""
  image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
  for bit in range(_COUNT):
    image[_ROWS, bit * 16 : bit * 16 + 16] = 255 * (number >> bit & 1)
  image[:24, :48] = (230, 20, 20)
  image[-24:, -48:] = (20, 20, 230)
  return image


def read(image: np.ndarray) -> int:
  """The number that a picture made by `draw` shows, at any size."""
  image = np.asarray(image, np.float32)
  row = image[round(image.shape[0] * 0.5), :, 1]
  places = (np.arange(_COUNT) + 0.5) / _COUNT * image.shape[1]
  return int(sum((row[int(x)] > 128) << bit for bit, x in enumerate(places)))


def render(
  path: pathlib.Path,
  times: list[Fraction],
  rotation: int | None = None,
  hflip: bool = False,
  aspect: Fraction | None = None,
  keyframes: int = 12,
  faststart: bool = True,
  sound: float = 0,
  base: Fraction = Fraction(1, 1000),
  sound_from: float = 0,
) -> pathlib.Path:
  """Writes a video in which frame n shows the number n (below 256) from `times[n]` seconds on.

  Args:
    path: where; the suffix decides the container and the codec.
    times: seconds, increasing, whole multiples of `base`.
    rotation: degrees counterclockwise by which players should turn it, written as a display matrix.
    hflip: players should mirror it, too.
    aspect: width of a pixel by its height.
    keyframes: frames between key frames.
    faststart: the index of an mp4 file lies at its beginning.
    sound: seconds of silence beside it.
    base: unit of the stream's clock, seconds.
    sound_from: seconds at which the silence begins.
  """
  options = {'movflags': 'faststart'} if path.suffix == '.mp4' and faststart else {}
  with av.open(str(path), 'w', options=options) as container:
    speed = {'libx264': {'preset': 'veryfast'}, 'libvpx-vp9': {'deadline': 'realtime', 'cpu-used': '8'}}
    codec = CODECS[path.suffix]
    stream = container.add_stream(
      codec, rate=round(1 / base) if codec.startswith('mpeg') else 25, options=speed.get(codec, {})
    )
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
    stream.gop_size = keyframes
    stream.codec_context.time_base = base
    stream.time_base = base
    if aspect is not None:
      stream.codec_context.sample_aspect_ratio = aspect
    if rotation is not None or hflip:
      stream.set_display_rotation(rotation or 0, hflip=hflip)
    if sound:
      silence(container, sound, begin=sound_from)
    for number, time in enumerate(times):
      frame = av.VideoFrame.from_ndarray(draw(number), 'rgb24')
      frame.time_base = base
      frame.pts = int(Fraction(time) / base)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def numbered(
  container: av.container.OutputContainer,
  count: int,
  codec: str = 'libx264',
  rate: int = 25,
  keyframes: int | None = None,
  **options: str,
) -> None:
  """Adds a stream of pictures that show 0, 1, …, with a key frame every so many, and options of the codec."""
  stream = container.add_stream(codec, rate=rate, options=options)
  stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
  if keyframes is not None:
    stream.gop_size = keyframes
  for number in range(count):
    frame = av.VideoFrame.from_ndarray(draw(number), 'rgb24')
    frame.pts, frame.time_base = number, Fraction(1, rate)
    container.mux(stream.encode(frame))
  container.mux(stream.encode(None))


def silence(container: av.container.OutputContainer, seconds: float, also=tuple, begin: float = 0) -> None:
  """Adds a stream of silence, and the packets that `also` returns once all streams are there."""
  codec, size = ('libopus', 960) if container.format.name in ('matroska', 'webm') else ('aac', 1024)
  stream = container.add_stream(codec, rate=48000, layout='mono')
  container.start_encoding()
  container.mux(also())
  for start in range(0, int(seconds * 48000), size):
    frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.float32), 'fltp', 'mono')
    frame.sample_rate, frame.pts, frame.time_base = 48000, start + int(begin * 48000), Fraction(1, 48000)
    container.mux(stream.encode(frame))
  container.mux(stream.encode(None))


def sound_only(path: pathlib.Path) -> pathlib.Path:
  """Writes a file with sound and no picture."""
  with av.open(str(path), 'w') as container:
    silence(container, 1)
  return path


def no_frames(path: pathlib.Path) -> pathlib.Path:
  """Writes a file that promises a video stream and ends."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mpeg4', rate=25)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
    container.start_encoding()
  return path


def steady(count: int, rate: int = 25) -> list[Fraction]:
  """`count` times at a constant rate."""
  return [Fraction(n, rate) for n in range(count)]


def cut(path: pathlib.Path, share: float, to: pathlib.Path) -> pathlib.Path:
  """Writes the first `share` of a file's bytes to another."""
  content = path.read_bytes()
  to.write_bytes(content[: int(len(content) * share)])
  return to


def spoil(path: pathlib.Path, at: float, count: int, to: pathlib.Path) -> pathlib.Path:
  """Writes a copy with `count` random bytes from the share `at` of its length on."""
  content = bytearray(path.read_bytes())
  start = int(len(content) * at)
  content[start : start + count] = np.random.default_rng(0).bytes(count)
  to.write_bytes(content)
  return to


# What cannot be extracted of `broken_files`.
FAILING = {'empty.mkv', 'gone.mp4', 'no_frames.avi', 'no_index.mp4', 'noise.webm', 'sound.mp4', 'text.mp4'}


def broken_files(folder: pathlib.Path) -> None:
  """Fills a folder with good.mp4, FAILING, cut.mkv and spoiled.mp4, which are whole in part, and what is no video."""
  good = render(folder / 'good.mp4', steady(60))
  cut(render(folder / 'whole.mkv', steady(200), keyframes=5), 0.6, folder / 'cut.mkv')
  (folder / 'whole.mkv').unlink()
  late = render(folder / 'late.mp4', steady(60), faststart=False)
  cut(late, 0.5, folder / 'no_index.mp4')
  late.unlink()
  spoil(good, 0.5, 2000, folder / 'spoiled.mp4')
  sound_only(folder / 'sound.mp4')
  no_frames(folder / 'no_frames.avi')
  (folder / 'empty.mkv').touch()
  (folder / 'text.mp4').write_text('this is no video')
  (folder / 'noise.webm').write_bytes(np.random.default_rng(0).bytes(5000))
  (folder / 'folder.mp4').mkdir()
  (folder / 'gone.mp4').symlink_to(folder / 'nowhere.mp4')
  (folder / 'notes.txt').write_text('not a video')
