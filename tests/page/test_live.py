"""Between opening a gallery and the first visitor, and when the index changes while it is served."""

import gc
import json
import logging
import os
import pathlib
import shutil
import socket
import threading
import time
import types
import weakref

import pytest
from starlette.testclient import TestClient

from dlkd_jax.gallery import building, progress_file
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.page import app, live
from dlkd_jax.page.live import Live
from dlkd_jax.page.server import PageSettings
from tests.gallery import worlds
from tests.page.memory_gallery import MemoryGallery


def caption(video, text):
  return types.SimpleNamespace(video_id=video, text=text)


def test_examples_are_of_different_videos():
  captions = {f'v{n // 3}#{n}': caption(f'v{n // 3}', f'sentence {n}') for n in range(60)}
  found = live.examples(types.SimpleNamespace(captions=captions), 4)
  assert len(set(found)) == 4
  assert len({int(text.split()[1]) // 3 for text in found}) == 4


def test_examples_are_short_and_may_be_few():
  captions = {'a': caption('v', 'x' * 91), 'b': caption('w', 'short'), 'c': caption('x', 'short')}
  assert live.examples(types.SimpleNamespace(captions=captions)) == ('short',)
  assert live.examples(types.SimpleNamespace()) == ()


def test_the_first_searches_are_made_before(gallery):
  settings = PageSettings(batch=16, threshold=0.1)
  with TestClient(app.prepare(gallery, settings), base_url='http://127.0.0.1') as client:
    assert [len(queries) for queries, _ in gallery.calls] == [1, 2, 16]
    assert client.get('/api/search?q=x').status_code == 200


def test_what_is_wrong_shows_before(gallery):
  gallery.error = ValueError('sentences cannot be typed')
  with pytest.raises(ValueError, match='cannot be typed'):
    app.prepare(gallery, PageSettings())


class DiskGallery(MemoryGallery):
  """A gallery whose index is a file; `later` is what is opened next."""

  def __init__(self, path):
    super().__init__()
    self.path, self.later, self.opened = path, None, 0
    self.begun, self.goes_on = threading.Event(), threading.Event()
    self.goes_on.set()

  def search(self, *arguments, **options):
    self.begun.set()
    assert self.goes_on.wait(30)
    return super().search(*arguments, **options)

  def write(self):
    (self.path / 'manifest.tmp').write_text(str(time.monotonic_ns()))
    (self.path / 'manifest.tmp').replace(self.path / 'manifest.json')

  def changes_to(self, later):
    """What is opened next is whole before the file says that there is something, as in an index."""
    self.later = later
    self.write()

  def is_changed(self):
    return self.later is not None

  def reopen(self):
    self.opened += 1
    if isinstance(self.later, Exception):
      raise self.later
    return self.later


@pytest.fixture
def growing(tmp_path):
  """A gallery of two videos, and one of three that is not there yet."""
  one, two = DiskGallery(tmp_path), DiskGallery(tmp_path)
  for name in ('a', 'b'):
    one.add(name, ['a dog'])
  for name in ('b', 'c', 'd'):
    two.add(name, ['a dog'])
  one.write()
  return one, two


def test_a_search_under_way_ends_on_what_it_began_with(growing):
  one, two = growing
  application = app.make_app(one, PageSettings(look=0.02))
  with TestClient(application, base_url='http://127.0.0.1') as client:
    found = lambda: sorted(hit['id'] for hit in client.get('/api/search?q=dog').json()['hits'])  # noqa: E731
    assert client.get('/api/info').json()['state'] == 0
    early = []
    one.goes_on.clear()
    thread = threading.Thread(target=lambda: early.append(found()))
    thread.start()
    assert one.begun.wait(30)
    one.changes_to(two)
    end = time.monotonic() + 30
    while (info := client.get('/api/info').json())['state'] == 0:
      assert time.monotonic() < end
    one.goes_on.set()  # It was replaced while that search ran.
    thread.join()
    assert early == [['a', 'b']] and found() == ['b', 'c', 'd']
    assert (info['videos'], info['arrived']) == (3, 2) and client.get('/api/search?q=dog').json()['arrived'] == 2
    assert [len(queries) for queries, _ in two.calls][:3] == [1, 2, 32]


def test_what_cannot_be_opened_changes_nothing(growing, caplog):
  one, two = growing
  watched = Live(one, PageSettings())
  assert watched.look() and watched.look() and one.opened == 0
  one.changes_to(OSError('half of it is gone'))
  with caplog.at_level(logging.WARNING):
    assert not watched.look() and not watched.look()
  assert watched.now.gallery is one and [r.message for r in caplog.records].count(caplog.records[0].message) == 1
  assert 'half of it is gone' in caplog.text and one.opened == 2  # It is tried again, and said once.
  (one.path / 'manifest.json').unlink()
  assert not watched.look()
  one.later, two.error = two, ValueError('its sentences cannot be encoded')
  assert not watched.look() and watched.now.gallery is one
  two.error = None
  assert watched.look() and watched.now.gallery is two and watched.now.number == 1


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
  """A CLIP, and data sets of it: one of no video, one of three, one of five."""
  folder = tmp_path_factory.mktemp('sets')
  clip = worlds.clip(folder / 'clip')
  for name, videos in (('three', 3), ('five', 5)):
    worlds.data_set(folder / name, clip, videos)
  return folder, clip


def test_an_index_that_grows(sets, tmp_path):
  """Films of a real index that come, and go, while it is served; nothing of the one before stays open."""
  folder, clip = sets
  index, other = tmp_path / 'index', tmp_path / 'aside'
  opened = lambda name: Collection.open(str(folder / name), 'custom_prvr')  # noqa: E731
  building.build(index, opened('three'), None, building.IndexSettings(clip=str(clip)))
  building.remove(index, lambda entry: True)
  gallery = Gallery.open(index)
  assert len(gallery) == 0
  watched = Live(gallery, PageSettings())
  # An empty one works.
  assert app.prepare(gallery, PageSettings()) and watched.look() and watched.now.gallery is gallery
  before = weakref.ref(gallery)
  building.add(index, opened('five'), again=True)
  assert watched.look() and watched.now.info['videos'] == 5 == watched.now.arrived
  assert watched.now.gallery.sentences is gallery.sentences  # Its student and its CLIP are not read again.
  del gallery
  gc.collect()
  assert before() is None
  if (maps := pathlib.Path('/proc/self/maps')).exists():
    building.compact(index)
    assert watched.look()
    gc.collect()
    assert '(deleted)' not in ''.join(line for line in maps.read_text().splitlines(True) if str(index) in line)
  assert len(watched.now.gallery.search(['a red square'], top=9)[0].hits) == 5
  index.rename(other)
  assert not watched.look() and len(watched.now.gallery.search(['a red square'])[0].hits) == 5
  shutil.copytree(other, index)
  assert watched.look()


def test_an_addition_that_runs_is_told(growing):
  one, _ = growing
  said = {'done': 3, 'total': 12, 'frames': 100, 'share': 0.25, 'film': 'lake.mp4', 'pid': os.getpid()}
  said |= {'started': time.time() - 30, 'updated': time.time(), 'host': socket.gethostname()}
  with TestClient(app.make_app(one), base_url='http://127.0.0.1') as client:
    told = lambda: client.get('/api/info').json()['adding']  # noqa: E731
    assert told() is None
    (one.path / progress_file.NAME).write_text(json.dumps(said))
    assert told() == {'done': 3, 'total': 12, 'share': 0.25, 'left': 90}
    (one.path / progress_file.NAME).write_text(json.dumps(said | {'updated': time.time() - 3600}))
    assert told() is None  # It was killed.
    (one.path / progress_file.NAME).write_text('[')
    assert told() is None
