"""Pictures of a video at a time, small, and kept for a while."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from dlkd_jax.page.guards import RefusalError
from dlkd_jax.video.picture_at import picture_at

_LARGEST = 1 << 16  # Pixels; more than any film has.
_STEP = 0.5  # Seconds from one picture of a film to the next.


def jpeg(image: np.ndarray) -> bytes:
  """Returns a picture, uint8 [H, W, 3], as JPEG."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'JPEG', quality=82, optimize=True, progressive=True)
  return buffer.getvalue()


def still(path: str, time: float, kind: str) -> bytes:
  """Returns the frame of a film that is shown at a time, seconds, in its own size, as 'png' or 'jpeg'.

  Raises:
    VideoError: it cannot be decoded.
  """
  buffer = io.BytesIO()
  options = {'quality': 95, 'subsampling': 0} if kind == 'jpeg' else {'compress_level': 3}
  Image.fromarray(picture_at(path, time, _LARGEST)).save(buffer, kind.upper(), **options)
  return buffer.getvalue()


class Thumbnails:
  """Makes JPEG pictures in `workers` threads; keeps the latest `most_bytes` of them.

  Who asks for a picture that is being made waits for that one. More than `waiting` at once are refused.
  """

  def __init__(
    self,
    side: int,
    most_bytes: int,
    waiting: int = 256,
    workers: int = 2,
    opened: Callable[[str], contextlib.AbstractContextManager[str]] = contextlib.nullcontext,
  ):
    """`side`: longer side, pixels. `opened` gives, for a path, where to open that file for the length of a block."""
    self._opened = opened
    self._side, self._most_bytes, self._waiting = side, most_bytes, waiting
    self._kept: collections.OrderedDict[tuple, bytes] = collections.OrderedDict()
    self._made: dict[tuple, asyncio.Future[bytes]] = {}
    self._threads = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix='thumbnail')
    self.kept_bytes = 0

  async def get(self, path: str, etag: str, time: float) -> bytes:
    """Returns the picture of a file at a time, seconds, to half a second; `etag` changes with the file.

    More times would only keep the threads busy: whoever asks for each hundredth gets a second's two pictures.

    Raises:
      VideoError: it cannot be decoded.
      RefusalError: too many are waiting.
    """
    key = (path, etag, round(time / _STEP) * _STEP)
    if key in self._kept:
      self._kept.move_to_end(key)
      return self._kept[key]
    if key not in self._made:
      if len(self._made) >= self._waiting:
        raise RefusalError(503, 'busy', 'Too many pictures are waiting. Try again in a moment.', 2.0)
      self._made[key] = asyncio.ensure_future(self._make(key))
    # Shielded: that one client leaves does not take the picture from the others.
    return await asyncio.shield(self._made[key])

  def close(self) -> None:
    """Ends the threads; pictures that nobody has begun are not made."""
    self._threads.shutdown(wait=False, cancel_futures=True)

  async def _make(self, key: tuple) -> bytes:
    try:
      path, _, time = key

      def work() -> bytes:
        with self._opened(path) as place:
          return jpeg(picture_at(place, time, self._side))

      data = await asyncio.get_running_loop().run_in_executor(self._threads, work)
      self._keep(key, data)
      return data
    finally:
      del self._made[key]

  def _keep(self, key: tuple, data: bytes) -> None:
    self._kept[key] = data
    self.kept_bytes += len(data)
    while self.kept_bytes > self._most_bytes and self._kept:
      self.kept_bytes -= len(self._kept.popitem(last=False)[1])
