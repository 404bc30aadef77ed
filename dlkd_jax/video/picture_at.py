"""The picture of a video at a time."""

from __future__ import annotations

import time as clock
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

from dlkd_jax.video import frames, pictures
from dlkd_jax.video.damage import Damage
from dlkd_jax.video.files import OpenVideo, VideoError, open_video

_BUDGET = 3.0
# Where an index is wrong, or leads to no key frame, or to one that is shown later, a jump goes further back.
_BACK = (0, 1, 10, 60)
# Files whose clock may start again in the middle are read from the front; of larger ones that takes too long.
_FROM_THE_FRONT = 256 << 20
_MOST_BYTES = 256 << 20  # Of packets that are held.
_LAST_STAMP = 2**62


def picture_at(path: str, time: float, side: int, budget: float = _BUDGET) -> np.ndarray:
  """Decodes the frame that is shown at a time.

  Args:
    path: of the video.
    time: seconds on a player's clock, as samples have them; past the end it is the last frame, before the first frame
      it is that one.
    side: longer side of the picture at most, pixels.
    budget: seconds that this may take. A frame that takes longer, since its key frame is far before it, is replaced by
      the latest one that was decoded until then.

  Returns:
    uint8 [H, W, 3], RGB, upright.

  Raises:
    VideoError: the file cannot be opened, or has no frame that can be decoded, or none within the budget.
  """
  deadline = clock.monotonic() + budget
  with open_video(path, threads=1) as video:
    until = Fraction(time) + min(video.tick / 2, Fraction(1, 2000)) + video.zero
    joined = video.joins and video.container.size <= _FROM_THE_FRONT
    found = None if joined else _after_a_jump(video, time, until, deadline)
    aspect = frames.pixel_aspect(video)
  if found is None:
    with open_video(path, threads=1) as video:
      packets, stamp = _group(video, frames.stream_packets(video, Damage()), until, deadline)
      # Where all frames are later it is the first one.
      stamp = next((packet.pts for packet in packets if packet.pts is not None), None) if stamp is None else stamp
      found = _shown(video, packets, stamp, until, deadline)
  if found is None:
    late = clock.monotonic() > deadline
    raise VideoError(path, f'has no frame that can be decoded{f" within {budget:g} s" if late else ""}')
  return pictures.Converter(side)(found, aspect)


def _after_a_jump(video: OpenVideo, time: float, until: Fraction, deadline: float) -> av.VideoFrame | None:
  """The frame, from a key frame before it that the file's index leads to; None where it leads to none."""
  for back in _BACK:
    if clock.monotonic() > deadline:
      return None
    try:
      there = max(video.start, Fraction(time) + video.zero - back)
      video.container.seek(min(int(there / video.tick), _LAST_STAMP), stream=video.stream)
      packets, stamp = _group(video, video.container.demux(video.stream), until, deadline)
    except (av.error.FFmpegError, IndexError):
      return None
    # Pictures before a key frame that come behind it build on what was before it, too.
    first = packets[0] if packets else None
    if stamp is not None and first and first.is_keyframe and first.pts is not None and first.pts <= stamp:
      return _shown(video, packets, stamp, until, deadline)
  return None


def _group(
  video: OpenVideo, packets: Iterable[av.Packet], until: Fraction, deadline: float
) -> tuple[list[av.Packet], int | None]:
  """The packets from the latest key frame at a time, or before it, on, and the timestamp of the frame shown then.

  The time is on the stream's own clock. Where all frames are later the timestamp is None.
  """
  group: list[av.Packet] = []
  stamp, held = None, 0
  for packet in packets:
    if packet.stream_index != video.stream.index or not packet.size:
      continue
    seconds = packet.pts * video.tick if packet.pts is not None else None
    if seconds is not None:
      if packet.is_keyframe and seconds <= until:
        group, held = [], 0
      if seconds <= until and (stamp is None or packet.pts > stamp):
        stamp = packet.pts
    group.append(packet)
    held += packet.size
    past = packet.dts is not None and packet.dts * video.tick > until
    if past or held > _MOST_BYTES or clock.monotonic() > deadline:
      break
  return group, stamp


def _shown(
  video: OpenVideo, packets: list[av.Packet], stamp: int | None, until: Fraction, deadline: float
) -> av.VideoFrame | None:
  """Decodes the frame of a timestamp; where it is damaged, or takes too long, the latest one before it."""
  decoder, found = video.stream.codec_context, None
  for packet in (*packets, None):
    try:
      if packet is not None:
        decoder.skip_frame = 'DEFAULT' if packet.pts in (stamp, None) else 'NONREF'
      frames = decoder.decode(packet)
    except av.error.FFmpegError:
      continue  # Damage beside the frame does not matter; without a frame, the caller says so.
    for frame in frames:
      if frame.is_corrupt or frame.pts is None:
        continue
      if frame.pts == stamp:
        return frame
      if found is None or (found.pts < frame.pts and frame.pts * video.tick <= until):
        found = frame
    if found is not None and clock.monotonic() > deadline:
      return found
  return found
