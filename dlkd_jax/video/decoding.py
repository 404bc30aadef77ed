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
    except DamagedVideoError as damage:  # `frames` are right; the file is not whole.
      report(damage.path, damage.reason)
    except VideoError as error:  # There is not one frame.
      report(error.path, error.reason)
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

from dlkd_jax.video import pictures
from dlkd_jax.video.files import DamagedVideoError, OpenVideo, VideoError, open_video

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

# A file that ends this much before its declared length is truncated; less is how muxers round.
_SHORT = Fraction(1, 2)
# No frame is shown for this long past the declared end: such a timestamp is damage.
_JUMP = 60
# Half a millisecond: what a stream that counts milliseconds may have added in rounding.
_ROUNDED = Fraction(1, 2000)


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


class DecodedFrame(NamedTuple):
  """A frame as decoded, from `time` on shown for `duration` (seconds) or until the next one.

  `aspect` is the width of a pixel by its height, None for square ones; see `pictures.Converter`.
  `tick` is the unit of the stream's clock, seconds: what times are rounded to.
  """

  time: Fraction
  duration: Fraction
  frame: av.VideoFrame
  aspect: Fraction | None
  tick: Fraction


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


class _Damage:
  """What went wrong in a file: how often each thing, and when first."""

  def __init__(self):
    self._found: dict[str, tuple[int, float]] = {}

  def note(self, what: str, time: Fraction) -> None:
    count, first = self._found.get(what, (0, float(time)))
    self._found[what] = count + 1, first

  def __str__(self) -> str:
    parts = []
    for what, (count, first) in self._found.items():
      parts.append(f'{what} at {first:.2f} s' if count == 1 else f'{count} times {what}, first at {first:.2f} s')
    return '; '.join(parts)


class _Chain:
  """Which frames are whole: a frame builds on packets before it, so one that is lost spoils those up to a key frame."""

  def __init__(self):
    self._sent = 0
    self._places: dict[int | None, int] = {}  # By timestamp, of packets whose frame has not come out yet.
    self._broken: list[list] = []  # [place of the lost packet, of the next key packet, timestamp of that one].

  def send(self, packet: av.Packet) -> None:
    """A packet goes into the decoder."""
    self._sent += 1
    self._places[packet.pts] = self._sent
    if len(self._places) > 1024:  # Far more than any decoder holds back: their frames never came.
      self._places.pop(next(iter(self._places)))
    if self._broken and self._broken[-1][1] is None and packet.is_keyframe:
      self._broken[-1][1:] = self._sent, packet.pts

  def lose(self, back: int = 0) -> None:
    """The packet sent last, or one of the `back` before it, is lost."""
    place = self._sent - back
    if self._broken and self._broken[-1][1] is None:
      self._broken[-1][0] = min(self._broken[-1][0], place)
    else:
      self._broken = [*self._broken[-8:], [place, None, None]]

  def whole(self, frame: av.VideoFrame) -> bool:
    """Whether a frame that came out builds on no lost packet; a frame that is not whole itself spoils others."""
    place = self._places.pop(frame.pts, self._sent)
    if frame.is_corrupt:
      self.lose(self._sent - place)
      return False
    # Frames after a key frame in the file and before it in time may build on what was before both.
    return all(
      place < lost or (key is not None and place >= key and frame.pts is not None and frame.pts >= (stamp or 0))
      for lost, key, stamp in self._broken
    )


def _packet_time(video: OpenVideo, packet: av.Packet, end: bool = False) -> Fraction | None:
  """Seconds since the video's start at which a packet of any stream begins or ends; None if it does not say."""
  stamp = packet.pts if packet.pts is not None else packet.dts
  if stamp is None:
    return None
  return (stamp + (packet.duration or 0 if end else 0)) * Fraction(packet.time_base) - video.start


def _packets(video: OpenVideo, damage: _Damage, chain: _Chain) -> Iterator[av.Packet]:
  """The video stream's whole packets, noting damage and an end before the declared one."""
  # A declared length of the whole file is reached by whichever stream is longest.
  own = bool(video.stream.duration)
  packets = video.container.demux(video.stream) if own else video.container.demux()
  reached, incomplete = Fraction(0), None
  try:
    for packet in packets:
      time = _packet_time(video, packet, end=True)
      reached = max(reached, time or reached)
      if packet.stream_index != video.stream.index or packet.size == 0:
        continue
      if incomplete is not None:
        damage.note('a packet is incomplete', incomplete)
      incomplete = (time or reached) if packet.is_corrupt else None
      chain.send(packet)
      if packet.is_corrupt:
        chain.lose()
      else:
        yield packet
  except (av.error.FFmpegError, OSError) as error:
    damage.note(f'reading fails ({error.strerror})', reached)
  # Some formats declare when the video ends, others how long it lasts: either is taken as whole.
  if video.declared is not None and max(reached, reached + video.start) < video.declared - _SHORT:
    damage.note(f'is truncated: {float(video.declared):.2f} s are declared and it ends', reached)
  elif incomplete is not None:
    damage.note('is truncated: its last packet is incomplete', incomplete)


def _decode(video: OpenVideo, damage: _Damage) -> Iterator[av.VideoFrame]:
  """The whole frames of the stream in the order in which they are shown."""
  chain = _Chain()
  for packet in _packets(video, damage, chain):
    try:
      frames = packet.decode()
    except av.error.FFmpegError as error:
      damage.note(f'a packet cannot be decoded ({error.strerror})', _packet_time(video, packet) or Fraction(0))
      # With several threads the error may be that of a packet sent before.
      chain.lose(max(video.stream.codec_context.thread_count - 1, 0))
      continue
    yield from _whole(video, frames, damage, chain)
  try:
    frames = video.stream.decode(None)  # What is still inside of the decoder.
  except av.error.FFmpegError as error:
    damage.note(f'the end cannot be decoded ({error.strerror}), after the packet', Fraction(0))
    return
  yield from _whole(video, frames, damage, chain)


def _whole(video: OpenVideo, frames: list[av.VideoFrame], damage: _Damage, chain: _Chain) -> Iterator[av.VideoFrame]:
  for frame in frames:
    if chain.whole(frame):
      yield frame
    else:
      damage.note(
        'a frame is not whole', frame.pts * video.tick - video.start if frame.pts is not None else Fraction(0)
      )


def _default_duration(video: OpenVideo) -> Fraction:
  """Seconds a frame is shown if it does not say so itself."""
  rate = video.stream.average_rate or video.stream.guessed_rate
  return 1 / Fraction(rate) if rate else video.tick


def decoded_frames(path: str | os.PathLike[str], threads: int = 0) -> Iterator[DecodedFrame]:
  """Reads all whole frames of a video in the order of their times.

  Args:
    path: the file.
    threads: decoding threads; 0 takes as many as there are cores.

  Yields:
    Frames with times that never decrease. Frames that the decoder had to patch, and frames that build on lost ones,
    are left out, as damage.

  Raises:
    VideoError: the file cannot be opened or has not one whole frame (before the first frame).
    DamagedVideoError: a part of it is missing or broken (after the last frame).
  """
  with open_video(path, threads) as video:
    default = _default_duration(video)
    damage = _Damage()
    time = None
    for frame in _decode(video, damage):
      if frame.pts is None:
        damage.note('a frame has no timestamp, after the one', time or Fraction(0))
        continue
      now = frame.pts * video.tick - video.start
      if time is not None and now < time:
        damage.note('the timestamps go back', time)
      elif now - (time or 0) > _JUMP and video.declared is not None and now > video.declared + _SHORT:
        damage.note(f'the timestamps jump to {float(now):.2f} s, past the declared end,', time or Fraction(0))
      else:
        time = now
        lasts = frame.duration * video.tick or default
        yield DecodedFrame(now, lasts, frame, video.stream.sample_aspect_ratio, video.tick)
    if time is None:
      raise VideoError(path, f'has no whole frame ({damage})' if str(damage) else 'has no frame')
    if str(damage):
      raise DamagedVideoError(path, str(damage))


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
    raise ValueError(f'rate is {rate}; expected samples a second above 0')
  if max_side is not None and max_side < 1:
    raise ValueError(f'max_side is {max_side}; expected pixels above 0, or None')
  return _sampled(path, 1 / Fraction(rate).limit_denominator(10**6), max_side, threads)


def _sampled(path, period: Fraction, max_side: int | None, threads: int) -> Iterator[SampledFrame]:
  damage, shown, k, any_sample = None, None, 0, False
  convert = pictures.Converter(max_side)
  with contextlib.closing(decoded_frames(path, threads)) as frames:
    while True:
      try:
        following = next(frames, None)
      except DamagedVideoError as error:
        damage, following = error, None
      until = following.time if following else shown.time + shown.duration
      slack = min((following or shown).tick / 2, _ROUNDED)
      later = max(k, math.ceil((until - slack) / period))  # The first k / rate that `shown` is not shown at.
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
  ends = (_packet_time(video, packet, end=True) for packet in video.container.demux(video.stream))
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
