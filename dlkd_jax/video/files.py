"""Finding and opening video files; every file that is not a readable video is refused by name, with the reason."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator
from fractions import Fraction

import av

from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import VIDEO_SUFFIXES
from dlkd_jax.video import containers

_IRREGULAR = {
  stat.S_ISFIFO: 'a named pipe',
  stat.S_ISSOCK: 'a socket',
  stat.S_ISCHR: 'a device',
  stat.S_ISBLK: 'a device',
}
# Formats whose clock is the one that players show: browsers take the timestamps of these as they are.
_KEPT_CLOCKS = ('mov', 'matroska')
# Formats that are made to be cut and joined anywhere.
_JOINED = ('mpegts', 'mpeg')


class VideoError(UserError):
  """A file that cannot be decoded.

  Attributes:
    path: the file.
    reason: what is wrong with it, in words, without its name.
  """

  def __init__(self, path: str | os.PathLike[str], reason: str):
    super().__init__(str(path), reason)  # Both, so that a copy sent to another process is made with both.
    self.path, self.reason = str(path), reason

  def __str__(self) -> str:
    return f'{self.path}: {self.reason}'


class DamagedVideoError(VideoError):
  """A file of which a part was decoded: raised after the last whole frame was handed out, never before the first."""


@dataclasses.dataclass(frozen=True)
class OpenVideo:
  """An open file, its one video stream that counts, and what the file declares about it.

  Attributes:
    container, stream: as PyAV has them; the stream has a decoder.
    start: time of the stream's beginning on its own clock, seconds.
    zero: what the stream's own clock shows when a player's shows 0. Browsers show the timestamps of MP4 and Matroska
      (WebM) as they are; of all other formats players show seconds since the beginning of the file.
    declared: seconds from `start` that the file declares the video to last; None where it declares nothing.
    tick: seconds a unit of the stream's clock.
    joins: whether the clock of such files may jump where parts of a recording were joined.
  """

  path: str
  container: av.container.InputContainer
  stream: av.VideoStream
  start: Fraction
  declared: Fraction | None
  tick: Fraction
  zero: Fraction
  joins: bool

  @property
  def offset(self) -> Fraction:
    """Seconds at which the stream begins, on a player's clock; not below 0."""
    return self.start - self.zero

  @property
  def ends(self) -> Fraction | None:
    """Seconds at which the file declares the video to end, on a player's clock; None where it declares nothing."""
    if self.declared is None:
      return None
    # Without a length of the stream it is the file's, which says when it ends.
    whole = not self.stream.duration and self.declared > self.offset
    return self.declared if whole else self.offset + self.declared


@dataclasses.dataclass(frozen=True)
class Listing:
  """What lies below a folder; every path is named once.

  Attributes:
    videos: files whose suffix is a video's, in any case, whatever they turn out to be.
    others: all other files.
    refused: folders that cannot be listed → why.
    left: folders that are called as videos are, and links that lead round in a circle → why they are no videos.
  """

  videos: list[pathlib.Path]
  others: list[pathlib.Path]
  refused: dict[pathlib.Path, str]
  left: dict[pathlib.Path, str]


def walk(folder: str | os.PathLike[str]) -> Listing:
  """Lists what lies below a folder, by name; nothing is opened.

  Links to folders are followed, each real folder once and under its own name where it has one below `folder`, so that
  no name changes when a link is made. A link to a folder that `folder` lies in would only lead round in a circle.

  Raises:
    VideoError: there is no such folder.
  """
  root = pathlib.Path(folder)
  if not root.is_dir():
    raise VideoError(root, 'is not a folder; give the folder that holds the videos')
  found, visited = Listing([], [], {}, {}), set()

  def refuse(error: OSError) -> None:
    found.refused[pathlib.Path(error.filename)] = f'is a folder that cannot be listed: {error.strerror}'

  waiting, home = [root], os.path.realpath(root)
  while waiting:
    start = waiting.pop(0)
    for parent, folders, names in os.walk(start, onerror=refuse):
      if (real := os.path.realpath(parent)) in visited:
        folders.clear()
        continue
      visited.add(real)
      for path in sorted(pathlib.Path(parent, name) for name in folders):
        if path.suffix.lower() in VIDEO_SUFFIXES:
          found.left[path] = 'is a folder, not a video file; what lies in it is listed by its own name'
        if os.path.islink(path):
          target = os.path.realpath(path)
          if home == target or home.startswith(target.rstrip(os.sep) + os.sep):
            found.left[path] = 'is a link to a folder that this one lies in'
          else:
            waiting.append(path)
      for path in (pathlib.Path(parent, name) for name in names):
        (found.videos if path.suffix.lower() in VIDEO_SUFFIXES else found.others).append(path)
  found.videos.sort()
  found.others.sort()
  return found


def check_file(path: pathlib.Path) -> os.stat_result:
  """Returns what the system says of a regular file that may be read; nothing else is ever opened.

  Raises:
    VideoError: it is something else, as a folder or a named pipe, or is absent, or may not be read.
  """
  try:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
      raise VideoError(path, 'is a folder, not a video file')
    if not stat.S_ISREG(status.st_mode):
      kind = next((name for test, name in _IRREGULAR.items() if test(status.st_mode)), 'something else')
      raise VideoError(path, f'is not a regular file: it is {kind}')
    with path.open('rb'):
      pass
  except OSError as error:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
      raise VideoError(path, f'is a link to {os.readlink(path)}, which is absent') from error
    raise VideoError(path, f'cannot be read: {error.strerror}') from error
  return status


def _readable(path: pathlib.Path) -> None:
  """Raises VideoError unless the path is a regular file with something in it that may be read."""
  if not check_file(path).st_size:
    raise VideoError(path, 'is empty (0 bytes)')


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str], threads: int = 0) -> Iterator[OpenVideo]:
  """Opens a file that holds a video, for the length of a `with` block.

  Only the file itself is opened, never what a list inside of it names. Cover pictures do not count as video.

  Args:
    path: the file.
    threads: decoding threads; 0 takes as many as there are cores.

  Raises:
    VideoError: there is no such file, or it cannot be read, is empty, is no video, its codec is not known here, or its
      pictures or its header would take more memory than a film has any need of.
  """
  path = pathlib.Path(path)
  _readable(path)
  with _opened(path) as container:
    stream = _stream(path, container)
    stream.thread_type = 'AUTO'
    stream.codec_context.thread_count = threads
    stream.codec_context.options = {'max_pixels': containers.OPTIONS['max_pixels']}
    tick = Fraction(stream.time_base)
    start = stream.start_time * tick if stream.start_time is not None else Fraction(0)
    declared = None
    if stream.duration:
      declared = stream.duration * tick
    elif container.duration and container.duration > 0:
      declared = Fraction(container.duration, av.time_base)
    kinds = container.format.name.split(',')
    begins = Fraction(container.start_time or 0, av.time_base)
    zero = min(start, Fraction(0) if kinds[0] in _KEPT_CLOCKS else begins)
    if kinds[0] == 'avi':
      late = _reordering(path, stream.index) * tick
      start, zero = start + late, zero + late
    yield OpenVideo(str(path), container, stream, start, declared, tick, zero, kinds[0] in _JOINED)


def _opened(path: pathlib.Path) -> av.container.InputContainer:
  """Opens a file as one of the formats that are read here; errors as `open_video`."""
  if (reason := containers.refuse_header(path)) is not None:
    raise VideoError(path, reason)
  # The name of a GIF file may stand for a sequence of pictures, as a%03d.gif.
  kind = 'gif' if '%' in path.name and path.suffix.lower() == '.gif' else None
  try:
    # The prefix keeps a name such as `http:x.mp4` from being taken for an address.
    return av.open(f'file:{path.absolute()}', format=kind, options=containers.OPTIONS, metadata_errors='replace')
  except (av.error.FFmpegError, OSError) as error:
    if (reason := containers.lacks_index(path)) is not None:
      raise VideoError(path, reason) from error
    if (kind := containers.kind_of_list(path)) is not None:
      raise VideoError(path, f'is not a video ({kind}') from error
    if isinstance(error, av.error.ArgumentError):
      raise VideoError(path, 'is not a video, but of a kind that is not read here') from error
    raise VideoError(path, f'is not a video that FFmpeg knows: {error.strerror}') from error


def _reordering(path: pathlib.Path, index: int) -> int:
  """How long after it was decoded the first picture of an AVI file is shown, in units of the stream's clock.

  Such files say when pictures are decoded; the times at which they are shown are FFmpeg's, and later by that.
  """
  try:
    with _opened(path) as container:
      packet = next(packet for packet in container.demux(container.streams[index]) if packet.size)
      return max(0, packet.pts - packet.dts) if None not in (packet.pts, packet.dts) else 0
  except (av.error.FFmpegError, OSError, IndexError, StopIteration):
    return 0  # What is wrong with the file, its reading says.


def _stream(path: pathlib.Path, container: av.container.InputContainer) -> av.VideoStream:
  """Returns the video stream that counts; errors as `open_video`."""
  cover = av.stream.Disposition.attached_pic
  covers = [stream for stream in container.streams.video if stream.disposition & cover]
  streams = [stream for stream in container.streams.video if stream not in covers]
  if not streams:
    if (reason := containers.lacks_index(path)) is not None:
      raise VideoError(path, reason)
    found = {'cover picture' if stream in covers else stream.type for stream in container.streams}
    raise VideoError(path, f'has no video stream (streams: {", ".join(sorted(found)) or "none"})')
  try:
    stream = container.streams.best('video')
  except IndexError:  # It was found while the file was opened, and is in no list.
    stream = None
  stream = stream if stream in streams else streams[0]
  if stream.index >= len(container.streams):
    raise VideoError(path, 'has streams that its header does not name; it is damaged')
  if stream.codec_context is None:
    raise VideoError(path, 'has a video stream in a codec that is not known here')
  width, height = stream.codec_context.width, stream.codec_context.height
  if width * height > containers.MOST_PIXELS:
    raise VideoError(
      path,
      f'has pictures of {width} x {height} pixels; at most {containers.MOST_PIXELS // 10**6} million are decoded',
    )
  return stream
