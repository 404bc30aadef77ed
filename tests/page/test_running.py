"""The socket, the address, and the end of a server."""

import socket
import urllib.error
import urllib.request

import pytest

from dlkd_jax.page.app import make_app
from dlkd_jax.page.running import address, listen, serving


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


def test_a_client_that_stops_reading_does_not_hold_the_server(gallery, films, films_folder):
  """A film is asked for and never read: others are answered, and the server ends."""
  large = films_folder / 'large.mp4'
  with large.open('wb') as file:
    file.truncate(200 * 2**20)
  gallery.add('large.mp4', ['x'], large)
  with serving(make_app(gallery)) as url:
    port = int(url.rsplit(':', 1)[1].strip('/'))
    with socket.create_connection(('127.0.0.1', port)) as client:
      client.sendall(b'GET /video?id=large.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n')
      assert client.recv(1000).startswith(b'HTTP/1.1 200')
      assert urllib.request.urlopen(f'{url}api/info', timeout=5).status == 200
  large.unlink()
