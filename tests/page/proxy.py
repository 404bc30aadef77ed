"""A reverse proxy that shows a server below a path, which it takes away, as notebooks and editors in the browser do."""

import contextlib
import http.client
import http.server
import threading
import urllib.parse
from collections.abc import Iterator


@contextlib.contextmanager
def proxied(url: str, prefix: str, slash: bool = True) -> Iterator[tuple[str, list[str]]]:
  """Shows the server at `url` below `prefix`.

  Args:
    url: of the server.
    prefix: path without a slash at its end.
    slash: whether the address that is told ends with one; without it the proxy shows the page as well.

  Yields:
    The address that leads to the page, and a list that grows by each path that was asked for in vain.
  """
  upstream, missed = urllib.parse.urlsplit(url).netloc, []

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
      path = self.path.removeprefix(prefix)
      if not self.path.startswith(prefix) or path[:1] not in ('/', '?', ''):
        missed.append(self.path)
        return self.answer(404, {}, b'')
      client = http.client.HTTPConnection(upstream, timeout=60)
      headers = {name: value for name, value in self.headers.items() if name.lower() not in ('host', 'connection')}
      client.request('GET', path if path.startswith('/') else f'/{path}', headers={**headers, 'Host': upstream})
      answer = client.getresponse()
      content = answer.read()
      client.close()
      if answer.status >= 400:
        missed.append(self.path)
      return self.answer(answer.status, dict(answer.headers), content)

    def answer(self, status, headers, content):
      self.send_response(status)
      for name, value in headers.items():
        if name.lower() not in ('date', 'connection', 'transfer-encoding'):
          self.send_header(name, value)
      if 'content-length' not in {name.lower() for name in headers} and status != 304:
        self.send_header('content-length', str(len(content)))
      self.end_headers()
      self.wfile.write(content)

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f'http://127.0.0.1:{server.server_port}{prefix}{"/" if slash else ""}', missed
  finally:
    server.shutdown()
    server.server_close()
