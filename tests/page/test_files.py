"""Files are served by id alone, and nothing but the videos of the index."""

import os
import pathlib
import shutil

import pytest
from starlette.testclient import TestClient

from dlkd_jax.page import files as files_lib
from dlkd_jax.page import live
from dlkd_jax.page.app import make_app
from dlkd_jax.page.files import VideoFiles
from dlkd_jax.page.guards import RefusalError
from dlkd_jax.page.server import PageSettings
from dlkd_jax.video.files import open_video
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
  with TestClient(make_app(gallery, PageSettings(roots=(str(folder),))), base_url='http://127.0.0.1') as client:
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
    '/static/..%2f..%2ffiles.py',
    '/static/%2e%2e/files.py',
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
  assert files.diagnosis(ids[0])['code'] == 'fine'
  (folder / 'broken.mp4').write_bytes(b'nothing of a video')
  gallery.add('broken', ['x'], folder / 'broken.mp4')
  diagnosis = files.diagnosis('broken')
  assert diagnosis['code'] == 'damaged' and str(folder) not in diagnosis['message']
  assert files.playable(ids[0]) and not files.playable('none') and not files.playable('absent')


@pytest.fixture(params=['descriptors', 'paths'])
def either(request, monkeypatch):
  """On systems that show open files by number, and on others."""
  if request.param == 'paths':
    monkeypatch.setattr(files_lib, '_OPENED', None)
  elif files_lib._OPENED is None:
    pytest.skip('this system does not show open files by number')


def outside(files, video):
  with pytest.raises(RefusalError) as refusal:
    files.open(video)
  assert refusal.value.code == 'outside'
  return str(refusal.value)


def content(files, video):
  file = files.open(video)
  try:
    return os.pread(file.descriptor, file.size, 0)
  finally:
    os.close(file.descriptor)


def test_folders_noted_in_the_index(either, corpus, tmp_path):
  """A link plays where the folder of its target was noted; folders that are given take the place of those."""
  gallery, folder, ids = corpus
  (tmp_path / 'kept elsewhere').mkdir()
  shutil.move(tmp_path / 'secret.mp4', tmp_path / 'kept elsewhere' / 'real.mp4')
  (folder / 'link.mp4').unlink()
  (folder / 'link.mp4').symlink_to(tmp_path / 'kept elsewhere' / 'real.mp4')
  gallery.manifest = {'roots': [str(folder), str(tmp_path / 'kept elsewhere')]}
  noted = VideoFiles(gallery.videos, (), files_lib.noted_roots(gallery))
  assert content(noted, 'link.mp4') == content(noted, ids[0])
  outside(noted, 'passwd')
  given = VideoFiles(gallery.videos, (str(folder),), files_lib.noted_roots(gallery))
  message = outside(given, 'link.mp4')
  assert f"--videos={folder} '--videos={tmp_path / 'kept elsewhere'}'" in message
  both = VideoFiles(gallery.videos, (str(folder), str(tmp_path / 'kept elsewhere')))
  assert content(both, 'link.mp4') == content(noted, ids[0])
  only = VideoFiles(gallery.videos, (str(tmp_path / 'kept elsewhere'),))
  assert content(only, 'link.mp4') == content(noted, ids[0])  # Where the index says; it really lies in that folder.
  outside(only, ids[0])


def test_the_application_asks_the_index_for_its_folders(corpus, tmp_path):
  gallery, folder, ids = corpus
  gallery.manifest = {'roots': [str(folder), str(tmp_path)]}
  assert live.served(gallery, PageSettings()) == f'below {folder}, {tmp_path}'
  assert live.served(gallery, PageSettings(roots=(str(folder),))) == f'below {folder}'
  assert live.served(MemoryGallery(), PageSettings()) == 'in the folders that the index names'
  with TestClient(make_app(gallery), base_url='http://127.0.0.1') as client:
    for video in ('link.mp4', 'through', 'dots', ids[0]):
      assert client.get('/video', params={'id': video}).status_code == 200, video
      assert client.get('/thumbnail', params={'id': video, 'at': 0}).status_code == 200, video
      assert client.get('/api/video', params={'id': video}).json()['code'] == 'fine', video
    for video in ('passwd', 'text', 'pipe'):
      assert client.get('/video', params={'id': video}).status_code == 403, video


def test_films_that_moved_are_looked_for_by_id(either, corpus, tmp_path):
  """In all folders that are given, the first one first, also those of which the index knows no file."""
  gallery, folder, ids = corpus
  shutil.move(folder, tmp_path / 'new')
  (tmp_path / 'more').mkdir()
  shutil.move(tmp_path / 'new' / ids[0], tmp_path / 'more' / ids[0])
  gallery.add('city/other.mp4', ['x'], None)
  shutil.copy(tmp_path / 'new' / ids[1], tmp_path / 'new' / 'city' / 'other.mp4')
  files = VideoFiles(gallery.videos, (str(tmp_path / 'new'), str(tmp_path / 'more')))
  for video in (*ids, 'city/other.mp4'):
    assert content(files, video).startswith(b'\0\0\0'), video
  assert files.name('city/other.mp4') == 'other.mp4' and files.name('none') == ''
  for video, code in (('none', 'no_file'), ('gone', 'gone')):
    with pytest.raises(RefusalError) as refusal:
      files.open(video)
    assert refusal.value.code == code


def test_ids_that_are_paths(either, corpus, tmp_path):
  """An index made elsewhere may call its videos what it likes."""
  gallery, folder, _ = corpus
  (tmp_path / 'x.mp4').write_bytes(b'secret')
  for video in ('../x.mp4', str(tmp_path / 'x.mp4'), 'city/../../x.mp4', './/../x.mp4'):
    for path in (None, folder / video):
      gallery.add(video, ['x'], path)
      outside(VideoFiles(gallery.videos, (str(folder),)), video)
  gallery.add('nul', ['x'], f'{folder}/a\0b.mp4')
  with pytest.raises(RefusalError):
    VideoFiles(gallery.videos, (str(folder),)).open('nul')


def test_a_link_that_is_changed_after_the_start(either, corpus, tmp_path):
  gallery, folder, ids = corpus
  files = VideoFiles(gallery.videos, (str(folder),))
  place, _ = files.path('inner.mp4')
  (folder / 'inner.mp4').unlink()
  (folder / 'inner.mp4').symlink_to(tmp_path / 'secret.mp4')
  outside(files, 'inner.mp4')
  shutil.move(folder / 'city', folder / 'town')
  (folder / 'city').symlink_to(tmp_path)
  shutil.copy(tmp_path / 'secret.mp4', tmp_path / 'tram.mp4')
  outside(files, ids[1])
  # A picture is made of the file that was allowed, or not at all.
  (folder / ids[0]).unlink()
  (folder / ids[0]).symlink_to(tmp_path / 'secret.mp4')
  with pytest.raises(RefusalError), files.decodable(place):
    pass
  # The folder itself, too.
  shutil.move(folder, tmp_path / 'before')
  folder.symlink_to(tmp_path / 'before')
  outside(files, ids[2])


def test_a_file_that_is_exchanged_while_it_is_opened(either, corpus, tmp_path, monkeypatch):
  """What is read is what was looked at, or nothing."""
  gallery, folder, ids = corpus
  (tmp_path / 'secret.mp4').write_bytes(b'secret')
  before = (folder / ids[0]).read_bytes()
  files = VideoFiles(gallery.videos, (str(folder),))
  check = files._check

  def exchanged(*arguments):
    check(*arguments)
    (folder / ids[0]).unlink()
    (folder / ids[0]).symlink_to(tmp_path / 'secret.mp4')

  monkeypatch.setattr(files, '_check', exchanged)
  try:
    found = content(files, ids[0])
  except RefusalError:
    found = None
  assert found in (None, before)


def test_pictures_and_accounts_are_of_the_file_that_was_opened(corpus, tmp_path):
  if files_lib._OPENED is None:
    pytest.skip('this system does not show open files by number')
  gallery, folder, ids = corpus
  files = VideoFiles(gallery.videos, (str(folder),))
  place, _ = files.path(ids[0])
  with files.decodable(place) as path:
    (folder / ids[0]).unlink()
    (folder / ids[0]).write_bytes(b'nothing of a video')
    with open_video(path) as video:
      assert video.stream.codec_context.name == 'h264'


def test_pipes_are_never_opened(either, corpus, monkeypatch):
  gallery, folder, _ = corpus
  (folder / 'to.mp4').symlink_to(folder / 'pipe.mp4')
  gallery.add('to', ['x'], folder / 'to.mp4')
  opened, system = [], os.open

  def noted(path, flags, *rest, **options):
    if not flags & getattr(os, 'O_PATH', 0):
      opened.append(os.path.realpath(path))
    return system(path, flags, *rest, **options)

  monkeypatch.setattr(os, 'open', noted)
  files = VideoFiles(gallery.videos, (str(folder),))
  for video in ('pipe', 'to'):
    assert 'not a regular file' in outside(files, video)
    assert files.diagnosis(video)['code'] == 'outside'
  assert not opened


def test_names_that_are_no_text(corpus):
  """Of files, whose names are bytes: in the index, in addresses, and in what is said of them."""
  gallery, folder, ids = corpus
  name = os.fsdecode(b'caf\xe9 \xff.mp4')
  shutil.copy(folder / ids[0], os.path.join(folder, name))
  lost = os.fsdecode(b'lost \xe9.mp4')
  for video in (name, lost):
    gallery.add(video, ['x'], os.path.join(folder, video))
  with TestClient(make_app(gallery, PageSettings(roots=(str(folder),))), base_url='http://127.0.0.1') as client:
    found = {hit['video_id']: hit for hit in client.get('/api/search?q=x&top=50').json()['hits']}
    assert client.get(f'/{found[name]["video"]}').status_code == 200
    assert client.get(f'/{found[name]["moments"][0]["thumbnail"]}').status_code == 200
    assert client.get(f'/api/{found[name]["video"]}').json()['code'] == 'fine'
    assert client.get(f'/{found[lost]["video"]}').json()['error']['code'] == 'gone'


def test_names_that_an_index_cannot_have(corpus):
  """An index on disk takes names that are text alone."""
  gallery, folder, _ = corpus

  class Texts(dict):
    def get(self, name, default=None):
      name.encode()
      return super().get(name, default)

  gallery.videos = Texts(gallery.videos)
  with TestClient(make_app(gallery, PageSettings(roots=(str(folder),))), base_url='http://127.0.0.1') as client:
    for address in ('/video?id=%FF', '/thumbnail?id=%ED%A0%80&at=1'):
      answer = client.get(address)
      assert answer.status_code == 404 and answer.json()['error']['code'] == 'unknown', answer.text
    assert client.get('/api/video?id=%E9').json()['code'] == 'unknown'
