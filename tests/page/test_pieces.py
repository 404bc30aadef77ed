"""Pieces of films: made once and one at a time, kept within bounds, and never longer at it than they may be."""

import asyncio
import io
import os
import time
import types
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dlkd_jax.page import pieces as pieces_lib
from dlkd_jax.page.app import make_app
from dlkd_jax.page.files import VideoFile
from dlkd_jax.page.guards import RefusalError
from dlkd_jax.page.pieces import Pieces
from dlkd_jax.page.server import PageSettings
from tests.page.memory_gallery import MemoryGallery
from tests.video import films
from tests.video.films import read


@pytest.fixture
def file(tmp_path):
  (tmp_path / 'film.avi').write_bytes(b'x' * 100)
  descriptor = os.open(tmp_path / 'film.avi', os.O_RDONLY)
  yield VideoFile.of(descriptor, str(tmp_path / 'film.avi'))
  os.close(descriptor)


@pytest.fixture
def cuts(monkeypatch):
  """In place of the other process: ten bytes a piece, which is as long as was asked for, up to second 100."""
  made = types.SimpleNamespace(calls=[], delay=0.0)

  async def cut(self, file, target, start, seconds, how):
    made.calls.append((start, seconds, how))
    await asyncio.sleep(made.delay)
    with open(target, 'wb') as piece:
      piece.write(b'0123456789')
    return {'start': start, 'end': min(start + seconds, 100.0), 'last': start + seconds >= 100}

  monkeypatch.setattr(Pieces, '_cut', cut)
  return made


def run(folder, ask, most_bytes=1000, **options):
  async def main():
    made = Pieces(folder, most_bytes, 5.0, **options)
    try:
      return await ask(made)
    finally:
      await made.close()

  return asyncio.run(main())


def test_a_piece_serves_all_its_seconds(tmp_path, file, cuts):
  async def ask(made):
    first = await made.play(file, 21.5, 30)
    assert (first.start, first.end, first.last) == (20.0, 50.0, False)
    assert await made.play(file, 49.0, 30) == first
    second = await made.play(file, 49.8, 30)  # Behind its end, nearly.
    assert second.start == 48.0
    last = await made.play(file, 95.0, 30)
    assert last.last and await made.play(file, 99.9, 30) == last
    clip = await made.clip(file, 21.5, 23.0, 'exact')
    assert await made.clip(file, 21.5, 23.0, 'exact') == clip != await made.clip(file, 21.5, 23.0, 'copy')
    piece = made.open(first.name)
    assert os.read(piece.descriptor, 99) == b'0123456789' and piece.media_type == 'video/mp4'
    os.close(piece.descriptor)
    return len(cuts.calls)

  assert run(tmp_path / 'cache', ask) == 5
  assert not list((tmp_path / 'cache').glob('*.part'))
  assert run(tmp_path / 'cache', lambda made: made.play(file, 22.0, 30)).start == 20.0 and len(cuts.calls) == 5
  os.utime(tmp_path / 'film.avi', (1, 1))  # It has changed.
  changed = VideoFile.of(os.dup(file.descriptor), file.path)
  run(tmp_path / 'cache', lambda made: made.play(changed, 22.0, 30))
  os.close(changed.descriptor)
  assert len(cuts.calls) == 6


def test_what_nobody_has_asked_for_longest_goes(tmp_path, file, cuts):
  folder = tmp_path / 'cache'
  folder.mkdir()
  (folder / 'notes.txt').write_text('mine')
  (folder / 'x.part').write_text('left by one that was killed')
  os.utime(folder / 'x.part', (1, 1))

  async def ask(made):
    for number, start in enumerate((0, 30, 60)):
      piece = await made.play(file, start, 5)
      os.utime(folder / piece.name, (1000 + number,) * 2)
    first = await made.play(file, 1.0, 5)  # It is there, and asked for again.
    await made.play(file, 90, 5)
    return first

  first = run(folder, ask, most_bytes=35)
  starts = sorted(int(name.split('-')[1]) for name in os.listdir(folder) if name.endswith('.mp4'))
  assert starts == [0, 59000, 89000] and (folder / first.name).exists()
  assert sorted(name for name in os.listdir(folder) if not name.endswith('.mp4')) == ['notes.txt']


def test_one_at_a_time_and_each_once(tmp_path, file, cuts):
  cuts.delay = 0.02

  async def ask(made):
    same = await asyncio.gather(*(made.play(file, 5.0, 5) for _ in range(5)))
    assert len(set(same)) == len(cuts.calls) == 1
    many = await asyncio.gather(*(made.play(file, 10.0 * n, 5) for n in range(2, 8)), return_exceptions=True)
    refused = [one for one in many if isinstance(one, RefusalError)]
    assert len(refused) == 3 and {one.code for one in refused} == {'busy'}

  run(tmp_path / 'cache', ask, waiting=3)


def test_what_nobody_waits_for_is_not_made(tmp_path, file, cuts):
  cuts.delay = 30.0

  async def ask(made):
    leaves = asyncio.create_task(made.play(file, 5.0, 5))
    behind = asyncio.create_task(made.play(file, 50.0, 5))
    await asyncio.sleep(0.05)
    cuts.delay = 0.0
    leaves.cancel()
    assert (await asyncio.wait_for(behind, 5)).start == 49.0
    with pytest.raises(asyncio.CancelledError):
      await leaves

  run(tmp_path / 'cache', ask)
  assert len(list((tmp_path / 'cache').iterdir())) == 1


def test_a_film_that_hangs_is_given_up(tmp_path, file, monkeypatch):
  """What reads it is ended, also where it does not listen."""
  (tmp_path / 'dlkd_jax' / 'page').mkdir(parents=True)
  for package in ('dlkd_jax', 'dlkd_jax/page'):
    (tmp_path / package / '__init__.py').write_text('')
  hangs = 'import signal, time, os\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
  hangs += f'open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))\ntime.sleep(600)\n'
  (tmp_path / 'dlkd_jax' / 'page' / 'cutting.py').write_text(hangs)
  monkeypatch.setattr(pieces_lib, '_PACKAGE', tmp_path)
  monkeypatch.setattr(pieces_lib, '_PATIENCE', (0.0, 3.0))
  monkeypatch.chdir(tmp_path)
  begin = time.monotonic()
  with pytest.raises(RefusalError, match='too long'):
    run(tmp_path / 'cache', lambda made: made.play(file, 5.0, 5))
  assert time.monotonic() - begin < 30 and not list((tmp_path / 'cache').iterdir())
  with pytest.raises(ProcessLookupError):
    os.kill(int((tmp_path / 'pid').read_text()), 0)
  # One that the system ends, as where it takes too much.
  (tmp_path / 'dlkd_jax' / 'page' / 'cutting.py').write_text('import os\nos.abort()\n')
  with pytest.raises(RefusalError, match='had to be ended'):
    run(tmp_path / 'cache', lambda made: made.play(file, 5.0, 5))


def test_a_folder_that_cannot_be_written_to(tmp_path, file, cuts):
  (tmp_path / 'file').write_text('')
  with pytest.raises(RefusalError, match='no room'):
    run(tmp_path / 'file' / 'cache', lambda made: made.play(file, 5.0, 5))


@pytest.fixture
def client(tmp_path):
  gallery = MemoryGallery()
  path = films.render(tmp_path / 'old <film>.avi', [Fraction(n, 25) for n in range(100)], base=Fraction(1, 25), sound=4)
  gallery.add('old', ['x'], path)
  settings = PageSettings(cache=tmp_path / 'cache', longest_clip=10.0)
  with TestClient(make_app(gallery, settings), base_url='http://127.0.0.1') as client:
    yield client


def test_addresses(client, tmp_path):
  answer = client.get('/api/piece?id=old&at=2').json()
  assert (answer['start'], answer['last']) == (1.0, True)
  piece = client.get(answer['video'], headers={'range': 'bytes=4-7'})
  assert piece.status_code == 206 and piece.content == b'ftyp' and piece.headers['content-type'] == 'video/mp4'
  assert 'content-disposition' not in piece.headers
  clip = client.get('/api/piece?id=old&start=1&end=2.5&cut=exact').json()
  kept = client.get(clip['video'])
  assert kept.headers['content-disposition'] == "attachment; filename*=utf-8''old%20_film_%200-01%20to%200-02.5.mp4"
  for query, code in (
    ('start=1&end=2&cut=best', 'bad_clip'),
    ('start=2&end=1&cut=copy', 'bad_clip'),
    ('start=0&end=11&cut=copy', 'bad_clip'),
    ('start=nan&end=11&cut=copy', 'bad_number'),
    ('at=-1', 'bad_number'),
    ('start=1&end=2&cut=copy', 'unplayable'),  # No mp4 file takes its packets as they are.
  ):
    assert client.get(f'/api/piece?id=old&{query}').json()['error']['code'] == code, query
  assert client.get('/api/piece?id=other&at=1').json()['error']['code'] == 'unknown'
  (tmp_path / 'cache' / 'secret.mp4').write_bytes(b'secret')
  for name in ('secret.mp4', '../old <film>.avi', '', 'a' * 24 + '-1-2.mp4', '/etc/passwd'):
    assert client.get('/piece', params={'name': name}).status_code == 404, name


def test_stills_have_the_size_of_the_film(client):
  for kind in ('png', 'jpeg'):
    answer = client.get(f'/still?id=old&at=2&format={kind}')
    image = Image.open(io.BytesIO(answer.content))
    assert image.format == kind.upper() and image.size == (films.WIDTH, films.HEIGHT)
    assert abs(read(np.asarray(image.convert('RGB'))) - 50) <= 1
    assert f'old%20_film_%200-02.{kind}' in answer.headers['content-disposition']
  assert client.get('/still?id=old&at=2&format=gif').json()['error']['code'] == 'bad_format'
