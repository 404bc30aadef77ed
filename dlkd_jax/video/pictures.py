"""A decoded frame as an upright RGB picture with square pixels, no larger than asked for."""

from __future__ import annotations

import math
from fractions import Fraction

import av
import numpy as np

from dlkd_jax.video import containers

# Untagged video from this height on is taken for BT.709, as players do; below it for BT.601.
_HIGH_DEFINITION = 720
_UNTAGGED = 2


def untagged_space(height: int) -> str:
  """The colour space, by PyAV's name, that frames of this height are taken to have if they do not say."""
  return 'ITU709' if height >= _HIGH_DEFINITION else 'ITU601'


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
  """The display matrix (a, b, c, d): pixel (x, y) is shown at (ax + cy, bx + dy); unity where there is none."""
  for data in frame.side_data:
    if data.type == av.sidedata.sidedata.Type.DISPLAYMATRIX:
      a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
      return a, b, c, d
  return 1, 0, 0, 1


def _sideways(frame: av.VideoFrame) -> bool:
  a, b, _, _ = _matrix(frame)
  return abs(b) > abs(a)


def rotation(frame: av.VideoFrame) -> int:
  """Degrees clockwise by which a player turns the frame, as its display matrix says: 0, 90, 180 or 270."""
  return round(-frame.rotation / 90) % 4 * 90


def shown_size(frame: av.VideoFrame, aspect: Fraction | None = None, max_side: int | None = None) -> tuple[int, int]:
  """(width, height) of the picture that `Converter` makes of a frame, for the same arguments."""
  width, height = _unturned_size(frame, aspect, max_side)
  return (height, width) if _sideways(frame) else (width, height)


def _unturned_size(frame: av.VideoFrame, aspect: Fraction | None, max_side: int | None) -> tuple[int, int]:
  """The size before the turn; the height stays and the width follows the pixels' aspect, then both shrink."""
  width, height = Fraction(frame.width) * (aspect or 1), Fraction(frame.height)
  scale = Fraction(1)
  if max_side is not None and max(width, height) > max_side:
    scale = Fraction(max_side) / max(width, height)
  elif width * height > containers.MOST_PIXELS:  # It is only that wide because its pixels are.
    scale = Fraction(math.sqrt(containers.MOST_PIXELS / (width * height)))
  width, height = width * scale, height * scale
  return max(1, round(width)), max(1, round(height))


class Converter:
  """Turns decoded frames into pictures; conversion and shrinking are one pass, so that a large frame costs little."""

  def __init__(self, max_side: int | None = None):
    """`max_side`: the longer side is shrunk to this many pixels; a smaller picture is left as it is."""
    self._max_side = max_side
    self._reformatter = av.video.reformatter.VideoReformatter()  # One for all frames: it keeps its tables.
    self._turns: dict[int, tuple[int, int, int, int]] = {}

  def __call__(self, frame: av.VideoFrame, aspect: Fraction | None = None) -> np.ndarray:
    """Converts one frame.

    Args:
      frame: as decoded, in any pixel format.
      aspect: width of a pixel by its height; None is square.

    Returns:
      uint8 [H, W, 3], RGB, turned and mirrored as the frame's display matrix says; read-only.
    """
    width, height = _unturned_size(frame, aspect, self._max_side)
    guess = untagged_space(frame.height) if frame.colorspace == _UNTAGGED else None
    image = self._reformatter.reformat(
      frame, width, height, 'rgb24', src_colorspace=guess, interpolation='BICUBIC', threads=1
    ).to_ndarray()
    # A frame whose side data was read stays in memory until a garbage collection: read one for each rotation.
    if frame.rotation not in self._turns:
      self._turns[frame.rotation] = _matrix(frame)
    a, b, c, d = self._turns[frame.rotation]
    if abs(b) > abs(a):
      image, a, d = image.transpose(1, 0, 2), c, b
    image = np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
    image.flags.writeable = False
    return image
