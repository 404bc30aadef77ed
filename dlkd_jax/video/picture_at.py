"""The picture of a video at a time."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from dlkd_jax.video import pictures
from dlkd_jax.video.files import OpenVideo, VideoError, open_video


def picture_at(path: str, time: float, side: int) -> np.ndarray:
  """Decodes the frame that is shown at a time, from the key frame before it on.

  Args:
    path: of the video.
    time: seconds since the beginning of the video stream; past the end it is the last frame.
    side: longer side of the picture at most, pixels.

  Returns:
    uint8 [H, W, 3], RGB, upright.

  Raises:
    VideoError: the file cannot be opened, or has no frame that can be decoded.
  """
  # Where the file's index is wrong, a jump lands behind the time, or nowhere: then it is read from the front.
  for jump in (True, False):
    with open_video(path, threads=1) as video:
      if (found := _shown_at(video, time, jump)) is not None:
        return pictures.Converter(side)(found, video.stream.sample_aspect_ratio)
  raise VideoError(path, 'has no frame that can be decoded')


def _shown_at(video: OpenVideo, time: float, jump: bool) -> av.VideoFrame | None:
  """The latest frame at the time or before it; without a jump, the first one where all are later."""
  found, until = None, Fraction(time) + min(video.tick / 2, Fraction(1, 2000))
  try:
    if jump:
      video.container.seek(int((Fraction(time) + video.start) / video.tick), stream=video.stream)
    for frame in video.container.decode(video.stream):
      if frame.pts is None or frame.is_corrupt:
        continue
      if frame.pts * video.tick - video.start > until:
        return found or (None if jump else frame)
      found = frame
  except av.error.FFmpegError:
    pass  # Damage behind the frame does not matter; without a frame, the caller says so.
  return found
