"""Frames of a video file with the times at which its stream shows them, all of them or sampled at a rate.

Every time is in seconds on the clock that a player shows, and follows from the stream's timestamps alone: frames are
not counted, so that a video of variable frame rate comes out right, and a picture that begins after the sound has the
time at which it is seen. Files are read once from front to back and one frame is held at a time: the memory does not
grow with the length.

That clock is the one of browsers: they show the timestamps of MP4 and Matroska (WebM) files as they are, also where all
of them begin late. Of other formats, which no browser plays, it shows seconds since the beginning of the file. Where
recordings were joined so that the clock starts again, the second one goes on behind the first (`clock`).

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

import collections
import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.video import pictures, spans
from dlkd_jax.video.files import DamagedVideoError, OpenVideo, VideoError, open_video
from dlkd_jax.video.frames import DecodedFrame, decoded_frames, frames_of, packet_time, samples_before

__all__ = (
  'DamagedVideoError',
  'DecodedFrame',
  'Findings',
  'SampledFrame',
  'VideoError',
  'VideoInfo',
  'decoded_frames',
  'probe',
  'sample_frames',
  'sample_views',
)

# A picture that is held for longer, seconds and samples, says nothing new.
_HOLD = 10
_HOLD_SAMPLES = 10
_PATIENCE = 5  # Seconds.


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a file says about its video.

  Attributes:
    duration: seconds at which a player shows its end; as the file declares it (a truncated one too), or else as its
      packets last. NaN where it is declared nowhere and was not measured.
    width, height: pixels as shown: turned upright, pixels made square.
    rotation: degrees clockwise by which the stored frames are turned: 0, 90, 180 or 270.
    rate: frames a second on average; 0 where the file does not tell.
    codec, container: FFmpeg's names.
    start: seconds at which a player shows the beginning of the picture.
    pixels: FFmpeg's name of the pixel format; empty where it is not known.
  """

  duration: float
  width: int
  height: int
  rotation: int
  rate: float
  codec: str
  container: str
  start: float = dataclasses.field(default=0.0, compare=False)
  pixels: str = dataclasses.field(default='', compare=False)


class SampledFrame(NamedTuple):
  """The picture at a sample time.

  Attributes:
    time: the sample time, seconds on a player's clock.
    shown: seconds at which the frame of this picture began to be shown; at most `time`.
    image: uint8 [H, W, 3], RGB, upright. Read-only: samples of one frame share it.
  """

  time: float
  shown: float
  image: np.ndarray


@dataclasses.dataclass
class Findings:
  """What is known of a video once it was read.

  Attributes:
    end: seconds at which its last frame ends, on a player's clock; 0 until then.
    notes: what is odd about the file without any harm.
  """

  end: float = 0.0
  notes: list[str] = dataclasses.field(default_factory=list)


def sample_frames(
  path: str | os.PathLike[str],
  rate: float,
  max_side: int | None = None,
  threads: int = 0,
  findings: Findings | None = None,
) -> Iterator[SampledFrame]:
  """Samples a video at the times start + k / rate, k = 0, 1, …, where `start` is when its picture begins.

  The picture of a sample is the frame that is shown at that time: the latest one whose timestamp is not after it, where
  timestamps count as equal within half a unit of the stream's clock, at most half a millisecond (what rounding to
  milliseconds adds). A frame is taken again if the rate is above the video's; but where no other frame comes for long,
  as where a clock jumps ahead, only for 10 seconds (or 10 samples) and at the end of the gap.

  If the first whole frame comes later than `start`, the samples before it are left out. The last sample is the last one
  before the end of the last frame, which is its timestamp plus its duration. A video that no sample time falls into
  gives its last frame, at that frame's own time.

  Args:
    path: the file.
    rate: samples a second, above 0; to a millionth.
    max_side: the longer side of the pictures is at most this many pixels; None leaves them as they are.
    threads: decoding threads; 0 takes as many as there are cores.
    findings: is told what is known after the last sample.

  Raises:
    ValueError: the rate or the size is not above 0 (at once).
    VideoError: the file cannot be decoded at all (before the first sample).
    DamagedVideoError: some of it is missing or broken (after the last sample); see above.
  """
  _check(rate, max_side)
  found = _sampled(path, rate, (spans.View(spans.SINGLE, lambda image: image),), max_side, threads, findings)
  return (SampledFrame(float(time), float(seen.since), seen.picture) for time, ((seen,),) in found)


def sample_views(
  path: str | os.PathLike[str],
  rate: float,
  views: Sequence[spans.View],
  max_side: int | None = None,
  threads: int = 0,
  findings: Findings | None = None,
) -> Iterator[tuple[float, list[list[Any]]]]:
  """Samples a video as `sample_frames` does, at the same times, for backbones that see pictures around each of them.

  All views are served by one pass over the file. A picture around a time is the frame that is shown then; before the
  first frame it is that one, after the last one the last. Each is prepared once, and let go of once no later time
  needs it: the memory follows the spans, not the film.

  Args:
    path, rate, max_side, threads, findings: as of `sample_frames`; so are the errors.
    views: the backbones' spans and preparations.

  Yields:
    The sample time, and for each view its prepared pictures in the order of their times.
  """
  _check(rate, max_side)
  found = _sampled(path, rate, views, max_side, threads, findings)
  return ((float(time), [[each.picture for each in view] for view in seen]) for time, seen in found)


def _check(rate: float, max_side: int | None) -> None:
  if not (math.isfinite(rate) and rate >= 1e-6):
    raise UserError(f'rate is {rate}; expected samples a second above 0')
  if max_side is not None and max_side < 1:
    raise UserError(f'max_side is {max_side}; expected pixels above 0, or None')


def _sampled(
  path: str | os.PathLike[str],
  rate: float,
  views: Sequence[spans.View],
  max_side: int | None,
  threads: int,
  findings: Findings | None,
) -> Iterator[tuple[Fraction, list[list[spans.Shown]]]]:
  """Yields the sample times and what each view shows around them."""
  findings = findings or Findings()
  period = 1 / Fraction(rate).limit_denominator(10**6)
  windows, offsets = [spans.Window(view, period) for view in views], spans.all_offsets(views)
  convert = pictures.Converter(max_side)
  damage, shown, k, any_sample = None, None, 0, False
  waiting: collections.deque[int] = collections.deque()  # Samples of which later pictures are not there yet.
  gaps: list[tuple[Fraction, Fraction]] = []  # How long, and from when on.
  with contextlib.closing(decoded_frames(path, threads, period, findings.notes, offsets)) as frames:
    while True:
      try:
        following = next(frames, None)
      except DamagedVideoError as error:
        damage, following = error, None
      until = following.time if following else shown.time + shown.duration
      start, tick = (following or shown).start, (following or shown).tick
      # The first sample that `shown` is not shown at.
      later = max(k, samples_before(until - start, period, tick))
      if shown is not None:
        picture = functools.cache(functools.partial(convert, shown.frame, shown.aspect))
        for window in windows:
          window.offer(start, shown.time, until, tick, picture)
      if shown is not None and k < later:
        any_sample = True
        numbers = _spared(k, later, period)
        if numbers[-1] - numbers[0] >= len(numbers):
          gaps.append((until - shown.time, shown.time))
        waiting.extend(numbers)
      while waiting and (following is None or samples_before(until - start - offsets[-1], period, tick) > waiting[0]):
        time = waiting.popleft() * period
        yield start + time, [window.around(time) for window in windows]
      if following is None:
        break
      shown, k = following, later
    if not any_sample:
      for window in windows:
        window.take(start, shown.time, tick, picture())
      yield shown.time, [window.around(shown.time - start) for window in windows]
  findings.end = float(until)
  if gaps:
    long, at = max(gaps)
    count = '1 gap' if len(gaps) == 1 else f'{len(gaps)} gaps'
    where = f'the longest {float(long):.0f} s from {float(at):.2f} s on'
    findings.notes.append(f'{count} without any frame, {where}, hardly sampled')
  if damage is not None:
    raise damage


def _spared(first: int, end: int, period: Fraction) -> list[int]:
  """The numbers of the samples from `first` to `end` that one frame is taken for; of a long stretch the last, too."""
  most = max(_HOLD_SAMPLES, math.ceil(_HOLD / period))
  return list(range(first, end)) if end - first <= most + 1 else [*range(first, first + most), end - 1]


def _measured(video: OpenVideo) -> Fraction:
  """Where a video ends whose file does not say so: its packets are read through, not decoded."""
  ends = (packet_time(video, packet, end=True) for packet in video.container.demux(video.stream))
  try:
    return video.offset + max((end for end in ends if end is not None), default=Fraction(0))
  except (av.error.FFmpegError, IndexError) as error:
    raise VideoError(video.path, f'cannot be read to its end: {getattr(error, "strerror", error)}') from error


def probe(path: str | os.PathLike[str], measure: bool = True) -> VideoInfo:
  """Reads what a file says about its video, and decodes its first frame as a proof that it can be.

  Args:
    path: the file.
    measure: reads a file through that does not say how long it is. False: that takes a few seconds at most, as long
      as it takes to come upon a whole frame.

  Raises:
    VideoError: the file cannot be opened or has not one whole frame.
  """
  deadline = math.inf if measure else time.monotonic() + _PATIENCE
  with open_video(path, threads=1) as video:
    with contextlib.closing(frames_of(video, deadline=deadline)) as frames:
      first = next(frames)
    width, height = pictures.shown_size(first.frame, first.aspect)
    rate = video.stream.average_rate or video.stream.guessed_rate or 0
    ends = video.ends
    if ends is None and measure:
      ends = max(_measured(video), first.time + first.duration)
    return VideoInfo(
      duration=math.nan if ends is None else float(ends),
      width=width,
      height=height,
      rotation=pictures.rotation(first.frame),
      rate=float(rate),
      codec=video.stream.codec_context.name,
      container=video.container.format.name,
      start=float(video.offset),
      pixels=video.stream.codec_context.pix_fmt or '',
    )
