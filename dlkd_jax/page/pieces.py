"""Pieces of films that are made when somebody asks for them, one at a time, and kept for a while: see `cutting`.

They lie in a folder of the user's cache, by what they are of: `<hash of the file's identity and of the kind>-<start>-
<end>[z].mp4`, times in milliseconds, `z` where the film ends there. A piece is written under another name, and given
its own once it is whole. Where all take more than is allowed, those go that nobody has asked for longest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from dlkd_jax import files as files_lib
from dlkd_jax.page.files import VideoFile
from dlkd_jax.page.guards import RefusalError

_NAME = re.compile(r'([0-9a-f]{24})-(\d{1,12})-(\d{1,12})(z?)\.mp4')
_LEAD = 1.0  # Seconds before the one that is asked for with which a piece to play begins.
_NEAR_END = 0.5  # Seconds; so near to the end of a piece the next one is made.
# Seconds that a piece may take, as a multiple of its processor time and more.
_PATIENCE = 4.0, 10.0
_PARTIAL = 3600  # Seconds after which what was left half written is removed.
_PACKAGE = pathlib.Path(__file__).resolve().parents[2]


class Piece(NamedTuple):
  """A piece of a film: its file's name in the folder, and where it lies in the film, seconds."""

  name: str
  start: float
  end: float
  last: bool


class Pieces:
  """Makes pieces in one process at a time, which cannot take longer or more than it may, and keeps them.

  Who asks for a piece that is being made waits for that one; one that nobody waits for any more is not made.
  """

  def __init__(self, folder: pathlib.Path | None, most_bytes: int, budget: float, waiting: int = 8):
    """Takes what is allowed.

    Args:
      folder: of the pieces; None: `films` in the user's cache folder. It is made with the first piece.
      most_bytes: of all pieces together.
      budget: seconds of processor time for one; one that needs more is shorter.
      waiting: pieces that may wait for their turn.
    """
    self._folder, self._most_bytes, self._budget, self._waiting = folder, most_bytes, budget, waiting
    self._alone = asyncio.Lock()
    self._made: dict[tuple, asyncio.Task[Piece]] = {}
    self._asking: dict[tuple, int] = {}

  async def play(self, file: VideoFile, start: float, seconds: float) -> Piece:
    """Returns a piece that browsers play and that has a second of a film in it; seconds long, if it is to be made.

    Raises:
      RefusalError: it cannot be made (415 unplayable), too many wait (503 busy), or there is no room (503 no_room).
    """
    key = self._key(file, 'play')
    for piece in self._there(key):
      if piece.start <= start and (start < piece.end - _NEAR_END or piece.last):
        return self._taken(piece)
    begin = max(0.0, float(int(start - _LEAD)))
    return await self._shared(file, key, begin, seconds, 'play')

  async def clip(self, file: VideoFile, start: float, end: float, how: str) -> Piece:
    """Returns a clip; `how` is copy or exact, see `cutting`. Errors are those of `play`."""
    key = self._key(file, f'{how} {start:.3f} {end:.3f}')
    for piece in self._there(key):
      return self._taken(piece)
    return await self._shared(file, key, start, end - start, how)

  def open(self, name: str) -> VideoFile:
    """Opens a piece.

    Raises:
      RefusalError: there is none of that name, or not any more.
    """
    path = self._place() / name
    try:
      if not _NAME.fullmatch(name):
        raise FileNotFoundError(name)
      descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
      raise RefusalError(404, 'unknown', 'There is no such piece, or not any more. Open the film again.') from error
    return VideoFile.of(descriptor, str(path))

  def _place(self) -> pathlib.Path:
    return files_lib.cache_folder() / 'films' if self._folder is None else self._folder

  def _key(self, file: VideoFile, kind: str) -> str:
    return hashlib.sha256(os.fsencode(f'{kind}\0{file.path}\0{file.etag}')).hexdigest()[:24]

  def _there(self, key: str) -> list[Piece]:
    """Returns the pieces of a key, the longest first."""
    found = []
    with contextlib.suppress(OSError, RuntimeError):
      for name in os.listdir(self._place()):
        if (match := _NAME.fullmatch(name)) and match[1] == key:
          found.append(Piece(name, int(match[2]) / 1000, int(match[3]) / 1000, bool(match[4])))
    return sorted(found, key=lambda piece: piece.start - piece.end)

  def _taken(self, piece: Piece) -> Piece:
    with contextlib.suppress(OSError):
      os.utime(self._place() / piece.name)  # The last to be removed.
    return piece

  async def _shared(self, file: VideoFile, key: str, start: float, seconds: float, how: str) -> Piece:
    """Makes a piece, or waits for the one that is being made; whoever leaves last ends the making."""
    one = (key, start)
    if one not in self._made:
      if len(self._made) >= self._waiting:
        raise RefusalError(503, 'busy', 'Too many films are being made playable. Try again in a moment.', 5.0)
      # It outlives the request that opened the file, so it has a descriptor of its own.
      own = file.again()
      self._made[one] = asyncio.create_task(self._make(own, key, start, seconds, how))

      def done(_: asyncio.Task[Piece]) -> None:
        del self._made[one]
        os.close(own.descriptor)

      self._made[one].add_done_callback(done)
    task = self._made[one]
    self._asking[one] = self._asking.get(one, 0) + 1
    try:
      return await asyncio.shield(task)
    finally:
      self._asking[one] -= 1
      if not self._asking[one]:
        del self._asking[one]
        if not task.done():
          task.cancel()

  async def close(self) -> None:
    """Ends what is being made."""
    for task in list(self._made.values()):
      task.cancel()
    await asyncio.gather(*self._made.values(), return_exceptions=True)

  async def _make(self, file: VideoFile, key: str, start: float, seconds: float, how: str) -> Piece:
    async with self._alone:
      try:
        folder = self._place()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, partial = tempfile.mkstemp('.part', f'{key}-', folder)
        os.close(descriptor)
      except (OSError, RuntimeError) as error:
        raise RefusalError(503, 'no_room', f'The server has no room for pieces of films: {error}.') from error
      try:
        made = await self._cut(file, partial, start, seconds, how)
        first, end = (max(0, round(1000 * made[name])) for name in ('start', 'end'))
        piece = Piece(
          f'{key}-{first}-{end}{"z" if made["last"] else ""}.mp4', first / 1000, end / 1000, bool(made['last'])
        )
        os.replace(partial, folder / piece.name)
      finally:
        with contextlib.suppress(OSError):
          os.unlink(partial)
      self._evict(folder, piece.name)
      return piece

  async def _cut(self, file: VideoFile, target: str, start: float, seconds: float, how: str) -> dict:
    """Runs the other process, for so long as it may run."""
    # Not by asyncio, some of whose loops fork in ways that JAX warns of.
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'dlkd_jax.page.cutting', file.decodable, target, f'--start={start}'),
        *(f'--seconds={seconds}', f'--how={how}', f'--budget={self._budget}'),
      ],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      pass_fds=(file.descriptor,),
      env=os.environ | {'PYTHONPATH': os.pathsep.join([str(_PACKAGE), os.environ.get('PYTHONPATH', '')]).rstrip(':')},
    )
    try:
      out, errors = await asyncio.to_thread(process.communicate, timeout=_PATIENCE[0] * self._budget + _PATIENCE[1])
    except subprocess.TimeoutExpired as error:
      raise RefusalError(415, 'unplayable', 'The film took too long to be made playable.') from error
    finally:
      if process.poll() is None:
        process.kill()
        await asyncio.to_thread(process.wait)
    if process.returncode:
      reason = errors.decode(errors='replace').strip().splitlines()[-1:] if process.returncode == 1 else []
      said = f'the film {reason[0][:200]}' if reason else 'what reads the film had to be ended'
      raise RefusalError(415, 'unplayable', f'No piece can be made: {said}.')
    return json.loads(out)

  def _evict(self, folder: pathlib.Path, kept: str) -> None:
    """Removes the pieces that nobody has asked for longest, as long as all are too large, and what was left behind."""
    pieces, now = [], time.time()
    for entry in os.scandir(folder):
      with contextlib.suppress(OSError):
        if not entry.is_file(follow_symlinks=False):
          continue
        status = entry.stat(follow_symlinks=False)
        if _NAME.fullmatch(entry.name) and entry.name != kept:
          pieces.append((status.st_mtime, status.st_size, entry.path))
        elif entry.name.endswith('.part') and now - status.st_mtime > _PARTIAL:
          os.unlink(entry.path)
    size = sum(size for _, size, _ in pieces) + (folder / kept).stat().st_size
    for _, own, path in sorted(pieces):
      if size <= self._most_bytes:
        break
      with contextlib.suppress(OSError):
        os.unlink(path)
        size -= own
