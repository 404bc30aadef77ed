"""Who may ask, and how often, what the browser is told to refuse, and what is said where a request is not answered."""

from __future__ import annotations

import asyncio
import collections
import ipaddress
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class RefusalError(Exception):
  """A request that is not answered.

  Attributes:
    status: of HTTP.
    code: one word, for programs.
    message: a sentence or two, for people.
    wait: seconds after which it may be tried again; None where that would not help.
  """

  def __init__(self, status: int, code: str, message: str, wait: float | None = None):
    super().__init__(message)
    self.status, self.code, self.message, self.wait = status, code, message, wait


class Json(JSONResponse):
  """JSON that is never stored, in ASCII: a name that is no UTF-8 must not end the answer that it is in."""

  def __init__(self, content: Any, status: int = 200, headers: dict[str, str] | None = None):
    super().__init__(content, status, {'cache-control': 'no-store', **(headers or {})})

  def render(self, content: Any) -> bytes:
    """Returns the content as it is sent."""
    return json.dumps(content, allow_nan=False, separators=(',', ':')).encode('ascii')


def response(refusal: RefusalError) -> Response:
  """Returns the refusal as JSON: `{"error": {"code": …, "message": …}}`."""
  headers = {}
  content: dict[str, object] = {'code': refusal.code, 'message': refusal.message}
  if refusal.wait is not None:
    headers['retry-after'] = str(max(1, math.ceil(refusal.wait)))
    content['wait'] = round(refusal.wait, 2)
  return Json({'error': content}, refusal.status, headers)


async def handle_refusal(request: Request, error: Exception) -> Response:
  """Starlette's handler of `RefusalError`."""
  del request
  assert isinstance(error, RefusalError)
  return response(error)


async def handle_http(request: Request, error: Exception) -> Response:
  """Starlette's handler of its own refusals: no such address, or not with this method."""
  assert isinstance(error, HTTPException)
  path, method = request.scope['path'][:100], request.method
  if error.status_code == 405:
    known = ' and '.join(sorted(each.strip() for each in (error.headers or {}).get('Allow', 'GET, HEAD').split(',')))
    answer = response(RefusalError(405, 'method', f'{path} is for {known}, not for {method[:20]}.'))
  else:
    answer = response(RefusalError(error.status_code, 'unknown', f'There is nothing at {path}.'))
  answer.headers.update(error.headers or {})
  return answer


class RateLimit:
  """A bucket of tokens a client: `burst` at once, and `rate` a second in the long run.

  It remembers `clients` of them; one that was forgotten because others came starts with a full bucket.
  """

  def __init__(self, rate: float, burst: int, clients: int = 4096, clock: Callable[[], float] = time.monotonic):
    """`clock` returns seconds."""
    self._rate, self._burst, self._clients, self._clock = rate, burst, clients, clock
    self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

  def wait(self, client: str) -> float:
    """Takes a token and returns 0, or returns the seconds until there is one."""
    now = self._clock()
    tokens, since = self._buckets.pop(client, (float(self._burst), now))
    tokens = min(float(self._burst), tokens + (now - since) * self._rate)
    enough = tokens >= 1
    self._buckets[client] = (tokens - 1 if enough else tokens, now)
    if len(self._buckets) > self._clients:
      self._buckets.popitem(last=False)
    return 0.0 if enough else (1 - tokens) / self._rate

  def check(self, client: str) -> None:
    """Takes a token.

    Raises:
      RefusalError: there is none; it says how long to wait.
    """
    if wait := self.wait(client):
      raise RefusalError(429, 'too_often', f'Too many requests at once. Try again in {max(1, round(wait))} s.', wait)


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
