"""The socket, the address, and the end of a server."""

import contextlib
import http.client
import logging
import socket
import time
import urllib.error
import urllib.request

import pytest

from dlkd_jax.page import server as server_lib
from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import PageSettings, address, listen, serving


def test_addresses():
  for host, expected in (
    ('127.0.0.1', 'http://127.0.0.1:'),
    ('localhost', 'http://'),
    ('0.0.0.0', 'http://localhost:'),
  ):
    with listen(host, 0) as server:
      assert address(server).startswith(expected) and address(server).endswith('/')
  if socket.has_ipv6:
    try:
      server = listen('::1', 0)
    except OSError:
      return  # This machine has none.
    with server:
      assert address(server).startswith('http://[::1]:')


def test_only_this_machine_is_let_in_by_default():
  with listen('127.0.0.1', 0) as server:
    assert server.getsockname()[0] == '127.0.0.1'


def test_a_taken_port_and_foreign_addresses():
  with listen('127.0.0.1', 0) as server, pytest.raises(OSError, match='another program listens there'):
    listen('127.0.0.1', server.getsockname()[1])
  with pytest.raises(OSError, match='does not have that address'):
    listen('192.0.2.1', 0)
  with pytest.raises(OSError, match='no address of this machine'):
    listen('no such host', 0)


def test_serving_begins_and_ends(gallery):
  with serving(make_app(gallery)) as url:
    assert urllib.request.urlopen(f'{url}api/info').status == 200
  with pytest.raises(urllib.error.URLError):
    urllib.request.urlopen(f'{url}api/info', timeout=2)


@pytest.fixture
def large(gallery, films_folder):
  """A film that is larger than what the system takes before it is read."""
  path = films_folder / 'large.mp4'
  with path.open('wb') as file:
    file.truncate(200 * 2**20)
  gallery.add('large.mp4', ['x'], path)
  yield b'GET /video?id=large.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n'
  path.unlink()


def connect(url):
  return socket.create_connection(('127.0.0.1', int(url.rsplit(':', 1)[1].strip('/'))), timeout=10)


def closed(client, within):
  """Whether a server ends a connection within seconds, whatever it had sent before."""
  client.settimeout(within)
  try:
    while client.recv(2**20):
      pass
  except TimeoutError:
    return False
  except OSError:
    pass
  return True


GET = b'GET /api/info HTTP/1.1\r\nHost: localhost\r\n'


@pytest.mark.parametrize(
  'sent',
  [b'', b'G', GET, GET + b'X: ' + b'x' * 2000, GET + b'Content-Length: 9\r\n\r\n1', GET + b'Connection: close\r\n\r\n'],
)
def test_idle_connections_do_not_keep_others_out(gallery, sent):
  """More than the server takes: nothing sent, a part of a request, or one without the rest of its content."""
  with serving(make_app(gallery)) as url, contextlib.ExitStack() as clients:
    for _ in range(520):
      client = clients.enter_context(connect(url))
      if sent:
        client.sendall(sent)
    for _ in range(5):
      begin = time.monotonic()
      assert urllib.request.urlopen(f'{url}api/info', timeout=5).status == 200
      assert time.monotonic() - begin < 3


def test_clients_that_stop_reading_do_not_keep_others_out(gallery, large):
  with serving(make_app(gallery, PageSettings(media_burst=1000))) as url, contextlib.ExitStack() as clients:
    for _ in range(300):
      clients.enter_context(connect(url)).sendall(large)
    assert urllib.request.urlopen(f'{url}api/info', timeout=30).status == 200


def test_a_request_has_a_deadline(gallery, monkeypatch):
  """Also one that comes byte by byte, the second on a connection, and the content that nobody asked for."""
  monkeypatch.setattr(server_lib, '_REQUEST_WITHIN', 0.6)
  with serving(make_app(gallery)) as url:
    for before in (b'', GET + b'\r\n', GET + b'Content-Length: 100000\r\n\r\n'):
      with connect(url) as client:
        client.sendall(before)
        if before:
          assert client.recv(1000).startswith(b'HTTP/1.1 200')
        begin = time.monotonic()
        with pytest.raises(OSError):
          while time.monotonic() - begin < 8:
            client.sendall(b'G')
            time.sleep(0.05)
        assert time.monotonic() - begin < 5


def test_what_is_asked_for_must_be_taken(gallery, large, monkeypatch):
  monkeypatch.setattr(server_lib, '_TAKEN_WITHIN', 0.6)
  with serving(make_app(gallery)) as url, connect(url) as slow, connect(url) as stopped:
    stopped.sendall(large)
    slow.sendall(large)
    until, taken = time.monotonic() + 3, 0
    while time.monotonic() < until:  # It takes its time, and goes on.
      taken += len(slow.recv(2**20))
      time.sleep(0.05)
    assert taken > 2**20 and slow.recv(1000)
    taken = 0
    with contextlib.suppress(OSError):
      while data := stopped.recv(2**20):
        taken += len(data)
    assert taken < 200 * 2**20


def test_connections_that_are_used_stay(gallery, monkeypatch):
  """Neither the deadline nor the number of others ends one that is being answered."""
  monkeypatch.setattr(server_lib, '_REQUEST_WITHIN', 0.5)
  monkeypatch.setattr(server_lib, '_CONNECTIONS', 5)
  gallery.delay = 2.0
  with serving(make_app(gallery)) as url, connect(url) as waiting, contextlib.ExitStack() as clients:
    waiting.sendall(b'GET /api/search?q=x HTTP/1.1\r\nHost: localhost\r\n\r\n')
    time.sleep(0.2)
    others = [clients.enter_context(connect(url)) for _ in range(20)]
    assert sum(closed(other, 0.01) for other in others) >= 10
    assert waiting.recv(1000).startswith(b'HTTP/1.1 200')


def test_one_connection_has_many_requests(gallery):
  with serving(make_app(gallery)) as url:
    client = http.client.HTTPConnection(url.split('/')[2], timeout=10)
    for _ in range(3):
      for path in ('/api/info', '/', '/api/search?q=x'):
        client.request('GET', path)
        assert client.getresponse().read()
    client.close()
    with connect(url) as pipelined:
      pipelined.sendall(3 * (GET + b'\r\n') + GET + b'Connection: close\r\n\r\n')
      answer = b''
      while data := pipelined.recv(65536):
        answer += data
    assert answer.count(b'HTTP/1.1 200') == 4


def names(*addresses):
  """What the system says of a name with these addresses."""
  families = {True: socket.AF_INET6, False: socket.AF_INET}
  return lambda host, port, **_: [
    (families[':' in one], socket.SOCK_STREAM, 6, '', (one, port) + (0, 0) * (':' in one)) for one in addresses
  ]


def test_a_name_with_several_addresses(gallery, monkeypatch):
  """All are listened at, with one port; those that this machine lacks are left out, as long as there is one."""
  monkeypatch.setattr(socket, 'getaddrinfo', names('127.0.0.1', '127.0.0.2', '127.0.0.1', '192.0.2.1', '2001:db8::1'))
  with listen('films', 0) as server:
    found = {one.getsockname()[0] for one in server.sockets}
    assert found == {'127.0.0.1', '127.0.0.2'} and len({one.getsockname()[1] for one in server.sockets}) == 1
    assert address(server).startswith('http://localhost:')
    port = server.getsockname()[1]
    monkeypatch.setattr(socket, 'getaddrinfo', names('127.0.0.3', '127.0.0.2'))
    with pytest.raises(OSError, match='another program listens there'):
      listen('films', port)
    with socket.socket() as free:
      free.bind(('127.0.0.3', port))  # What was begun is closed.
    with listen('films', 0) as other:
      assert len(other.sockets) == 2
  monkeypatch.setattr(socket, 'getaddrinfo', names('198.51.100.1', '198.51.100.2'))
  with pytest.raises(OSError, match='does not have that address'):
    listen('films', 0)


def test_all_addresses_of_a_name_answer(gallery):
  """As localhost has them here: often one of IPv4, and one of IPv6."""
  addresses = {place[0] for *_, place in socket.getaddrinfo('localhost', 0, type=socket.SOCK_STREAM)}
  with listen('localhost', 0) as server:
    there = {one.getsockname()[0] for one in server.sockets}
    assert there <= addresses and (there == addresses or '::1' in addresses)
    port = server.getsockname()[1]
  with serving(make_app(gallery), 'localhost', port):
    for host in there:
      with socket.create_connection((host, port), timeout=10) as client:
        client.sendall(GET + b'\r\n')
        assert client.recv(100).startswith(b'HTTP/1.1 200')


def test_a_client_that_stops_reading_does_not_hold_the_server(gallery, large):
  """A film is asked for and never read: others are answered, and the server ends."""
  with serving(make_app(gallery)) as url, connect(url) as client:
    client.sendall(large)
    assert client.recv(1000).startswith(b'HTTP/1.1 200')
    assert urllib.request.urlopen(f'{url}api/info', timeout=5).status == 200


class Said(logging.Handler):
  """What a server's log says of an end: no list of calls, whatever ran."""

  def __init__(self):
    super().__init__()
    self.lines = []

  def emit(self, record):
    self.lines.append(self.format(record))


@pytest.fixture
def said(monkeypatch):
  handler = Said()
  serve = server_lib._Server.serve

  async def listened(self, sockets=None):
    logging.getLogger('uvicorn.error').addHandler(handler)  # Once the server has set up its log.
    await serve(self, sockets)

  monkeypatch.setattr(server_lib._Server, 'serve', listened)
  yield handler.lines
  logging.getLogger('uvicorn.error').removeHandler(handler)


def test_the_end_cuts_films_that_are_being_sent_without_a_word(gallery, large, said):
  with contextlib.ExitStack() as clients, serving(make_app(gallery)) as url:  # The server ends before its clients.
    for _ in range(2):
      client = clients.enter_context(connect(url))
      client.sendall(large)
      assert client.recv(1000).startswith(b'HTTP/1.1 200')
  assert said == []


def test_the_end_refuses_searches_that_take_too_long(gallery, said, monkeypatch):
  gallery.delay = 4
  with serving(make_app(gallery)) as url, connect(url) as client:
    client.sendall(GET.replace(b'info', b'search?q=x') + b'\r\n')
    time.sleep(0.5)
  gallery.delay = 0
  assert not [line for line in said if 'Traceback' in line]
