"""Runs the application until it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

# Seconds that answers under way are given when the server stops; a film that is being sent does not count.
_GRACE = 2


def listen(host: str, port: int) -> socket.socket:
  """Opens the server's socket.

  Args:
    host: an address or a name of this machine.
    port: its number; 0 takes a free one.

  Raises:
    OSError: it cannot be had; the message says what to do.
  """
  try:
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
      0
    ]
  except socket.gaierror as error:
    raise OSError(f'--host={host} is no address of this machine: {error.strerror}') from error
  server = socket.socket(family, kind, protocol)
  server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    server.bind(place)
    server.listen(256)
  except OSError as error:
    server.close()
    reasons = {
      errno.EADDRINUSE: 'another program listens there; stop it, or give another --port (0 takes a free one)',
      errno.EACCES: 'that needs more rights; give a --port above 1023',
      errno.EADDRNOTAVAIL: 'this machine does not have that address; give another --host',
    }
    raise OSError(f'cannot listen at {host}:{port}: {reasons.get(error.errno, error.strerror)}') from error
  return server


def address(server: socket.socket) -> str:
  """Returns the URL of the page; a server that listens everywhere is called localhost."""
  host, port = server.getsockname()[:2]
  if host in ('0.0.0.0', '::'):
    host = 'localhost'
  return f'http://[{host}]:{port}/' if ':' in host else f'http://{host}:{port}/'


def run(app: Starlette, server: socket.socket, ready: Callable[[str], None] = lambda url: None) -> None:
  """Serves until SIGINT or SIGTERM, ends what runs, and then lets that signal have its usual effect.

  Args:
    app: the application.
    server: of `listen`; it is closed in the end.
    ready: is told the page's URL once requests are answered.
  """
  with contextlib.closing(server):
    _Server(app, lambda: ready(address(server))).run(sockets=[server])


class _Server(uvicorn.Server):
  def __init__(self, app: Starlette, ready: Callable[[], None]):
    super().__init__(
      uvicorn.Config(
        app,
        log_level='warning',
        access_log=False,
        server_header=False,
        proxy_headers=False,  # Who asks is who is connected: nobody says so of himself.
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=512,
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
  thread = threading.Thread(target=running.run, kwargs={'sockets': [server]}, daemon=True)
  thread.start()
  try:
    if not started.wait(30):
      raise OSError('the server did not start')
    yield address(server)
  finally:
    running.should_exit = True
    thread.join(_GRACE + 10)
    server.close()
