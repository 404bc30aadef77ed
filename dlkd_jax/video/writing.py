"""Videos written from pictures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

from dlkd_jax.video import pictures

# By the suffix of the file: FFmpeg's container and the codec in it.
_KINDS = {'.mp4': ('mp4', 'libx264'), '.mkv': ('matroska', 'libx264'), '.webm': ('webm', 'libvpx-vp9')}


def write_video(
  path: str | os.PathLike[str],
  images: Iterable[np.ndarray],
  rate: float,
  size: tuple[int, int],
  keyframes: int | None = 50,
  options: dict[str, str] | None = None,
) -> int:
  """Writes pictures as a video without sound: under a temporary name first, so that it is there whole or not at all.

  Args:
    path: .mp4 or .mkv (H.264), or .webm (VP9).
    images: uint8 [H, W, 3] RGB, each shown for 1 / rate seconds.
    rate: pictures a second.
    size: (width, height) in pixels, even numbers, of every image.
    keyframes: at most this many pictures from one key frame to the next; None: as many as the codec takes.
    options: of the codec; None: fast ones.

  Returns:
    The number of pictures.

  Raises:
    ValueError: another suffix, an odd size, no picture, or one of another size.
    OSError: the file cannot be written. What was there is unchanged, here and whenever `images` raises.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() not in _KINDS:
    raise ValueError(f'{path}: expected a name that ends in {", ".join(_KINDS)}')
  width, height = size
  if width % 2 or height % 2 or width < 2 or height < 2:
    raise ValueError(f'size is {width} x {height}; expected even numbers of pixels')
  container_name, codec = _KINDS[path.suffix.lower()]
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  count = 0
  try:
    with av.open(f'file:{temporary.absolute()}', 'w', format=container_name) as container:
      fraction = Fraction(rate).limit_denominator(10**6)
      fast = {'preset': 'veryfast'} if codec == 'libx264' else {'deadline': 'realtime', 'cpu-used': '8'}
      stream = container.add_stream(codec, rate=fraction, options=fast if options is None else options)
      stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
      if keyframes is not None:
        stream.gop_size = keyframes
      for image in images:
        if image.shape != (height, width, 3):
          raise ValueError(f'picture {count} is {list(image.shape)}; expected [{height}, {width}, 3]')
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), 'rgb24')
        frame = frame.reformat(format='yuv420p', dst_colorspace=pictures.untagged_space(height))
        frame.pts, frame.time_base = count, 1 / fraction
        container.mux(stream.encode(frame))
        count += 1
      container.mux(stream.encode(None))
    if not count:
      raise ValueError(f'{path}: no picture to write')
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
  return count
