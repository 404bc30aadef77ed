"""Cuts a piece out of a film, in a process of its own: what is wrong with a file can end that one, and nothing else.

    python -m dlkd_jax.page.cutting FILM PIECE --start=61.5 --seconds=60 --how=play --budget=20

    play     what browsers play: H.264 and AAC in mp4; a stream that is one of these already is copied, from the key
             frame before the start on, all others are encoded, at most 1,280 pixels wide
    copy     the pictures as they are, from the key frame before the start on: fast, and without any loss; sound that
             mp4 files do not usually have is encoded
    exact    from the frame that is shown at the start on, encoded as H.264 and AAC

It prints what it has made as JSON: `{"start": …, "end": …, "last": …}`, seconds on the clock of the film, and whether
the film ends there. A piece for which the budget, seconds of processor time, does not suffice is shorter. The process
limits itself: to three times that time, its memory, and the size of what it writes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import av

from dlkd_jax.video import frames, pictures
from dlkd_jax.video.files import OpenVideo, VideoError, open_video

# Where an index is wrong, or leads to no key frame, a jump goes further back, seconds.
_BACK = (0, 2, 15, 60)
_HELD = 3000  # Packets.
_SIDE = 1280
_RATE = 48_000
_CLOCK = Fraction(1, 90_000)
_ENCODERS = {
  'play': {'preset': 'ultrafast', 'tune': 'zerolatency', 'crf': '26', 'g': '50'},
  'exact': {'preset': 'veryfast', 'crf': '18', 'g': '50'},
}
# What an mp4 file takes as it is, so that editors open it.
_COPIED = ('h264', 'hevc', 'av1', 'vp9', 'mpeg4', 'mpeg2video'), ('aac', 'mp3', 'ac3', 'eac3')
_MEMORY, _FILE = 6 << 30, 1 << 30


class _Video:
  """Copies or encodes the pictures of a piece; times are seconds of a player of the film."""

  def __init__(self, video: OpenVideo, out: av.container.OutputContainer, start: Fraction, copies: bool, how: str):
    self.video, self.start, self.copies, self.how = video, start, copies, how
    self.out, self.first, self.end = out, None, start
    self._aspect, self._convert = frames.pixel_aspect(video), pictures.Converter(_SIDE if how == 'play' else None)
    # Before anything is written, for the header of the piece names all that is in it.
    self._stream = out.add_stream_from_template(video.stream) if copies else self._encoder()
    self._decoded: int | None = None  # When the packet before is.
    self._held: tuple[Fraction, av.VideoFrame] | None = None  # The latest frame that is shown before the start.

  def _encoder(self) -> av.VideoStream:
    with open_video(self.video.path, threads=1) as again, contextlib.closing(frames.frames_of(again)) as decoded:
      first = next(decoded)
      width, height = pictures.shown_size(first.frame, first.aspect, _SIDE if self.how == 'play' else None)
    rate = round(self.video.stream.average_rate or 25) or 25
    stream = self.out.add_stream('libx264', rate=rate, options=_ENCODERS[self.how])
    stream.width, stream.height, stream.pix_fmt = max(2, width // 2 * 2), max(2, height // 2 * 2), 'yuv420p'
    stream.codec_context.time_base = _CLOCK
    return stream

  def put(self, packet: av.Packet, until: Fraction) -> None:
    """Takes the next packet; what is shown from `until` on is left out."""
    if self.copies:
      self._copy(packet)
      return
    try:
      decoded = self.video.stream.codec_context.decode(packet if packet.size else None)
    except av.error.FFmpegError:
      return  # What is whole of a damaged film is shown.
    for frame in decoded:
      if frame.pts is not None:
        self._frame(frame.pts * self.video.tick - self.video.zero, frame, until)

  def finish(self) -> None:
    """Writes what the encoder holds back; a piece behind the last frame is that frame."""
    if self._held is not None and self.first is None:
      self._encode(self.start, self._held[1])
    if self.first is not None and not self.copies:
      self.out.mux(self._stream.encode(None))

  def _copy(self, packet: av.Packet) -> None:
    if packet.pts is None:
      return
    shown = packet.pts * self.video.tick - self.video.zero
    if self.first is None and not packet.is_keyframe:
      return
    self.first = shown if self.first is None else self.first
    if shown < self.first:  # Before the key frame, and built on what was before it.
      return
    self.end = max(self.end, shown + packet.duration * self.video.tick)
    if packet.dts is None:  # Matroska does not say when the first ones after a jump are decoded: before all others.
      before = packet.pts - round(1 / self.video.tick) if self._decoded is None else self._decoded
      packet.dts = min(packet.pts, before + 1)
    self._decoded = packet.dts
    _shift(packet, self.video, self.first)
    packet.stream = self._stream
    self.out.mux(packet)

  def _frame(self, shown: Fraction, frame: av.VideoFrame, until: Fraction) -> None:
    if shown > self.start and self._held is not None:
      (_, held), self._held = self._held, None
      self._encode(self.start, held)
    if shown < self.start:
      self._held = shown, frame
    elif shown < until:
      self._held = None
      self._encode(shown, frame)
    if shown < until:
      self.end = max(self.end, shown + (frame.duration or 0) * self.video.tick)

  def _encode(self, shown: Fraction, frame: av.VideoFrame) -> None:
    self.first = shown if self.first is None else self.first
    if frame.rotation % 360 or self.how == 'play':
      frame = av.VideoFrame.from_ndarray(self._convert(frame, self._aspect), 'rgb24')
    frame = frame.reformat(self._stream.width, self._stream.height, 'yuv420p')
    frame.pts, frame.time_base = round((shown - self.first) / _CLOCK), _CLOCK
    frame.pict_type = av.video.frame.PictureType.NONE
    self.out.mux(self._stream.encode(frame))


class _Sound:
  """Copies or encodes the sound of a piece."""

  def __init__(self, video: OpenVideo, sound: av.AudioStream, out: av.container.OutputContainer, copies: bool):
    self.video, self.sound, self.out, self.copies = video, sound, out, copies
    self.tick = Fraction(sound.time_base)
    if copies:
      self._stream = out.add_stream_from_template(sound)
    else:
      self._stream = out.add_stream('aac', rate=_RATE, layout='stereo')
      self._stream.codec_context.time_base = Fraction(1, _RATE)
      self._resampler = av.AudioResampler('fltp', 'stereo', _RATE)

  def put(self, packet: av.Packet, first: Fraction, until: Fraction) -> None:
    """Takes the next packet of a piece that begins at `first`."""
    if not packet.size or packet.pts is None:
      return
    heard = packet.pts * self.tick - self.video.zero
    if not first <= heard < until:
      return
    if self.copies:
      _shift(packet, self.video, first, self.tick)
      packet.stream = self._stream
      self.out.mux(packet)
      return
    try:
      for frame in self.sound.codec_context.decode(packet):
        if frame.pts is not None:
          frame.pts -= round((first + self.video.zero) / frame.time_base)
        for part in self._resampler.resample(frame):
          self.out.mux(self._stream.encode(part))
    except av.error.FFmpegError:
      return  # Sound that is damaged.

  def finish(self) -> None:
    """Writes what the encoder holds back."""
    if not self.copies:
      self.out.mux(self._stream.encode(None))


def _shift(packet: av.Packet, video: OpenVideo, first: Fraction, tick: Fraction | None = None) -> None:
  """Moves the stamps of a packet so that the piece begins at 0."""
  by = round((first + video.zero) / (tick or video.tick))
  packet.pts -= by
  packet.dts = packet.pts if packet.dts is None else packet.dts - by


def cut(path: str, target: str, start: float, seconds: float, how: str, budget: float) -> dict[str, float | bool]:
  """Writes a piece of a film.

  Args:
    path: of the film.
    target: of the piece, an mp4 file.
    start: seconds on a player's clock of the film.
    seconds: that the piece lasts at most.
    how: see the module.
    budget: seconds of processor time after which the piece ends.

  Returns:
    `start`, `end` and `last`, see the module.

  Raises:
    VideoError: there is nothing to cut out, or not within the budget.
  """
  begin, start = time.process_time(), Fraction(start).limit_denominator(1000)
  until, last = start + Fraction(seconds).limit_denominator(1000), True
  with (
    open_video(path, threads=2) as video,
    av.open(target, 'w', format='mp4', options={'movflags': '+faststart'}) as out,
  ):
    sound = next(iter(video.container.streams.audio), None)
    sound = sound if sound is not None and sound.codec_context is not None else None
    pictured, heard = _copies(video, sound, how)
    piece = _Video(video, out, start, pictured, how)
    sounds = None if sound is None else _Sound(video, sound, out, heard)
    for packet in _packets(video, sound, start):
      if packet.stream_index == video.stream.index:
        now = packet.dts if packet.dts is not None else packet.pts
        piece.put(packet, until)
        if packet.size and now is not None and now * video.tick - video.zero >= until:
          last = False
          break
      elif sounds is not None:
        sounds.put(packet, piece.first if pictured and piece.first is not None else start, until)
      if time.process_time() - begin > budget:
        last, until = False, piece.end
        break
    piece.finish()
    if sounds is not None:
      sounds.finish()
  if piece.first is None:
    raise VideoError(path, f'has no frame there that can be decoded within {budget:g} s')
  return {'start': float(piece.first), 'end': float(max(piece.end, piece.first)), 'last': last}


def _copies(video: OpenVideo, sound: av.AudioStream | None, how: str) -> tuple[bool, bool]:
  """Whether pictures, and sound, are copied.

  Raises:
    VideoError: they are to be copied, and no mp4 file takes them.
  """
  codec, own = video.stream.codec_context, sound.codec_context.name if sound is not None else 'aac'
  kind = video.container.format.name.split(',')[0]
  timed = kind != 'avi'  # Such files say when pictures are decoded, and not when they are shown.
  if how == 'play':
    return codec.name == 'h264' and codec.pix_fmt == 'yuv420p' and timed, own in ('aac', 'mp3') and timed
  if how == 'exact':
    return False, False
  if not timed or codec.name not in _COPIED[0]:
    raise VideoError(video.path, f'has {codec.name} in {kind}, which no mp4 file takes as it is; ask for an exact cut')
  return True, own in _COPIED[1]


def _packets(video: OpenVideo, sound: av.AudioStream | None, start: Fraction) -> Iterator[av.Packet]:
  """Returns packets from the latest key frame that is shown at the start, or before it, on; else all of them."""
  streams = [video.stream] if sound is None else [video.stream, sound]
  for back in _BACK:
    if start - back <= video.offset:
      break
    try:
      video.container.seek(int((start - back + video.zero) / video.tick), stream=video.stream)
      packets, held, key = video.container.demux(streams), [], None
      for packet in packets:
        held.append(packet)
        if packet.stream_index != video.stream.index or packet.pts is None:
          continue
        if packet.is_keyframe and packet.pts * video.tick - video.zero <= start:
          held = [one for one in held if one.stream_index != video.stream.index or one is packet]
          key = packet
        if len(held) > _HELD or (packet.dts is not None and packet.dts * video.tick - video.zero > start):
          break
      if key is not None:
        return itertools.chain(held, packets)
    except av.error.FFmpegError:
      continue
  video.container.seek(0, any_frame=True)
  return video.container.demux(streams)


def _limit(budget: float) -> None:
  """Ends this process where it takes much more than it was given."""
  try:
    import resource
  except ImportError:  # Where there are none; whoever waits for the process ends it.
    return
  seconds = int(3 * budget) + 5
  for name, most in (('CPU', seconds), ('AS', _MEMORY), ('FSIZE', _FILE), ('CORE', 0)):
    with_hard = resource.getrlimit(getattr(resource, f'RLIMIT_{name}'))[1]
    most = most if with_hard == resource.RLIM_INFINITY else min(most, with_hard)
    resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), (most, with_hard))


def main() -> int:
  """Cuts what the command line says; an error is a line on stderr, without the name of the file, and exit code 1."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('film')
  parser.add_argument('piece')
  for name in ('start', 'seconds', 'budget'):
    parser.add_argument(f'--{name}', type=float, required=True)
  parser.add_argument('--how', choices=('play', 'copy', 'exact'), required=True)
  asked = parser.parse_args()
  _limit(asked.budget)
  av.logging.set_level(av.logging.PANIC)
  try:
    print(json.dumps(cut(asked.film, asked.piece, asked.start, asked.seconds, asked.how, asked.budget)))
  except VideoError as error:
    print(error.reason, file=sys.stderr)
    return 1
  except (av.error.FFmpegError, OSError, MemoryError) as error:
    print(f'cannot be cut: {getattr(error, "strerror", None) or "it takes too much memory"}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
