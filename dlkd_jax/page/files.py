"""The video files of a gallery, by id, never by path, only those below the folders that are served; their sending."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from starlette import responses
from starlette.types import Receive, Scope, Send

from dlkd_jax.file_kinds import VIDEO_SUFFIXES
from dlkd_jax.gallery import result_files
from dlkd_jax.page.guards import RefusalError
from dlkd_jax.video import decoding
from dlkd_jax.video.files import VideoError

# What browsers may play; whether they do depends on the codec inside.
TYPES = {
  '.mp4': 'video/mp4',
  '.m4v': 'video/mp4',
  '.mov': 'video/mp4',  # The same boxes; as video/quicktime no browser but Safari tries.
  '.webm': 'video/webm',
  '.mkv': 'video/webm',  # Likewise.
  '.ogv': 'video/ogg',
}
_PLAYED = 'Browsers play H.264, VP8, VP9 and AV1 in .mp4 or .webm files.'
# Where Linux shows open files by number: what was opened and checked can be opened again, whatever its path is by then.
_OPENED = '/proc/self/fd' if hasattr(os, 'O_PATH') and os.path.isdir('/proc/self/fd') else None
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# Seconds since 1970 that HTTP can write as a date; file systems may have others.
_DATES = 0, 253_402_300_799


@dataclasses.dataclass(frozen=True)
class VideoFile:
  """An open file of which nothing was read yet; whoever has it closes `descriptor`.

  Attributes:
    descriptor: of the file.
    path: its real path, as it was when it was opened.
    size: bytes.
    etag: changes with the file, quoted as HTTP wants it.
    modified: seconds since 1970.
    media_type: for the browser.
  """

  descriptor: int
  path: str
  size: int
  etag: str
  modified: float
  media_type: str

  @classmethod
  def of(cls, descriptor: int, path: str) -> VideoFile:
    """Takes an open file and its path."""
    opened = os.fstat(descriptor)
    return cls(
      descriptor,
      path,
      opened.st_size,
      f'"{opened.st_dev:x}-{opened.st_ino:x}-{opened.st_size:x}-{opened.st_mtime_ns:x}"',
      opened.st_mtime,
      TYPES.get(os.path.splitext(path)[1].lower(), 'application/octet-stream'),
    )

  def again(self) -> VideoFile:
    """Returns the same file with a descriptor of its own."""
    return dataclasses.replace(self, descriptor=os.dup(self.descriptor))

  @property
  def decodable(self) -> str:
    """A path at which this very file can be opened again while `descriptor` is open."""
    return f'{_OPENED}/{self.descriptor}' if _OPENED else self.path


class VideoFiles:
  """Opens the files of a gallery's videos.

  A file is refused unless it is a regular one, its name ends as a video's does, and it really lies, with all links
  followed, below a folder that is served: one of `roots`, or else one of `noted`, or else the folder that the index
  names for that video. Where it lies is asked of the open file, so that a link that is changed meanwhile leads nowhere.
  """

  def __init__(self, videos: Mapping[str, Any], roots: Sequence[str] = (), noted: Sequence[str] = ()):
    """Takes what is known of the videos.

    Args:
      videos: id → entry with `path` (or None), as a gallery has them.
      roots: folders to look in, by id, before where the index says; nothing else is served then.
      noted: real folders that the files lay in when the index was made; empty where it does not say.
    """
    self._videos, self._given = videos, tuple(map(os.path.abspath, roots))
    self.roots = tuple(map(os.path.realpath, roots)) or tuple(map(os.path.realpath, noted))

  def name(self, video_id: str) -> str:
    """Returns the file's name without its folder; '' where none is known."""
    entry = self._entry(video_id)
    if entry is None:
      return ''
    path = entry.path or self._place(video_id, entry)
    return pathlib.PurePath(path).name if path else ''

  def playable(self, video_id: str) -> bool:
    """Whether a browser may play it, by the name."""
    return pathlib.PurePath(self.name(video_id)).suffix.lower() in TYPES

  def open(self, video_id: str) -> VideoFile:
    """Opens the file of a video.

    Raises:
      RefusalError: no such video in the index (404 unknown), no file known of it (404 no_file), the file is gone (410
        gone), is not one that is served (403 outside), or cannot be read (403 unreadable).
    """
    named = self._named(video_id)
    try:
      return self._open(named)
    except (FileNotFoundError, NotADirectoryError) as error:
      logging.getLogger(__name__).warning('the file of %r is gone: %r', video_id, os.fspath(named))
      raise RefusalError(
        410,
        'gone',
        f'The file {os.path.basename(named)} is not where the index says. Put it back, or index the videos again.',
      ) from error
    except (OSError, ValueError) as error:  # The latter of a name with a NUL in it.
      reason = error.strerror if isinstance(error, OSError) else error
      raise RefusalError(403, 'unreadable', f'The file {os.path.basename(named)} cannot be read: {reason}.') from error

  @contextlib.contextmanager
  def decodable(self, path: str) -> Iterator[str]:
    """Gives a path at which a file that may be read can be opened for the length of a `with` block.

    Args:
      path: real path of a file that `open` opened before; it is checked again.

    Raises:
      RefusalError, OSError: there is no such file any more.
    """
    file = self._open(path)
    try:
      yield file.decodable
    finally:
      os.close(file.descriptor)

  def path(self, video_id: str) -> tuple[str, str]:
    """Returns (real path, etag) of a file that may be read; raises as `open` does."""
    file = self.open(video_id)
    os.close(file.descriptor)
    return file.path, file.etag

  def rate(self, video_id: str) -> Fraction | None:
    """Returns the frames a second of a video; None where its file cannot be read, or does not say."""
    try:
      file = self.open(video_id)
    except RefusalError:
      return None
    try:
      return result_files.rate(file.decodable)
    finally:
      os.close(file.descriptor)

  def diagnosis(self, video_id: str) -> dict[str, str]:
    """Says of a video that a browser did not play what may be wrong with it: `{"code": …, "message": …}`.

    The codes are those of `open`, and `damaged`, `format`, and `fine` where the file itself is in order.
    """
    name = self.name(video_id)
    try:
      file = self.open(video_id)
      try:
        info = decoding.probe(file.decodable, measure=False)
      finally:
        os.close(file.descriptor)
    except RefusalError as refusal:
      return {'code': refusal.code, 'message': refusal.message}
    except VideoError as error:
      return {'code': 'damaged', 'message': f'The file {name} {error.reason}.'}
    if info.codec in ('h264', 'vp8', 'vp9', 'av1') and info.pixels == 'yuv420p' and self.playable(video_id):
      return {'code': 'fine', 'message': f'The file {name} is in order ({info.codec}).'}
    what = f'{info.codec} ({info.pixels or "unknown"}) in a {pathlib.PurePath(name).suffix.lower()} file'
    return {'code': 'format', 'message': f'This browser does not play {what}. {_PLAYED}'}

  def _entry(self, video_id: str) -> Any:
    try:
      return self._videos.get(video_id)
    except UnicodeEncodeError:  # Of an index whose names are all text.
      return None

  def _named(self, video_id: str) -> str:
    """Returns where the file of a video should be."""
    entry = self._entry(video_id)
    if entry is None:
      raise RefusalError(404, 'unknown', 'The index has no such video.')
    named = self._place(video_id, entry)
    if named is None:
      raise RefusalError(404, 'no_file', 'The index knows of no file of this video; it was built from features alone.')
    return named

  def _place(self, video_id: str, entry: Any) -> str | None:
    """The file's path: in the first of the given folders that has it, or else where the index says."""
    for root in self._given:
      if os.path.exists(place := os.path.join(root, video_id)):
        return place
    return os.path.abspath(entry.path) if entry.path else None

  def _open(self, named: str) -> VideoFile:
    """Opens a file if it may be served; what may not be is never opened: a pipe would wait, and a device might act."""
    if _OPENED:
      looked = os.open(named, os.O_PATH | os.O_CLOEXEC)  # Which file it is, without opening it.
      try:
        real, status = os.readlink(f'{_OPENED}/{looked}'), os.fstat(looked)
        if not status.st_nlink:
          raise FileNotFoundError(named)
        self._check(named, real, status)
        descriptor = os.open(f'{_OPENED}/{looked}', _READ)
      finally:
        os.close(looked)
    else:
      real = os.path.realpath(named)
      status = os.lstat(real)
      self._check(named, real, status)
      descriptor = os.open(real, _READ | os.O_NOFOLLOW)
    if not os.path.samestat(status, os.fstat(descriptor)):
      os.close(descriptor)
      raise FileNotFoundError(named)
    return VideoFile.of(descriptor, real)

  def _check(self, named: str, real: str, status: os.stat_result) -> None:
    """Raises RefusalError unless a file may be served."""
    name, folder = os.path.basename(named), os.path.dirname(real)
    roots = self.roots or (os.path.realpath(os.path.dirname(named)),)
    if os.path.splitext(real)[1].lower() not in VIDEO_SUFFIXES:
      message = f'{name} leads out of what is served: to a file whose name is none of a video.'
    elif not any(pathlib.PurePath(real).is_relative_to(root) for root in roots):
      flags = ' '.join(shlex.quote(f'--videos={one}') for one in (*roots, folder))
      message = f'{name} leads out of the folders that are served, to {folder}. Start with {flags} to serve it.'
    elif not stat.S_ISREG(status.st_mode):
      message = f'{name} is not a regular file, and is not served.'
    else:
      return
    logging.getLogger(__name__).warning('not served: %r is %r', os.fspath(named), os.fspath(real))
    raise RefusalError(403, 'outside', message)


class FileResponse(responses.FileResponse):
  """An open file, or the parts of it that a player asks for (RFC 9110: 200, 206, 304 or 416). It closes the file."""

  def __init__(self, file: VideoFile, request_headers: Mapping[str, str], **options: Any):
    """`request_headers` as Starlette has them; `options` are of Starlette's response, as `filename`."""
    self._file = file
    tags = [tag.strip().removeprefix('W/') for tag in request_headers.get('if-none-match', '').split(',')]
    self._unchanged = file.etag in tags or tags == ['*']
    modified = min(max(file.modified, _DATES[0]), _DATES[1])
    super().__init__(
      file.decodable,
      headers={'etag': file.etag, 'cache-control': 'private, no-cache'},
      media_type=file.media_type,
      stat_result=os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, file.size, 0, modified, 0)),
      **options,
    )

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends it, a chunk at a time, until the client has it or has left."""
    try:
      if self._unchanged:
        await responses.Response(status_code=304, headers=self.headers)(scope, receive, send)
      else:
        await super().__call__(scope, receive, send)
    finally:
      os.close(self._file.descriptor)


def noted_roots(gallery: Any) -> tuple[str, ...]:
  """Returns the folders that an index noted when it was made; an index of before that knows none."""
  return tuple(map(str, getattr(gallery, 'manifest', {}).get('roots') or ()))
