"""What is wrong with a video that can be decoded in part, and which of its frames can be trusted."""

from __future__ import annotations

from fractions import Fraction

import av


class Damage:
  """What went wrong in a file: how often each thing, and when first; and what is odd about it without any harm."""

  def __init__(self, remarks: list[str] | None = None):
    """`remarks`: what is odd is added to it."""
    self._found: dict[str, tuple[int, float]] = {}
    self._remarks = [] if remarks is None else remarks
    self._spared: list[av.Packet] = []

  def remark(self, what: str, time: Fraction | None = None) -> None:
    """Says something odd, once."""
    if not any(remark.startswith(what) for remark in self._remarks):
      self._remarks.append(what if time is None else f'{what} first at {float(time):.2f} s')

  def spare(self, *packets: av.Packet) -> None:
    """Takes packets for whole that are said to be incomplete."""
    self._spared = [*self._spared[-128:], *(packet for packet in packets if packet.is_corrupt)]

  def incomplete(self, packet: av.Packet) -> bool:
    """Whether a packet is incomplete."""
    return packet.is_corrupt and not any(packet is spared for spared in self._spared)

  def note(self, what: str, time: Fraction) -> None:
    count, first = self._found.get(what, (0, float(time)))
    self._found[what] = count + 1, first

  def __str__(self) -> str:
    parts = []
    for what, (count, first) in self._found.items():
      parts.append(f'{what} at {first:.2f} s' if count == 1 else f'{count} times {what}, first at {first:.2f} s')
    return '; '.join(parts)


class Chain:
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
