"""What a server of the page allows, and the server, which runs the application until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import pathlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that answers under way are given when the server stops, and after which a film that is being sent is cut.
_GRACE, _CUT = 2, 1.5
# Connections from which on a new one takes the place of the one that has been idle for longest.
_CONNECTIONS = 256
_BACKLOG = 1024
# Seconds that a client is given to send a request, and to take some of what it asked for; a film that was paused for
# longer is asked for again by the browser, from there on.
_REQUEST_WITHIN, _TAKEN_WITHIN = 15.0, 120.0
# To find one port that is free at several addresses.
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class PageSettings:
  """Limits and choices of a server.

  Attributes:
    hosts: names, besides IP addresses and localhost, that a request may call this server by.
    roots: folders to look for videos in, by id; nothing outside of them is served. Empty: where the index says, below
      the folders that it noted when it was made.
    threshold: videos whose score is below it are no match; None leaves all in.
    weights: scorer → weight of the fused score; None is the gallery's own choice.
    exact: True scores every frame, False searches in two stages, which the index must be prepared for; None is
      whichever costs less.
    examples: sentences that the empty page suggests; empty: some captions of the index.
    top, most_top: results of an answer, unless asked otherwise, and at most.
    moments, most_moments: moments of a result, the same.
    most_offset: of paging.
    most_offset_two_stage: the same where searches are in two stages, which compute all before it exactly.
    most_characters: of a query, and of its filters.
    query_rate, query_burst: searches a second that a client may make in the long run, and at once.
    media_rate, media_burst: the same for pictures and parts of videos.
    waiting: searches, and pictures, that may wait for their turn.
    batch: queries that are searched together at most.
    look: seconds from one look for a newer index to the next.
    curve_points: of a frame curve in an answer; longer ones are thinned.
    thumbnail_side: longer side of a picture, pixels.
    thumbnail_bytes: of pictures that are kept in memory.
    cache: folder of the pieces of films that are made; None: `films` in the user's cache folder.
    cache_bytes: of these pieces, on the disk.
    piece: seconds of a film that are made playable at a time.
    budget: seconds of processor time for that; a piece that needs more is shorter.
    longest_clip: seconds of a clip at most.
  """

  hosts: tuple[str, ...] = ()
  roots: tuple[str, ...] = ()
  threshold: float | None = None
  weights: Mapping[str, float] | None = None
  exact: bool | None = None
  examples: tuple[str, ...] = ()
  top: int = 10
  most_top: int = 50
  moments: int = 3
  most_moments: int = 8
  most_offset: int = 10_000
  most_offset_two_stage: int = 1_000
  most_characters: int = 300
  query_rate: float = 5.0
  query_burst: int = 20
  media_rate: float = 50.0
  media_burst: int = 300
  waiting: int = 256
  batch: int = 32
  look: float = 2.0
  curve_points: int = 240
  thumbnail_side: int = 480
  thumbnail_bytes: int = 64 * 2**20
  cache: pathlib.Path | None = None
  cache_bytes: int = 2 * 2**30
  piece: float = 60.0
  budget: float = 20.0
  longest_clip: float = 600.0

  @property
  def options(self) -> dict[str, Any]:
    """What every search of the gallery is told."""
    return {'threshold': self.threshold, 'weights': self.weights, 'exact': self.exact}

  @property
  def furthest(self) -> int:
    """The largest offset that is searched for."""
    return self.most_offset if self.exact is not False else min(self.most_offset, self.most_offset_two_stage)


class Listener:
  """Sockets that listen at one port, at all addresses of a name; a context manager that closes them."""

  def __init__(self, sockets: list[socket.socket]):
    self.sockets = sockets

  def getsockname(self) -> tuple:
    """Returns the address of the first one, as a socket does."""
    return self.sockets[0].getsockname()

  def close(self) -> None:
    """Closes all."""
    for one in self.sockets:
      one.close()

  def __enter__(self) -> Listener:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


def listen(host: str, port: int) -> Listener:
  """Opens the server's sockets: one for each address that a name has, as localhost has one of IPv4 and one of IPv6.

  Args:
    host: an address or a name of this machine.
    port: its number; 0 takes a free one.

  Raises:
    OSError: it cannot be had; the message says what to do.
  """
  try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
  except (socket.gaierror, UnicodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise OSError(f'--host={host} is no address of this machine: {reason}') from error
  places = list(dict.fromkeys((family, place) for family, _, _, _, place in found))
  for attempt in range(_ATTEMPTS):
    try:
      return _bind(places, port)
    except OSError as error:
      if error.errno == errno.EADDRINUSE and not port and attempt < _ATTEMPTS - 1:
        continue  # Free at the first address, and taken at another one.
      reasons = {
        errno.EADDRINUSE: 'another program listens there; stop it, or give another --port (0 takes a free one)',
        errno.EACCES: 'that needs more rights; give a --port above 1023',
        errno.EADDRNOTAVAIL: 'this machine does not have that address; give another --host',
      }
      raise OSError(f'cannot listen at {host}:{port}: {reasons.get(error.errno, error.strerror)}') from error
  raise AssertionError('the last attempt returns or raises')


def _bind(places: list[tuple[int, tuple]], port: int) -> Listener:
  """Listens at all places that this machine has, and at one of them at least."""
  listener, absent = Listener([]), None
  for family, place in places:
    try:
      server = socket.socket(family, socket.SOCK_STREAM)
      listener.sockets.append(server)
      server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      if family == socket.AF_INET6 and len(places) > 1:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # Those of IPv4 have a socket of their own.
      server.bind((place[0], port, *place[2:]))
      server.listen(_BACKLOG)
    except OSError as error:
      if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        listener.close()
        raise
      absent = error  # A name may have an address of IPv6 on a machine without it.
      if listener.sockets and listener.sockets[-1] is server:
        listener.sockets.pop().close()
    else:
      port = server.getsockname()[1]
  if not listener.sockets:
    raise absent or OSError(errno.EADDRNOTAVAIL, 'the name has no address')
  return listener


def address(server: Listener) -> str:
  """Returns the URL of the page; a server that listens everywhere, or at several addresses, is called localhost."""
  host, port = server.getsockname()[:2]
  if host in ('0.0.0.0', '::') or len(server.sockets) > 1:
    host = 'localhost'
  return f'http://[{host}]:{port}/' if ':' in host else f'http://{host}:{port}/'


def run(app: Starlette, server: Listener, ready: Callable[[str], None] = lambda url: None) -> None:
  """Serves until SIGINT or SIGTERM, ends what runs, and then lets that signal have its usual effect.

  Args:
    app: the application.
    server: of `listen`; it is closed in the end.
    ready: is told the page's URL once requests are answered.
  """
  with server:
    _Server(app, lambda: ready(address(server))).run(sockets=server.sockets)


class _Connection(H11Protocol):
  """A connection that cannot be held for nothing.

  uvicorn waits without end for a first request, for the rest of one, and for a client to take what it asked for. Here
  each of these has a deadline; and where there are many connections, a new one takes the place of the one that has
  kept the server waiting for longest, so that no number of idle ones keeps others out.
  """

  _timer: asyncio.TimerHandle | None = None
  _waits_since: float | None = None  # Of the loop's clock; None while the server is at work for it.

  def connection_made(self, transport: asyncio.Transport) -> None:
    super().connection_made(transport)
    self._wait(_REQUEST_WITHIN)
    if len(self.connections) > _CONNECTIONS:
      idle = [one for one in self.connections if one is not self and one._waits_since is not None]
      if idle:
        min(idle, key=lambda one: one._waits_since)._drop()

  def data_received(self, data: bytes) -> None:
    super().data_received(data)
    self._look()

  def on_response_complete(self) -> None:
    super().on_response_complete()
    self._look()

  def pause_writing(self) -> None:
    super().pause_writing()
    self._wait(_TAKEN_WITHIN)

  def resume_writing(self) -> None:
    super().resume_writing()
    self._go_on()
    self._look()

  def connection_lost(self, exc: Exception | None) -> None:
    self._go_on()
    super().connection_lost(exc)

  def shutdown(self) -> None:
    super().shutdown()
    self.loop.call_later(_CUT, self._drop)  # Before the server ends what is under way, which it calls an error.

  def _look(self) -> None:
    """Sees whether a request is under way; data that are none do not move the deadline."""
    if self.flow.write_paused:
      return
    if self.cycle is not None and not self.cycle.response_complete:
      self._go_on()
    elif self._timer is None:
      self._wait(_TAKEN_WITHIN if self.transport.get_write_buffer_size() else _REQUEST_WITHIN)

  def _wait(self, seconds: float) -> None:
    self._go_on()
    self._waits_since = self.loop.time()
    self._timer = self.loop.call_later(seconds, self._drop)

  def _go_on(self) -> None:
    self._waits_since = None
    if self._timer is not None:
      self._timer.cancel()
      self._timer = None

  def _drop(self) -> None:
    self._go_on()
    self.connections.discard(self)  # The loop tells of the end of a connection only a while after.
    self.transport.abort()


class _Server(uvicorn.Server):
  def __init__(self, app: Starlette, ready: Callable[[], None]):
    super().__init__(
      uvicorn.Config(
        app,
        http=_Connection,
        log_level='warning',
        access_log=False,
        server_header=False,
        proxy_headers=False,  # Who asks is who is connected: nobody says so of himself.
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=2 * _CONNECTIONS,
        backlog=_BACKLOG,
        ws='none',
      )
    )
    self._ready = ready

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    if self.started:
      self._ready()


@contextlib.contextmanager
def serving(app: Starlette, host: str = '127.0.0.1', port: int = 0) -> Iterator[str]:
  """Serves in a thread for the length of a `with` block: for notebooks and tests.

  Yields:
    The page's URL.

  Raises:
    OSError: as `listen` does.
  """
  server = listen(host, port)
  started = threading.Event()
  running = _Server(app, started.set)
  thread = threading.Thread(target=running.run, kwargs={'sockets': server.sockets}, daemon=True)
  thread.start()
  try:
    if not started.wait(30):
      raise OSError('the server did not start')
    yield address(server)
  finally:
    running.should_exit = True
    thread.join(_GRACE + 10)
    server.close()
