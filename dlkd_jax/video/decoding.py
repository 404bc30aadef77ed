"""Frames of a video file with the times at which its stream shows them, all of them or sampled at a rate.

Every time is in seconds since the beginning of the video stream, and follows from the stream's timestamps alone: frames
are not counted, so that a video of variable frame rate comes out right. Files are read once from front to back and one
frame is held at a time: the memory does not grow with the length.

Damage: a file that is cut short or broken in the middle gives every frame that is whole, and then, after the last one,
raises `DamagedVideoError`. So a caller keeps what it was given and reports the file:

    frames = []
    try:
      for frame in sample_frames(path, rate=1):
        frames.append(frame)
    except DamagedVideoError as damage:  # `frames` are what is whole of the file.
      report(damage.path, damage.reason)
    except VideoError as error:  # There is not one frame.
      report(error.path, error.reason)

Damage is what demuxer and decoder notice. Where they do not (wrong bytes inside of a picture that still decode, which
happens most in webm and avi), a frame with wrong content passes as whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.video import pictures
from dlkd_jax.video.files import DamagedVideoError, OpenVideo, VideoError, open_video
from dlkd_jax.video.frames import DecodedFrame, decoded_frames, packet_time, samples_before

__all__ = (
  'DamagedVideoError',
  'DecodedFrame',
  'SampledFrame',
  'VideoError',
  'VideoInfo',
  'decoded_frames',
  'probe',
  'sample_frames',
)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a file says about its video.

  Attributes:
    duration: seconds; what the file declares (a truncated one too), or else what its packets last.
    width, height: pixels as shown: turned upright, pixels made square.
    rotation: degrees clockwise by which the stored frames are turned: 0, 90, 180 or 270.
    rate: frames a second on average; 0 where the file does not tell.
    codec, container: FFmpeg's names.
  """

  duration: float
  width: int
  height: int
  rotation: int
  rate: float
  codec: str
  container: str


class SampledFrame(NamedTuple):
  """The picture at a sample time.

  Attributes:
    time: the sample time, seconds since the beginning of the video stream.
    shown: seconds at which the frame of this picture began to be shown; at most `time`.
    image: uint8 [H, W, 3], RGB, upright. Read-only: samples of one frame share it.
  """

  time: float
  shown: float
  image: np.ndarray


def sample_frames(
  path: str | os.PathLike[str], rate: float, max_side: int | None = None, threads: int = 0
) -> Iterator[SampledFrame]:
  """Samples a video at the times k / rate, k = 0, 1, …

  The picture of a sample is the frame that is shown at that time: the latest one whose timestamp is not after it, where
  timestamps count as equal within half a unit of the stream's clock, at most half a millisecond (what rounding to
  milliseconds adds). A frame is taken again if the rate is above the video's.

  The first sample is at 0, the beginning of the stream; if its first whole frame comes later, the samples before it are
  left out. The last sample is the last k / rate before the end of the last frame, which is its timestamp plus its
  duration. A video that no sample time falls into gives its last frame, at that frame's own time.

  Args:
    path: the file.
    rate: samples a second, above 0; to a millionth.
    max_side: the longer side of the pictures is at most this many pixels; None leaves them as they are.
    threads: decoding threads; 0 takes as many as there are cores.

  Raises:
    ValueError: the rate or the size is not above 0 (at once).
    VideoError: the file cannot be decoded at all (before the first sample).
    DamagedVideoError: some of it is missing or broken (after the last sample); see above.
  """
  if not (math.isfinite(rate) and rate >= 1e-6):
    raise UserError(f'rate is {rate}; expected samples a second above 0')
  if max_side is not None and max_side < 1:
    raise UserError(f'max_side is {max_side}; expected pixels above 0, or None')
  return _sampled(path, 1 / Fraction(rate).limit_denominator(10**6), max_side, threads)


def _sampled(path, period: Fraction, max_side: int | None, threads: int) -> Iterator[SampledFrame]:
  damage, shown, k, any_sample = None, None, 0, False
  convert = pictures.Converter(max_side)
  with contextlib.closing(decoded_frames(path, threads, period)) as frames:
    while True:
      try:
        following = next(frames, None)
      except DamagedVideoError as error:
        damage, following = error, None
      until = following.time if following else shown.time + shown.duration
      # The first sample that `shown` is not shown at.
      later = max(k, samples_before(until, period, (following or shown).tick))
      if shown is not None and k < later:
        any_sample = True
        image = convert(shown.frame, shown.aspect)
        yield from (SampledFrame(float(n * period), float(shown.time), image) for n in range(k, later))
      if following is None:
        break
      shown, k = following, later
    if not any_sample:
      yield SampledFrame(float(shown.time), float(shown.time), convert(shown.frame, shown.aspect))
  if damage is not None:
    raise damage


def _measured(video: OpenVideo) -> Fraction:
  """Seconds that a video lasts whose file does not say so: its packets are read through, not decoded."""
  ends = (packet_time(video, packet, end=True) for packet in video.container.demux(video.stream))
  try:
    return max((end for end in ends if end is not None), default=Fraction(0))
  except av.error.FFmpegError as error:
    raise VideoError(video.path, f'cannot be read to its end: {error.strerror}') from error


def probe(path: str | os.PathLike[str]) -> VideoInfo:
  """Reads what a file says about its video, and decodes its first frame as a proof that it can be.

  Raises:
    VideoError: the file cannot be opened or has not one whole frame.
  """
  with contextlib.closing(decoded_frames(path, threads=1)) as frames:
    first = next(frames)
  width, height = pictures.shown_size(first.frame, first.aspect)
  with open_video(path) as video:
    rate = video.stream.average_rate or video.stream.guessed_rate or 0
    return VideoInfo(
      duration=float(video.declared if video.declared is not None else _measured(video)),
      width=width,
      height=height,
      rotation=pictures.rotation(first.frame),
      rate=float(rate),
      codec=video.stream.codec_context.name,
      container=video.container.format.name,
    )
