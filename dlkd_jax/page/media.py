"""The video files of a gallery: by id, never by path, and only files that the index may have meant."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from dlkd_jax.page.refusal import RefusalError
from dlkd_jax.video import decoding
from dlkd_jax.video.files import SUFFIXES, VideoError

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


@dataclasses.dataclass(frozen=True)
class VideoFile:
  """An open file of which nothing was read yet; whoever has it closes `descriptor`.

  Attributes:
    descriptor: of the file.
    path: its real path, for whoever needs to open it again.
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


class VideoFiles:
  """Opens the files of a gallery's videos.

  A file is refused unless it is a regular one, its name ends as a video's does, and it really lies, with all links
  followed, below one of the roots. Without roots, each must lie below the folder that the index names for it: a link
  that was put there, or an index made elsewhere, leads to nothing else on this machine.
  """

  def __init__(self, videos: Mapping[str, Any], roots: Sequence[str] = ()):
    """`videos`: id → entry with `path` (or None), as a gallery has them."""
    self._videos = videos
    self._roots = tuple(pathlib.Path(os.path.realpath(root)) for root in roots)

  def name(self, video_id: str) -> str:
    """Returns the file's name without its folder; '' where the index knows none."""
    entry = self._videos.get(video_id)
    return pathlib.Path(entry.path).name if entry is not None and entry.path else ''

  def playable(self, video_id: str) -> bool:
    """Whether a browser may play it, by the name."""
    return pathlib.Path(self.name(video_id)).suffix.lower() in TYPES

  def open(self, video_id: str) -> VideoFile:
    """Opens the file of a video.

    Raises:
      RefusalError: no such video in the index (404 unknown), no file known of it (404 no_file), the file is gone (410
        gone), is not one that is served (403 outside), or cannot be read (403 unreadable).
    """
    path = self._allowed(video_id)
    try:
      descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, 'O_NOFOLLOW', 0))
    except FileNotFoundError as error:
      logging.getLogger(__name__).warning('the file of %r is gone: %s', video_id, path)
      raise RefusalError(
        410, 'gone', f'The file {path.name} is not where the index says. Put it back, or index the videos again.'
      ) from error
    except OSError as error:
      raise RefusalError(403, 'unreadable', f'The file {path.name} cannot be read: {error.strerror}.') from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
      os.close(descriptor)
      raise RefusalError(403, 'outside', f'{path.name} is not a regular file, and is not served.')
    return VideoFile(
      descriptor,
      str(path),
      status.st_size,
      f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"',
      status.st_mtime,
      TYPES.get(path.suffix.lower(), 'application/octet-stream'),
    )

  def path(self, video_id: str) -> tuple[str, str]:
    """Returns (real path, etag) of a file that may be read; raises as `open` does."""
    file = self.open(video_id)
    os.close(file.descriptor)
    return file.path, file.etag

  def account(self, video_id: str) -> dict[str, str]:
    """Says of a video that a browser did not play what may be wrong with it: `{"code": …, "message": …}`.

    The codes are those of `open`, and `damaged`, `format`, and `fine` where the file itself is in order.
    """
    try:
      path, _ = self.path(video_id)
      info = decoding.probe(path, measure=False)
    except RefusalError as refusal:
      return {'code': refusal.code, 'message': refusal.message}
    except VideoError as error:
      return {'code': 'damaged', 'message': f'The file {self.name(video_id)} {error.reason}.'}
    if info.codec in ('h264', 'vp8', 'vp9', 'av1') and info.pixels == 'yuv420p' and self.playable(video_id):
      return {'code': 'fine', 'message': f'The file {self.name(video_id)} is in order ({info.codec}).'}
    what = f'{info.codec} ({info.pixels or "unknown"}) in a {pathlib.Path(path).suffix.lower()} file'
    return {'code': 'format', 'message': f'This browser does not play {what}. {_PLAYED}'}

  def _allowed(self, video_id: str) -> pathlib.Path:
    entry = self._videos.get(video_id)
    if entry is None:
      raise RefusalError(404, 'unknown', 'The index has no such video.')
    if not entry.path:
      raise RefusalError(404, 'no_file', 'The index knows of no file of this video; it was built from features alone.')
    named = pathlib.Path(os.path.abspath(entry.path))
    real = pathlib.Path(os.path.realpath(named))
    roots = self._roots or (pathlib.Path(os.path.realpath(named.parent)),)
    inside = any(real.is_relative_to(root) for root in roots)
    if not inside or real.suffix.lower() not in SUFFIXES:
      logging.getLogger(__name__).warning('the file of %r is not served: %s', video_id, real)
      raise RefusalError(
        403, 'outside', f'{named.name} leads out of the folders that are served. Start with --videos=FOLDER to add one.'
      )
    return real
