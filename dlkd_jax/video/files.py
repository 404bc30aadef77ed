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

_NAMES = """
  3g2 3gp asf avi divx f4v flv gif m2ts m2v m4v mkv mov mp4 mpe mpeg mpg mts mxf nut ogv rm rmvb ts vob webm wmv y4m
"""
SUFFIXES = frozenset(f'.{name}' for name in _NAMES.split())
# Text drawn as pictures, still pictures, and lists that would open other files.
_NOT_VIDEOS = frozenset(('adf', 'bin', 'concat', 'dash', 'hls', 'idf', 'image2', 'lavfi', 'sdp', 'tty', 'xbin'))
_HEADLESS = 'is truncated: an MP4 file without its index, so that no frame can be found'


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
    start: time of the stream's beginning on its own clock, seconds; times handed out are relative to it.
    declared: seconds from `start` that the file declares the video to last; None where it declares nothing.
    tick: seconds a unit of the stream's clock.
  """

  path: str
  container: av.container.InputContainer
  stream: av.VideoStream
  start: Fraction
  declared: Fraction | None
  tick: Fraction


def list_videos(folder: str | os.PathLike[str]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Finds the videos below a folder, by name; nothing is opened.

  Returns:
    (videos, others): sorted paths of all files whose suffix is a video's (in any case), and of all other files and of
    the folders that cannot be listed. Links to folders are followed, each real folder once.

  Raises:
    VideoError: there is no such folder.
  """
  root = pathlib.Path(folder)
  if not root.is_dir():
    raise VideoError(root, 'is not a folder; give the folder that holds the videos')
  videos, others, visited = [], [], set()
  refused = lambda error: others.append(pathlib.Path(error.filename))  # noqa: E731
  for parent, folders, names in os.walk(root, followlinks=True, onerror=refused):
    real = os.path.realpath(parent)
    if real in visited:
      folders.clear()
      continue
    visited.add(real)
    folders.sort()
    for path in (pathlib.Path(parent, name) for name in names):
      (videos if path.suffix.lower() in SUFFIXES else others).append(path)
  return sorted(videos), sorted(others)


def _readable(path: pathlib.Path) -> None:
  """Raises VideoError unless the path is a regular file with something in it that may be read."""
  try:
    mode = path.stat()
    if stat.S_ISDIR(mode.st_mode):
      raise VideoError(path, 'is a folder, not a video file')
    if not stat.S_ISREG(mode.st_mode):
      raise VideoError(path, 'is not a regular file')
    with path.open('rb'):
      pass
  except OSError as error:
    raise VideoError(path, f'cannot be read: {error.strerror}') from error
  if not mode.st_size:
    raise VideoError(path, 'is empty (0 bytes)')


def _lacks_index(path: pathlib.Path) -> bool:
  """Whether a file begins as MP4 but ends before or in its index: what an interrupted copy or recording leaves."""
  length = path.stat().st_size
  kinds = []
  with path.open('rb') as file:
    while len(header := file.read(8)) == 8 and len(kinds) < 1000:
      size, kind = int.from_bytes(header[:4]), header[4:]
      kinds.append(kind)
      read = 8
      if size == 1:
        size, read = int.from_bytes(file.read(8)), 16
      if kind == b'moov':
        return kinds[0] == b'ftyp' and file.tell() - read + size > length
      if size < read:
        break
      file.seek(size - read, os.SEEK_CUR)
  return kinds[:1] == [b'ftyp']


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str], threads: int = 0) -> Iterator[OpenVideo]:
  """Opens a file that holds a video, for the length of a `with` block.

  Only local files are opened, never what a playlist inside of one names. Cover pictures do not count as video.

  Args:
    path: the file.
    threads: decoding threads; 0 takes as many as there are cores.

  Raises:
    VideoError: there is no such file, or it cannot be read, is empty, is no video, or its codec is not known here.
  """
  path = pathlib.Path(path)
  _readable(path)
  try:
    # The prefix keeps a name such as `http:x.mp4` from being taken for an address.
    container = av.open(f'file:{path.absolute()}', options={'protocol_whitelist': 'file'})
  except (av.error.FFmpegError, OSError) as error:
    if _lacks_index(path):
      raise VideoError(path, _HEADLESS) from error
    raise VideoError(path, f'is not a video that FFmpeg knows: {error.strerror}') from error
  with container:
    kind = container.format.name
    if kind in _NOT_VIDEOS or kind.endswith('_pipe'):
      raise VideoError(path, f'is not a video (read as {kind})')
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
      if _lacks_index(path):
        raise VideoError(path, _HEADLESS)
      found = ', '.join(sorted({stream.type for stream in container.streams})) or 'none'
      raise VideoError(path, f'has no video stream (streams: {found})')
    stream = container.streams.best('video')
    stream = stream if stream in streams else streams[0]
    if stream.codec_context is None:
      raise VideoError(path, 'has a video stream in a codec that is not known here')
    stream.thread_type = 'AUTO'
    stream.codec_context.thread_count = threads
    tick = Fraction(stream.time_base)
    start = stream.start_time * tick if stream.start_time is not None else Fraction(0)
    declared = None
    if stream.duration:
      declared = stream.duration * tick
    elif container.duration and container.duration > 0:
      declared = Fraction(container.duration, av.time_base)
    yield OpenVideo(str(path), container, stream, start, declared, tick)
