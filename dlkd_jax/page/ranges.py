"""Files in parts, as a player asks for them (RFC 9110: ranges, conditions)."""

from __future__ import annotations

import email.utils
import os
import re
from collections.abc import Mapping

import anyio
import anyio.to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dlkd_jax.page.media import VideoFile

_CHUNK = 256 * 1024
_RANGE = re.compile(r'bytes=\s*(\d{0,19})-(\d{0,19})\s*', re.ASCII | re.IGNORECASE)


class UnsatisfiableRangeError(ValueError):
  """A range of which the file has nothing."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
  """Reads a Range header.

  Args:
    header: as sent; None where there is none.
    size: of the file, bytes.

  Returns:
    (start, end): the bytes to send, end excluded; None for the whole file: where no range is asked for, and, as HTTP
    allows, where the header is malformed or names several ranges.

  Raises:
    UnsatisfiableRangeError: the file has nothing of the range.
  """
  match = _RANGE.fullmatch(header.strip()) if header else None
  if match is None or match.groups() == ('', ''):
    return None
  first, last = match.groups()
  if not first:  # The last bytes of the file.
    if not int(last) or not size:
      raise UnsatisfiableRangeError(header)
    return max(0, size - int(last)), size
  if last and int(last) < int(first):
    return None  # Malformed.
  if int(first) >= size:
    raise UnsatisfiableRangeError(header)
  return int(first), min(size, int(last) + 1) if last else size


def _date(seconds: float) -> str | None:
  """A time since 1970 as HTTP writes it; None of a year that it cannot write, as some file systems have."""
  try:
    return email.utils.formatdate(seconds, usegmt=True)
  except (ValueError, OverflowError, OSError):
    return None


def _same(header: str, file: VideoFile, modified: str | None) -> bool:
  """Whether an If-Range header names the file as it is; weak tags never do."""
  return header.strip() in (file.etag, modified)


class FileResponse(Response):
  """A file, or the part of it that was asked for: 200, 206, 304 or 416. It closes the file."""

  def __init__(self, file: VideoFile, request_headers: Mapping[str, str], method: str):
    """`request_headers` as Starlette has them; a HEAD request is answered without the content."""
    self._file, self._span, self._with_body = file, (0, file.size), method != 'HEAD'
    modified = _date(file.modified)
    headers = {'accept-ranges': 'bytes', 'etag': file.etag, 'cache-control': 'private, no-cache'}
    if modified is not None:
      headers['last-modified'] = modified
    status = 200
    if_range = request_headers.get('if-range')
    tags = [tag.strip().removeprefix('W/') for tag in request_headers.get('if-none-match', '').split(',')]
    if file.etag in tags or tags == ['*']:
      status, self._span = 304, (0, 0)
    elif method == 'GET' and (if_range is None or _same(if_range, file, modified)):
      try:
        span = parse_range(request_headers.get('range'), file.size)
      except UnsatisfiableRangeError:
        status, span = 416, (0, 0)
        headers['content-range'] = f'bytes */{file.size}'
      if span is not None:
        self._span = span
        if status == 200:
          status = 206
          headers['content-range'] = f'bytes {span[0]}-{span[1] - 1}/{file.size}'
    super().__init__(None, status, headers, file.media_type)
    del self.headers['content-length']
    if status != 304:
      self.headers['content-length'] = str(self._span[1] - self._span[0])

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends it, a chunk at a time, until the client has it or has left."""
    shorter = False
    try:
      async with anyio.create_task_group() as group:
        group.start_soon(_until_disconnect, receive, group.cancel_scope)
        shorter = not await self._send(send)
        group.cancel_scope.cancel()
    finally:
      os.close(self._file.descriptor)
    if shorter:  # Nothing can be said any more; an error ends the connection, so that the client sees it.
      raise OSError(f'{self._file.path} became shorter while it was sent')

  async def _send(self, send: Send) -> bool:
    """Returns whether the file had all that was promised."""
    await send({'type': 'http.response.start', 'status': self.status_code, 'headers': self.raw_headers})
    place, end = self._span
    if not self._with_body or place == end:
      await send({'type': 'http.response.body', 'body': b''})
      return True
    while place < end:
      chunk = await anyio.to_thread.run_sync(os.pread, self._file.descriptor, min(_CHUNK, end - place), place)
      if not chunk:
        return False
      place += len(chunk)
      await send({'type': 'http.response.body', 'body': chunk, 'more_body': place < end})
    return True


async def _until_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
  while (await receive())['type'] != 'http.disconnect':
    pass
  scope.cancel()
