"""All frames of a video file in the order of their times, or those that samples at a rate will need."""

from __future__ import annotations

import bisect
import collections
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av

from dlkd_jax.video.damage import Chain, Damage
from dlkd_jax.video.files import DamagedVideoError, OpenVideo, VideoError, open_video

# A file that ends this much before its declared length is truncated; less is how muxers round.
_SHORT = Fraction(1, 2)
# No frame is shown for this long past the declared end: such a timestamp is damage.
_JUMP = 60
# Half a millisecond: what a stream that counts milliseconds may have added in rounding.
_ROUNDED = Fraction(1, 2000)
# Packets looked ahead at most; an encoder shuffles 16 at most.
_HELD = 64


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


def samples_before(end: Fraction, period: Fraction, tick: Fraction) -> int:
  """How many of the sample times 0, period, 2 period, … lie before a timestamp of a clock with that tick (seconds).

  Timestamps are rounded: one that is at most half a tick after a sample time counts as equal to it. That is at most
  half a millisecond, since a clock with longer ticks counts frames and does not round.
  """
  return max(0, math.ceil((end - min(tick / 2, _ROUNDED)) / period))


def packet_time(video: OpenVideo, packet: av.Packet, end: bool = False) -> Fraction | None:
  """Seconds since the video's start at which a packet of any stream begins or ends; None if it does not say."""
  stamp = packet.pts if packet.pts is not None else packet.dts
  if stamp is None:
    return None
  return (stamp + (packet.duration or 0 if end else 0)) * Fraction(packet.time_base) - video.start


def _packets(video: OpenVideo, damage: Damage) -> Iterator[av.Packet]:
  """The video stream's packets, noting the incomplete ones and an end before the declared one."""
  # A declared length of the whole file is reached by whichever stream is longest.
  own = bool(video.stream.duration)
  packets = video.container.demux(video.stream) if own else video.container.demux()
  reached, incomplete = Fraction(0), None
  try:
    for packet in packets:
      time = packet_time(video, packet, end=True)
      reached = max(reached, time or reached)
      if packet.stream_index != video.stream.index or packet.size == 0:
        continue
      if incomplete is not None:
        damage.note('a packet is incomplete', incomplete)
      incomplete = (time or reached) if packet.is_corrupt else None
      yield packet
  except (av.error.FFmpegError, OSError) as error:
    damage.note(f'reading fails ({error.strerror})', reached)
  # Some formats declare when the video ends, others how long it lasts: either is taken as whole.
  if video.declared is not None and max(reached, reached + video.start) < video.declared - _SHORT:
    damage.note(f'is truncated: {float(video.declared):.2f} s are declared and it ends', reached)
  elif incomplete is not None:
    damage.note('is truncated: its last packet is incomplete', incomplete)


def _needed(
  video: OpenVideo, packets: Iterable[av.Packet], period: Fraction | None
) -> Iterator[tuple[av.Packet, bool]]:
  """Packets in their order, and whether a sample time falls to each one's frame.

  That is known once the frame shown next is: no packet to come is shown before its decoding time, and decoding times
  increase. So a few packets are held back. A packet that says too little is needed.
  """
  held: collections.deque[av.Packet] = collections.deque()
  stamps: list[int] = []
  for packet in packets:
    if period is None or packet.pts is None or packet.dts is None or len(held) >= _HELD:
      yield from ((earlier, True) for earlier in (*held, packet))
      held.clear()
      continue
    held.append(packet)
    bisect.insort(stamps, packet.pts)
    del stamps[: -2 * _HELD]
    while held:
      place = bisect.bisect_right(stamps, held[0].pts)
      if place == len(stamps) or stamps[place] > packet.dts:
        break
      time, following = (stamp * video.tick - video.start for stamp in (held[0].pts, stamps[place]))
      counts = (samples_before(end, period, video.tick) for end in (time, following))
      yield held.popleft(), len(set(counts)) > 1
  yield from ((packet, True) for packet in held)


def _decode(video: OpenVideo, damage: Damage, period: Fraction | None) -> Iterator[av.VideoFrame]:
  """The whole frames of the stream in the order in which they are shown."""
  chain = Chain()
  decoder = video.stream.codec_context
  skips = False
  for packet, needed in _needed(video, _packets(video, damage), period):
    chain.send(packet)
    if packet.is_corrupt:
      chain.lose()
      continue
    if skips == needed:
      skips = not needed
      decoder.skip_frame = 'NONREF' if skips else 'DEFAULT'
    try:
      frames = packet.decode()
    except av.error.FFmpegError as error:
      damage.note(f'a packet cannot be decoded ({error.strerror})', packet_time(video, packet) or Fraction(0))
      chain.lose(max(decoder.thread_count - 1, 0))  # With several threads it may be a packet before that failed.
      continue
    yield from _whole(video, frames, damage, chain)
  try:
    frames = video.stream.decode(None)  # What is still inside of the decoder.
  except av.error.FFmpegError as error:
    damage.note(f'the end cannot be decoded ({error.strerror}), after the packet', Fraction(0))
    return
  yield from _whole(video, frames, damage, chain)


def _whole(video: OpenVideo, frames: list[av.VideoFrame], damage: Damage, chain: Chain) -> Iterator[av.VideoFrame]:
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


def decoded_frames(
  path: str | os.PathLike[str], threads: int = 0, period: Fraction | None = None
) -> Iterator[DecodedFrame]:
  """Reads all whole frames of a video in the order of their times.

  Args:
    path: the file.
    threads: decoding threads; 0 takes as many as there are cores.
    period: frames that are shown at no multiple of it (seconds) may be left out, where that saves decoding them. The
      frame shown at a multiple is still the latest one before it, and the last frame of the video is always there.

  Yields:
    Frames with times that never decrease. Frames that the decoder had to patch, and frames that build on lost ones,
    are left out, as damage.

  Raises:
    VideoError: the file cannot be opened or has not one whole frame (before the first frame).
    DamagedVideoError: a part of it is missing or broken (after the last frame).
  """
  with open_video(path, threads) as video:
    default = _default_duration(video)
    damage = Damage()
    time = None
    for frame in _decode(video, damage, period):
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
