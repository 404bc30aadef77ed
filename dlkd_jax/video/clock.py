"""One clock for a stream whose own jumps: recordings that were joined end to end, or interrupted."""

from __future__ import annotations

from fractions import Fraction

import av

# Seconds. Formats that are made to be cut and joined mean nothing by a jump of their clock; FFmpeg's threshold, too.
_FORWARD = 10
# Frames come in the order in which they are decoded: those times go back by a rounding error or not at all.
_BACK = 1
# Without them it is told by when they are shown, which goes back and forth by some frames.
_BACK_SHOWN = 10


class Clock:
  """Shifts the timestamps of a stream's packets so that what follows a break goes on where the part before it ended.

  A clock that goes back starts again: a second recording begins there. One that jumps ahead is followed, as players do,
  but in `joins` formats (MPEG-TS and -PS), whose players go on, too. Where the stamps fit again without the latest
  shift, a stretch with wrong ones is over, and the shift is taken back.

  Attributes:
    breaks: how often the clock started again or was joined.
  """

  def __init__(self, tick: Fraction, joins: bool, usual: Fraction):
    """`tick`: seconds a unit of the stream's clock. `usual`: seconds that a frame is shown that does not say it."""
    unit = lambda seconds: max(1, round(seconds / tick))  # noqa: E731
    self._forward, self._back, self._back_shown = unit(_FORWARD), unit(_BACK), unit(_BACK_SHOWN)
    self._joins, self._usual = joins, unit(usual)
    self._shift = self._before = self.breaks = 0
    # Of the packet before, with its shift: when it is decoded and shown, and when the next one is expected to be.
    self._dts = self._pts = self._next_dts = self._next_pts = None

  def put_right(self, packet: av.Packet) -> bool:
    """Shifts a packet's stamps; returns whether the clock started again, or was joined, at it."""
    pts = packet.pts if packet.pts is not None else packet.dts
    dts = packet.dts
    if pts is None:
      return False
    if dts is not None and abs(pts - dts) > self._forward:
      dts = None  # A guess from frames on both sides of a jump.
    broke = self._pts is not None and self._breaks(pts, dts, packet.is_keyframe)
    if self._shift:
      packet.pts = None if packet.pts is None else packet.pts + self._shift
    if self._shift or dts is None:
      packet.dts = None if dts is None else dts + self._shift
    lasts = packet.duration if 0 < (packet.duration or 0) <= self._forward else self._usual
    self._pts = pts + self._shift
    self._next_pts = self._pts + lasts if broke else max(self._pts + lasts, self._next_pts or 0)
    if dts is not None:
      self._dts, self._next_dts = dts + self._shift, dts + self._shift + lasts
    return broke

  def _breaks(self, pts: int, dts: int | None, key: bool) -> bool:
    dts = None if self._dts is None else dts
    step = lambda shift: pts + shift - self._next_pts if dts is None else dts + shift - self._next_dts  # noqa: E731
    if self._shift != self._before and step(self._shift) > self._back >= abs(step(self._before)):
      self._shift, self._before = self._before, self._shift
      return False
    back = (
      pts + self._shift - self._pts + self._back_shown if dts is None else dts + self._shift - self._dts + self._back
    )
    if dts is None and not key:
      back = 0  # Pictures that are held for long come in another order than shown; a recording begins with a key frame.
    if back >= 0 and not (self._joins and pts + self._shift - self._next_pts > self._forward):
      return False
    # Behind all that was shown; frames are shown some frames after they are decoded.
    shift = self._next_pts - pts
    if dts is not None:
      shift = max(shift, self._next_dts - dts)
    self._before, self._shift = self._shift, shift
    self.breaks += 1
    return True
