"""All frames of a video file in the order of their times, or those that samples at a rate will need."""

from __future__ import annotations

import bisect
import collections
import math
import os
import time as clock
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import av

from dlkd_jax.video.clock import Clock
from dlkd_jax.video.damage import Chain, Damage
from dlkd_jax.video.files import DamagedVideoError, OpenVideo, VideoError, open_video

# A file that ends this much before its declared length is truncated; less is how muxers round.
_SHORT = Fraction(1, 2)
# No frame is shown for this long past the declared end: such a timestamp is damage.
_JUMP = 60
# Half a millisecond: what a stream that counts milliseconds may have added in rounding.
_ROUNDED = Fraction(1, 2000)
# No picture has pixels that are this many times as wide as high, or as high as wide.
_MOST_ASPECT = 10
# Where parts were joined, what is counted in a transport stream does not go on: of the packets that are this near none
# is missing, though the demuxer thinks so.
_BESIDE = 3
# What may follow the last picture of a file: sound, and an index.
_REST = 4096
# Packets looked ahead at most; an encoder shuffles 16 at most.
_HELD = 64


class DecodedFrame(NamedTuple):
  """A frame as decoded, from `time` on (seconds, on a player's clock) shown for `duration` or until the next one.

  `aspect` is the width of a pixel by its height, None for square ones; see `pictures.Converter`.
  `tick` is the unit of the stream's clock, seconds: what times are rounded to.
  `start` is where the stream begins, seconds on a player's clock.
  """

  time: Fraction
  duration: Fraction
  frame: av.VideoFrame
  aspect: Fraction | None
  tick: Fraction
  start: Fraction


def samples_before(end: Fraction, period: Fraction, tick: Fraction) -> int:
  """How many of the sample times 0, period, 2 period, … lie before a timestamp of a clock with that tick (seconds).

  Timestamps are rounded: one that is at most half a tick after a sample time counts as equal to it.
  """
  return max(0, math.ceil((end - rounding(tick)) / period))


def rounding(tick: Fraction) -> Fraction:
  """How much a timestamp of a clock with that tick may have been rounded up, seconds.

  That is at most half a millisecond, since a clock with longer ticks counts frames and does not round.
  """
  return min(tick / 2, _ROUNDED)


def packet_time(video: OpenVideo, packet: av.Packet, end: bool = False) -> Fraction | None:
  """Seconds since the stream's beginning at which a packet of any stream begins or ends; None if it does not say."""
  stamp = packet.pts if packet.pts is not None else packet.dts
  if stamp is None:
    return None
  return (stamp + (packet.duration or 0 if end else 0)) * Fraction(packet.time_base) - video.start


def stream_packets(video: OpenVideo, damage: Damage) -> Iterator[av.Packet]:
  """The video stream's packets on one clock, noting the incomplete ones and an end before the declared one."""
  # A declared length of the whole file is reached by whichever stream is longest.
  own = bool(video.stream.duration)
  packets = video.container.demux(video.stream) if own else video.container.demux()
  clock = Clock(video.tick, video.joins, _default_duration(video))
  held: collections.deque[tuple[av.Packet, Fraction]] = collections.deque()
  reached, beside, end = Fraction(0), 0, 0
  try:
    for packet in packets:
      time = packet_time(video, packet, end=True)
      reached = max(reached, time or reached)
      if packet.stream_index != video.stream.index or packet.size == 0:
        continue
      end = max(end, (packet.pos or 0) + packet.size)
      beside -= 1
      if clock.put_right(packet):
        damage.remark('its clock starts again or jumps, and is taken to go on,', reached)
        beside = _BESIDE
        damage.spare(*(earlier for earlier, _ in held))
      if beside > 0:
        damage.spare(packet)
      held.append((packet, time or reached))
      while held and (len(held) > _BESIDE or not damage.incomplete(held[0][0])):
        yield _told(held.popleft(), damage)
  except (av.error.FFmpegError, OSError, IndexError) as error:  # IndexError: of a stream that no header names.
    damage.note(f'reading fails ({getattr(error, "strerror", error)})', reached)
  last = held[-1] if held else None
  while held:
    yield held.popleft()[0] if len(held) == 1 else _told(held.popleft(), damage)
  # Some formats declare when the video ends, others how long it lasts: either is taken as whole.
  if video.declared is not None and max(reached, reached + video.start) < video.declared - _SHORT:
    damage.note(f'is truncated: {float(video.declared):.2f} s are declared and it ends', reached)
  elif last is not None and damage.incomplete(last[0]):
    damage.note('is truncated: its last packet is incomplete', last[1])
  elif clock.breaks and video.container.size - end > video.container.size // 10 + _REST:
    damage.note(f'is read no further than {end:,} of {video.container.size:,} bytes, which is', reached)


def _told(packet: tuple[av.Packet, Fraction], damage: Damage) -> av.Packet:
  """Notes a packet with its time as damage if it is incomplete."""
  if damage.incomplete(packet[0]):
    damage.note('a packet is incomplete', packet[1])
  return packet[0]


def _needed(
  video: OpenVideo, packets: Iterable[av.Packet], period: Fraction | None, offsets: Sequence[Fraction]
) -> Iterator[tuple[av.Packet, bool]]:
  """Packets in their order, and whether a sample time, or a time that far from one, falls to each one's frame.

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
      ends = (time, following)
      needed = any(len({samples_before(end - each, period, video.tick) for end in ends}) > 1 for each in offsets)
      yield held.popleft(), needed
  yield from ((packet, True) for packet in held)


def _decode(
  video: OpenVideo, damage: Damage, period: Fraction | None, offsets: Sequence[Fraction], deadline: float
) -> Iterator[av.VideoFrame]:
  """The whole frames of the stream in the order in which they are shown."""
  chain = Chain()
  decoder = video.stream.codec_context
  skips = False
  for packet, needed in _needed(video, stream_packets(video, damage), period, offsets):
    if clock.monotonic() > deadline:
      damage.note('takes too long to read, as far as', packet_time(video, packet) or Fraction(0))
      return
    chain.send(packet)
    if damage.incomplete(packet):
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
      damage.note('a frame is not whole', frame.pts * video.tick - video.zero if frame.pts is not None else Fraction(0))


def pixel_aspect(video: OpenVideo, damage: Damage | None = None) -> Fraction | None:
  """The width of a pixel by its height; None for square ones, and where the file says what no picture has."""
  aspect = video.stream.sample_aspect_ratio
  if aspect is None or Fraction(1, _MOST_ASPECT) <= aspect <= _MOST_ASPECT:
    return aspect
  if damage is not None:
    damage.remark(f'its pixels are said to be {aspect.numerator}:{aspect.denominator}, and taken for square ones')
  return None


def _default_duration(video: OpenVideo) -> Fraction:
  """Seconds a frame is shown if it does not say so itself."""
  rate = video.stream.average_rate or video.stream.guessed_rate
  return 1 / Fraction(rate) if rate else video.tick


def decoded_frames(
  path: str | os.PathLike[str],
  threads: int = 0,
  period: Fraction | None = None,
  notes: list[str] | None = None,
  offsets: Sequence[Fraction] = (Fraction(0),),
) -> Iterator[DecodedFrame]:
  """Reads all whole frames of a video in the order of their times.

  Args:
    path: the file.
    threads: decoding threads; 0 takes as many as there are cores.
    period: frames that are shown at no multiple of it (seconds, from the stream's beginning) may be left out, where
      that saves decoding them. The frame shown at a multiple is still the latest one before it, and the last frame of
      the video is always there.
    notes: what is odd about the file without any harm is added to it.
    offsets: seconds that are added to each multiple of the period, for several frames around it.

  Yields:
    Frames with times that never decrease. Frames that the decoder had to patch, and frames that build on lost ones,
    are left out, as damage.

  Raises:
    VideoError: the file cannot be opened or has not one whole frame (before the first frame).
    DamagedVideoError: a part of it is missing or broken (after the last frame).
  """
  with open_video(path, threads) as video:
    yield from frames_of(video, period, notes, offsets=offsets)


def frames_of(
  video: OpenVideo,
  period: Fraction | None = None,
  notes: list[str] | None = None,
  deadline: float = math.inf,
  offsets: Sequence[Fraction] = (Fraction(0),),
) -> Iterator[DecodedFrame]:
  """Reads an open video from its beginning as `decoded_frames` does, which see; until `time.monotonic()` is so much."""
  default, damage = _default_duration(video), Damage(notes)
  aspect = pixel_aspect(video, damage)
  time = None
  for frame in _decode(video, damage, period, offsets, deadline):
    if frame.pts is None:
      damage.note('a frame has no timestamp, after the one', time or Fraction(0))
      continue
    now = frame.pts * video.tick - video.zero
    if time is not None and now < time:
      damage.note('the timestamps go back', time)
    elif now - (time or 0) > _JUMP and video.ends is not None and now > video.ends + _SHORT:
      damage.note(f'the timestamps jump to {float(now):.2f} s, past the declared end,', time or Fraction(0))
    else:
      time = now
      lasts = frame.duration * video.tick or default
      yield DecodedFrame(now, lasts, frame, aspect, video.tick, video.offset)
  if time is None:
    raise VideoError(video.path, f'has no whole frame ({damage})' if str(damage) else 'has no frame')
  if str(damage):
    raise DamagedVideoError(video.path, str(damage))
