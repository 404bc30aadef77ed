"""What holds for every request: whom it may come from, and what the browser is told to refuse."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dlkd_jax.page.refusal import RefusalError, response

# Of the one script that stands in the page itself.
_INLINE = 'sha256-oyHvpn5O37cH/tiwcHDTNhLT+CdMDZgSpasVPUOvmQQ='
HEADERS = {
  # Everything comes from this server, and nothing is written into the page as markup.
  'content-security-policy': f"default-src 'none'; script-src 'self' '{_INLINE}'; style-src 'self'; img-src 'self'; "
  "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=()',
}


def host_of(header: str) -> str:
  """Returns the name in a Host header, in lower case, without the port and the brackets of an IPv6 address."""
  header = header.strip().lower()
  if header.startswith('['):
    return header[1:].partition(']')[0]
  return header.rpartition(':')[0] if header.count(':') == 1 else header


def allowed_host(header: str, names: Iterable[str] = ()) -> bool:
  """Whether a Host header may name this server.

  A page of another site can make its own name point here (DNS rebinding) and then read what is served, but it is its
  name that the browser then sends. So names are listed, and addresses are not.
  """
  host = host_of(header)
  if host in {'localhost', *(name.lower() for name in names)}:
    return True
  try:
    ipaddress.ip_address(host)
  except ValueError:
    return False
  return True


class Guard:
  """ASGI middleware: refuses foreign hosts and requests that other sites' pages make, and sets the headers.

  Errors that nobody expected are logged, and answered without their content.
  """

  def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = ()):
    """`hosts`: names of this server besides IP addresses and localhost."""
    self._app, self._hosts = app, hosts

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on, or refuses it."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return

    started = False

    async def send_with_headers(message: Message) -> None:
      nonlocal started
      started = True
      if message['type'] == 'http.response.start':
        headers = MutableHeaders(raw=message.setdefault('headers', []))
        for name, value in HEADERS.items():
          headers[name] = value
      await send(message)

    if refusal := self._refusal(scope):
      logging.getLogger(__name__).warning('%s %r: %r', scope['method'], scope['path'], refusal.message)
      await response(refusal)(scope, receive, send_with_headers)
      return
    try:
      await self._app(scope, receive, send_with_headers)
    except asyncio.CancelledError:  # The server ends, and does not wait for this.
      if started:
        raise
      await response(RefusalError(503, 'stopping', 'The server is stopping.'))(scope, receive, send_with_headers)
    except Exception:
      if started:
        raise  # The server ends the connection, so that half an answer is not taken for a whole one.
      logging.getLogger(__name__).exception('%r failed', scope['path'])
      failed = RefusalError(500, 'failed', "Something went wrong; the server's log says what.")
      await response(failed)(scope, receive, send_with_headers)

  def _refusal(self, scope: Scope) -> RefusalError | None:
    headers = Headers(scope=scope)
    hosts = headers.getlist('host')
    if len(hosts) != 1 or not allowed_host(hosts[0], self._hosts):
      shown = ', '.join(hosts)[:100] or 'nothing'
      return RefusalError(
        400, 'foreign_host', f'This server is not called {shown}. Start it with --allow_host=NAME to allow a name.'
      )
    if not (_reads(scope, headers) if scope['method'] in ('GET', 'HEAD') else _is_own(headers, hosts[0])):
      return RefusalError(403, 'foreign_site', 'Pages of other sites cannot use this server.')
    return None


def _reads(scope: Scope, headers: Headers) -> bool:
  """Whether a request may read: following a link to the page is fine; embedding, or a script of another site, is not.

  Browsers leave the headers out where a server has neither a name of its own machine nor a certificate, as in a local
  network; what is then asked for, the headers of the answer keep from other sites.
  """
  site, mode = headers.get('sec-fetch-site', 'none'), headers.get('sec-fetch-mode', 'navigate')
  return site in ('same-origin', 'none') or (mode == 'navigate' and scope['path'] == '/')


def _is_own(headers: Headers, host: str) -> bool:
  """Whether a request that may change something comes from this server's own page; what does not say so is refused."""
  origins = headers.getlist('origin')
  own = len(origins) == 1 and origins[0].strip().lower().partition('://')[2] == host.strip().lower()
  return own and headers.get('sec-fetch-site', 'same-origin') == 'same-origin'
