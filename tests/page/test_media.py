"""Files are served by id alone, and nothing but the videos of the index."""

import os
import pathlib
import shutil

import pytest
from starlette.testclient import TestClient

from dlkd_jax.page.app import make_app
from dlkd_jax.page.media import VideoFiles
from dlkd_jax.page.refusal import RefusalError
from dlkd_jax.page.settings import Settings
from tests.page.memory_gallery import MemoryGallery


@pytest.fixture
def corpus(films, films_folder, tmp_path):
  """A folder of videos with a secret beside it, and a gallery that knows more than it should."""
  folder = tmp_path / 'videos'
  (folder / 'city').mkdir(parents=True)
  film = films_folder / f'{films[0].name}.mp4'
  ids = ('plain.mp4', 'city/tram.mp4', 'with space & 100%?#.mp4', 'ünïcode/日本.mp4', '..%2fencoded.mp4')
  gallery = MemoryGallery()
  for name in ids:
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(film, folder / name)
    gallery.add(name, ['x'], folder / name)
  (tmp_path / 'secret.txt').write_text('secret')
  shutil.copy(film, tmp_path / 'secret.mp4')
  (folder / 'link.mp4').symlink_to(tmp_path / 'secret.mp4')
  (folder / 'inner.mp4').symlink_to(folder / 'plain.mp4')
  (folder / 'out').symlink_to(tmp_path)
  os.mkfifo(folder / 'pipe.mp4')
  (folder / 'folder.mp4').mkdir()
  gallery.add('link.mp4', ['x'], folder / 'link.mp4')
  gallery.add('inner.mp4', ['x'], folder / 'inner.mp4')
  gallery.add('through', ['x'], folder / 'out' / 'secret.mp4')
  gallery.add('text', ['x'], tmp_path / 'secret.txt')
  gallery.add('passwd', ['x'], '/etc/passwd')
  gallery.add('dots', ['x'], folder / '..' / 'secret.mp4')
  gallery.add('pipe', ['x'], folder / 'pipe.mp4')
  gallery.add('folder', ['x'], folder / 'folder.mp4')
  gallery.add('gone', ['x'], folder / 'gone.mp4')
  gallery.add('none', ['x'], None)
  return gallery, folder, ids


@pytest.fixture
def client(corpus):
  gallery, folder, _ = corpus
  with TestClient(make_app(gallery, Settings(roots=(str(folder),))), base_url='http://127.0.0.1') as client:
    yield client


def test_ids_of_every_kind(client, corpus):
  _, folder, ids = corpus
  for name in (*ids, 'inner.mp4'):
    answer = client.get('/video', params={'id': name})
    assert answer.status_code == 200 and answer.content == (folder / name).read_bytes(), name
    assert client.get('/thumbnail', params={'id': name, 'at': 1}).status_code == 200, name


@pytest.mark.parametrize('route', ['/video', '/thumbnail', '/api/video'])
@pytest.mark.parametrize(
  ('video', 'code'),
  [
    ('link.mp4', 'outside'),
    ('through', 'outside'),
    ('text', 'outside'),
    ('passwd', 'outside'),
    ('dots', 'outside'),
    ('pipe', 'outside'),
    ('folder', 'outside'),
    ('gone', 'gone'),
    ('none', 'no_file'),
    ('../secret.txt', 'unknown'),
    ('/etc/passwd', 'unknown'),
    ('plain.mp4/../../secret.mp4', 'unknown'),
    ('..%2f..%2fsecret.mp4', 'unknown'),
    ('%2e%2e/secret.mp4', 'unknown'),
    ('plain.mp4\0', 'unknown'),
    ('PLAIN.mp4', 'unknown'),
    ('', 'unknown'),
  ],
)
def test_nothing_else_is_served(client, route, video, code):
  answer = client.get(route, params={'id': video})
  content = answer.json()
  assert (content if route == '/api/video' else content['error'])['code'] == code
  assert 'secret' not in answer.headers.get('content-type', '') and b'root:' not in answer.content
  assert route == '/api/video' or answer.status_code in (403, 404, 410)


@pytest.mark.parametrize(
  'address',
  [
    '/video/plain.mp4',
    '/video/../../secret.mp4',
    '/video?id=..%2F..%2Fsecret.mp4',
    '/video?id=%252e%252e%252fsecret.mp4',
    '/static/..%2f..%2fmedia.py',
    '/static/%2e%2e/media.py',
    '//etc/passwd',
    '/..%5c..%5csecret.mp4',
  ],
)
def test_no_address_leads_out(client, address):
  assert client.get(address).status_code == 404


def test_without_roots_links_do_not_lead_out_either(corpus):
  gallery, _, ids = corpus
  files = VideoFiles(gallery.videos)
  for video in (*ids, 'inner.mp4'):
    os.close(files.open(video).descriptor)
  for video in ('link.mp4', 'text', 'passwd'):
    with pytest.raises(RefusalError, match='leads out'):
      files.open(video)


def test_a_folder_that_is_a_link_is_fine(corpus, tmp_path):
  gallery, folder, _ = corpus
  (tmp_path / 'library').symlink_to(folder)
  gallery.add('linked', ['x'], tmp_path / 'library' / 'plain.mp4')
  for roots in ((), (str(tmp_path / 'library'),)):
    os.close(VideoFiles(gallery.videos, roots).open('linked').descriptor)


def test_nothing_stays_open(client, corpus):
  _, _, ids = corpus
  client.get('/video', params={'id': ids[0]})
  before = len(os.listdir('/proc/self/fd')) if pathlib.Path('/proc/self/fd').exists() else 0
  for _ in range(20):
    client.get('/video', params={'id': ids[0]})
    client.head('/video', params={'id': ids[0]})
    client.get('/video', params={'id': ids[0]}, headers={'range': 'bytes=999999999-'})
    client.get('/video', params={'id': 'folder'})
    client.get('/thumbnail', params={'id': ids[0], 'at': 2})
  assert before == 0 or len(os.listdir('/proc/self/fd')) <= before + 2


def test_accounts(corpus, tmp_path):
  gallery, folder, ids = corpus
  files = VideoFiles(gallery.videos, (str(folder),))
  assert files.account(ids[0])['code'] == 'fine'
  (folder / 'broken.mp4').write_bytes(b'nothing of a video')
  gallery.add('broken', ['x'], folder / 'broken.mp4')
  account = files.account('broken')
  assert account['code'] == 'damaged' and str(folder) not in account['message']
  assert files.playable(ids[0]) and not files.playable('none') and not files.playable('absent')
