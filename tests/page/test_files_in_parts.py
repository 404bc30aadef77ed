"""Parts of files, as players ask for them."""

import asyncio
import http.client
import os
import urllib.request

import pytest
from starlette.testclient import TestClient

from dlkd_jax.page.app import make_app
from dlkd_jax.page.files import FileResponse, VideoFile, VideoFiles
from dlkd_jax.page.server import serving
from tests.page.memory_gallery import MemoryGallery


@pytest.fixture
def content():
  return bytes(range(256)) * 4096  # A megabyte: more than a chunk.


@pytest.fixture
def client(tmp_path, content):
  (tmp_path / 'a.webm').write_bytes(content)
  (tmp_path / 'empty.mp4').write_bytes(b'')
  gallery = MemoryGallery()
  for name in ('a.webm', 'empty.mp4'):
    gallery.add(name, ['x'], tmp_path / name)
  with TestClient(make_app(gallery), base_url='http://127.0.0.1') as client:
    yield client


@pytest.mark.parametrize('modified', [3e11, -1e12])
def test_a_file_from_a_year_that_no_date_has(tmp_path, content, modified):
  """As file systems may say; the file is sent, and closed."""
  path = tmp_path / 'a.webm'
  path.write_bytes(content)
  file = VideoFile(os.open(path, os.O_RDONLY), str(path), len(content), '"x"', modified, 'video/webm')
  response = FileResponse(file, {})
  assert response.headers['last-modified'].endswith('GMT') and response.headers['etag'] == '"x"'
  os.close(file.descriptor)


def get(client, name='a.webm', **headers):
  return client.get('/video', params={'id': name}, headers={n.replace('_', '-'): v for n, v in headers.items()})


def test_whole(client, content):
  answer = get(client)
  assert answer.status_code == 200 and answer.content == content
  assert answer.headers['accept-ranges'] == 'bytes' and answer.headers['content-type'] == 'video/webm'
  assert int(answer.headers['content-length']) == len(content)
  empty = get(client, 'empty.mp4')
  assert empty.status_code == 200 and empty.content == b'' and empty.headers['content-length'] == '0'


@pytest.mark.parametrize('first,last', [(0, 0), (5, 300_000), (262_144, 262_144), (1_000_000, None)])
def test_part(client, content, first, last):
  answer = get(client, range=f'bytes={first}-{"" if last is None else last}')
  end = len(content) if last is None else last + 1
  assert answer.status_code == 206 and answer.content == content[first:end]
  assert answer.headers['content-range'] == f'bytes {first}-{end - 1}/{len(content)}'
  assert int(answer.headers['content-length']) == end - first


def test_behind_the_end(client, content):
  answer = get(client, range=f'bytes={len(content)}-')
  assert answer.status_code == 416 and answer.content == b''
  assert answer.headers['content-range'] == f'bytes */{len(content)}'


def test_head(client, content):
  for headers in ({}, {'range': 'bytes=0-9'}):
    answer = client.head('/video', params={'id': 'a.webm'}, headers=headers)
    assert answer.status_code == (206 if headers else 200) and answer.content == b''
    assert int(answer.headers['content-length']) == (10 if headers else len(content))
    assert answer.headers['accept-ranges'] == 'bytes'


def test_if_range(client, content):
  """A part only while the file is the one that the client has the rest of."""
  whole = get(client)
  for same in (whole.headers['etag'], whole.headers['last-modified']):
    assert get(client, range='bytes=0-9', if_range=same).status_code == 206
  for other in ('"other"', f'W/{whole.headers["etag"]}', 'Mon, 01 Jan 2001 00:00:00 GMT'):
    answer = get(client, range='bytes=0-9', if_range=other)
    assert answer.status_code == 200 and answer.content == content


def test_if_none_match(client):
  etag = get(client).headers['etag']
  for header in (etag, f'"other", W/{etag}', '*'):
    answer = get(client, if_none_match=header)
    assert answer.status_code == 304 and answer.content == b'' and answer.headers['etag'] == etag
  assert get(client, if_none_match='"other"').status_code == 200


def test_a_changed_file_has_another_tag(client, tmp_path, content):
  before = get(client).headers['etag']
  (tmp_path / 'a.webm').write_bytes(content[::-1])
  assert get(client).headers['etag'] != before


def served(tmp_path, receive, send):
  gallery = MemoryGallery()
  gallery.add('a', ['x'], tmp_path / 'a.mp4')
  response = FileResponse(VideoFiles(gallery.videos).open('a'), {})
  return asyncio.run(response({'type': 'http', 'method': 'GET', 'headers': []}, receive, send))


def test_reading_ends_when_the_client_leaves(tmp_path, content):
  (tmp_path / 'a.mp4').write_bytes(content)
  sent, left = [], asyncio.Event()

  async def receive():
    await left.wait()
    return {'type': 'http.disconnect'}

  async def send(message):
    sent.append(message)
    if message['type'] == 'http.response.body':
      left.set()
      await asyncio.sleep(0.02)

  served(tmp_path, receive, send)
  assert len(sent) <= 3  # Of five.


def test_a_file_that_becomes_shorter_ends_the_connection(tmp_path, content):
  """So that a part is not taken for the whole."""
  film = tmp_path / 'a.mp4'
  film.write_bytes(content * 32)
  gallery = MemoryGallery()
  gallery.add('a', ['x'], film)
  with serving(make_app(gallery)) as url, urllib.request.urlopen(f'{url}video?id=a') as answer:
    assert answer.read(10) == content[:10]
    os.truncate(film, 100_000)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
      answer.read()
