"""The application's answers, asked as a browser would."""

import dataclasses
import io
import json
import pathlib
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dlkd_jax import page as page_lib
from dlkd_jax.errors import UserError
from dlkd_jax.page import files
from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import PageSettings, serving
from tests.page.memory_gallery import MemoryGallery
from tests.video.films import read, render, steady


@pytest.fixture
def client(gallery):
  with TestClient(make_app(gallery), base_url='http://127.0.0.1') as client:
    yield client


def error(response, status, code):
  assert response.status_code == status, response.text
  assert response.json()['error']['code'] == code
  return response.json()['error']['message']


def test_page_and_its_files(client):
  page = client.get('/')
  assert page.status_code == 200 and page.headers['content-type'] == 'text/html; charset=utf-8'
  assert "default-src 'none'" in page.headers['content-security-policy']
  assert page.headers['x-content-type-options'] == 'nosniff'
  scripts = [path.name for path in pathlib.Path(page_lib.__path__[0], 'static').glob('*.js')]
  assert len(scripts) > 6
  for name in ('page.css', 'favicon.svg', *scripts):
    file = client.get(f'/static/{name}')
    assert file.status_code == 200 and file.content, name
  again = client.get('/static/page.js', headers={'if-none-match': client.get('/static/page.js').headers['etag']})
  assert again.status_code == 304
  assert client.get('/favicon.ico').headers['content-type'] == 'image/svg+xml'


@pytest.mark.parametrize('name', ['app.py', '../app.py', '..%2fapp.py', '%2e%2e%2fapp.py', 'page.js%00', ''])
def test_nothing_but_the_page_files_is_static(client, name):
  assert client.get(f'/static/{name}').status_code == 404


def test_nothing_of_the_page_comes_from_elsewhere(client):
  for name in (path.name for path in pathlib.Path(page_lib.__path__[0], 'static').iterdir()):
    text = client.get(f'/static/{name}').text.replace('http://www.w3.org/2000/svg', '')
    assert 'http:' not in text and 'https:' not in text and '@import' not in text, name
    assert 'innerHTML' not in text and 'style="' not in text, name


def test_search(client, gallery, films):
  caption = films[2].captions[0]
  answer = client.get('/api/search', params={'q': f'  {caption.text}\n ', 'top': 2, 'moments': 2}).json()
  assert answer['query'] == caption.text and answer['total'] == len(films) and len(answer['hits']) == 2
  best = answer['hits'][0]
  assert best['video_id'] == f'{films[2].name}.mp4' and set(best['scores']) == {'inheritance', 'exploration'}
  segment = films[2].segments[caption.segment]
  assert segment.start <= best['moments'][0]['peak'] < segment.end
  assert len(best['times']) == len(best['curve'])
  assert 'path' not in best and str(gallery.videos[best['video_id']].path) not in str(answer)
  following = client.get('/api/search', params={'q': caption.text, 'top': 2, 'offset': 2}).json()
  assert {hit['video_id'] for hit in following['hits']}.isdisjoint(hit['video_id'] for hit in answer['hits'])


def test_what_is_not_there_is_told_as_json(client):
  for path in ('/api/nothing', '/api', '/api/info/', '/nothing', '/static/nothing.js', '/static', '/x' * 2000):
    answer = client.get(path, follow_redirects=False)
    assert 'nothing at' in error(answer, 404, 'unknown'), path
    assert "default-src 'none'" in answer.headers['content-security-policy']


def test_filters(client, gallery):
  """The language of the gallery, as often as wanted; what it does not understand is refused before any search."""
  for year, (name, video) in enumerate(gallery.videos.items(), 2000):
    gallery.videos[name] = dataclasses.replace(video, metadata={'year': year, 'tags': ['lake', 'dog']})

  def found(*where):
    answer = client.get('/api/search', params=[('q', 'x'), *(('where', one) for one in where)])
    assert answer.status_code == 200, answer.text
    return {hit['metadata']['year'] for hit in answer.json()['hits']}

  assert found() == found('', '  ') == {2000, 2001, 2002, 2003}
  assert found('year>=2002') == {2002, 2003} and found('tags=dog', 'year<2001') == {2000}
  assert client.get('/api/info').json()['keys'] == ['tags', 'year']
  assert found("year in (2000, 2003) and not (tags = 'cat' or year > 2002)") == {2000}
  calls = len(gallery.calls)
  for bad, place in (('year', 5), ('=', 1), ('year>=abc', 7), ('year>>', 6)):
    message = error(client.get('/api/search', params={'q': 'x', 'where': bad}), 400, 'bad_filter')
    assert f'character {place}' in message, message
  for prying in ('path ~ /home', 'year > 1 and not ("path" = x or year = 3)'):
    assert 'is not told' in error(client.get('/api/search', params={'q': 'x', 'where': prying}), 400, 'bad_filter')
  error(client.get('/api/search', params={'q': 'x', 'where': 'a=' + 'x' * 299}), 400, 'too_long')
  assert len(gallery.calls) == calls


def test_searches_with_different_filters_are_not_joined(gallery):
  for year, (name, video) in enumerate(gallery.videos.items(), 2000):
    gallery.videos[name] = dataclasses.replace(video, metadata={'year': year})
  gallery.delay = 0.1
  with TestClient(make_app(gallery), base_url='http://127.0.0.1') as client, ThreadPoolExecutor(8) as threads:
    ask = lambda year: client.get('/api/search', params={'q': 'x', 'where': f'year={year}'}).json()  # noqa: E731
    answers = list(threads.map(ask, [2000, 2001, 2002, 2003] * 2))
  assert [answer['hits'][0]['metadata']['year'] for answer in answers] == [2000, 2001, 2002, 2003] * 2


def png(**options):
  Image.new('RGB', (8, 6), 'red').save(buffer := io.BytesIO(), 'PNG', **options)
  return buffer.getvalue()


def test_a_picture_is_posted(client, gallery):
  own = {'origin': 'http://127.0.0.1'}
  answer = client.post('/api/search', params={'top': 2}, content=png(), headers=own)
  assert answer.status_code == 200 and len(answer.json()['hits']) == 2, answer.text
  ((query,), _) = gallery.calls[-1]
  assert query.text is None and query.picture.pixels.shape == (6, 8, 3)
  assert query.picture.pixels[0, 0].tolist() == [255, 0, 0]
  asked = {'q': ' in  the snow', 'without': ['a dog', ' '], 'where': 'id ~ 0'}
  assert client.post('/api/search', params=asked, content=png(), headers=own).status_code == 200
  ((query,), _) = gallery.calls[-1]
  assert query.text == 'in the snow' and query.without == ('a dog',) and query.picture is not None
  searched = len(gallery.calls)
  for content, status, code in (
    (b'', 400, 'no_picture'),
    (b'GIF89a', 400, 'no_picture'),
    (png()[:45], 400, 'no_picture'),
    (bytes((20 << 20) + 1), 413, 'too_large'),
  ):
    error(client.post('/api/search', params={'q': 'x'}, content=content, headers=own), status, code)
  for headers in ({}, {'origin': 'http://evil.example'}, {'origin': 'null'}, {**own, 'sec-fetch-site': 'cross-site'}):
    error(client.post('/api/search', content=png(), headers=headers), 403, 'foreign_site')
  assert len(gallery.calls) == searched


def test_more_like_a_moment_and_without(client, gallery):
  assert client.get('/api/search', params={'like': 'a@b.mp4@1:02.5'}).status_code == 200
  ((query,), _) = gallery.calls[-1]
  assert query.like == ('a@b.mp4', 62.5) and not query.own and query.text is None
  client.get('/api/search?like=caf%E9.mp4@3&own=1&q=dog')
  ((query,), _) = gallery.calls[-1]
  assert query.like == ('caf\udce9.mp4', 3.0) and query.own and query.text == 'dog'
  client.get('/api/search', params={'q': 'a dog', 'without': ['a ball', 'a  cat']})
  ((query,), _) = gallery.calls[-1]
  assert query.without == ('a ball', 'a cat') and query.to_json()['text'] == 'a dog'
  error(client.get('/api/search', params={'q': 'a dog', 'without': 'x' * 296}), 400, 'too_long')
  error(client.get('/api/search', params={'without': 'a dog'}), 400, 'no_query')
  for odd in ('v.mp4', 'v.mp4@', '@3', 'v.mp4@-1', 'v.mp4@nan', 'v.mp4@1e999'):
    assert 'expected a video and a second' in error(client.get('/api/search', params={'like': odd}), 400, 'refused')


def test_what_is_said(client, gallery):
  gallery.said['test_0000.mp4'] = [(1.0, 2.5, 'a <b> dog', 'de'), (3.0, 4.0, 'x', ''), (5.0, 6.0, 'y', 'de')]
  content = client.get('/api/cues', params={'id': 'test_0000.mp4'}).json()
  assert [track['track'] for track in content['tracks']] == ['de', '']
  assert content['tracks'][0]['cues'][0] == {'start': 1.0, 'end': 2.5, 'text': 'a <b> dog'}
  captions = client.get('/' + content['tracks'][0]['captions'])
  assert captions.headers['content-type'] == 'text/vtt; charset=utf-8'
  assert captions.text.startswith('WEBVTT\n\n00:00:01.000 --> 00:00:02.500\na &lt;b&gt; dog\n')
  assert client.get('/captions', params={'id': 'test_0000.mp4', 'track': 'no'}).text == 'WEBVTT\n'
  assert client.get('/api/cues', params={'id': 'test_0001.mp4'}).json()['tracks'] == []
  for path in ('/api/cues', '/captions'):
    error(client.get(path, params={'id': 'absent'}), 404, 'unknown')
    error(client.get(path), 400, 'no_id')


def test_what_there_is_to_filter_by(client):
  content = client.get('/api/filters').json()
  assert content['videos'] == 4 and [field['name'] for field in content['fields']] == ['year']


def test_a_total_that_is_not_known_is_null(client, gallery):
  gallery.counts = False
  assert client.get('/api/search', params={'q': 'x'}).json()['total'] is None


def test_metadata_are_json(client, gallery):
  metadata = {'tags': ['lake', 'dog'], 'seen': True, 'rate': 2.5, 'none': None, 'odd': float('nan')}
  for name, video in gallery.videos.items():
    gallery.videos[name] = dataclasses.replace(video, metadata=metadata)
  hit = client.get('/api/search', params={'q': 'x'}).json()['hits'][0]
  assert hit['metadata'] == metadata | {'odd': None}


def test_two_stages_are_not_asked_for_what_is_far_behind(gallery):
  with TestClient(make_app(gallery, PageSettings(exact=False)), base_url='http://127.0.0.1') as client:
    client.get('/api/search', params={'q': 'x', 'offset': 9_999})
    assert gallery.calls[0][1]['offset'] == 1_000 == client.get('/api/info').json()['most_offset']


def test_addresses_in_an_answer_work(client, films):
  hit = client.get('/api/search', params={'q': films[0].captions[0].text}).json()['hits'][0]
  picture = client.get(hit['moments'][0]['thumbnail'])
  assert picture.headers['content-type'] == 'image/jpeg' and picture.content[:3] == b'\xff\xd8\xff'
  video = client.get(hit['video'], headers={'range': 'bytes=0-99'})
  assert video.status_code == 206 and len(video.content) == 100 and video.headers['content-type'] == 'video/mp4'


@pytest.mark.parametrize(
  ('parameters', 'code'),
  [
    ({}, 'no_query'),
    ({'q': ' \t '}, 'no_query'),
    ({'q': 'x' * 301}, 'too_long'),
    ({'q': 'x', 'top': '0'}, 'bad_number'),
    ({'q': 'x', 'top': '-3'}, 'bad_number'),
    ({'q': 'x', 'offset': '1e3'}, 'bad_number'),
    ({'q': 'x', 'offset': '٣'}, 'bad_number'),
    ({'q': 'x', 'moments': '9' * 4000}, 'bad_number'),
  ],
)
def test_bad_searches(client, gallery, parameters, code):
  error(client.get('/api/search', params=parameters), 400, code)
  assert not gallery.calls


def test_large_numbers_are_cut(client, gallery):
  client.get('/api/search', params={'q': 'x', 'top': 10**6, 'offset': 10**6, 'moments': 10**6})
  assert gallery.calls[0][1] == {'top': 50, 'offset': 10_000, 'moments': 8}


def test_errors_of_the_gallery(gallery):
  with TestClient(make_app(gallery), base_url='http://127.0.0.1') as client:
    gallery.error = UserError('the sentence has no word that is known')
    assert 'no word' in error(client.get('/api/search', params={'q': 'x'}), 400, 'refused')
    for bug in (KeyError('a secret'), ValueError('a secret')):
      gallery.error = bug
      assert 'secret' not in error(client.get('/api/search', params={'q': 'x'}), 500, 'failed')
    assert "default-src 'none'" in client.get('/api/search?q=x').headers['content-security-policy']


def test_concurrent_queries_are_searched_together(gallery, films):
  """Twenty at once over real connections: fewer calls than queries, and each gets its own answer."""
  gallery.delay = 0.2
  texts = [caption.text for film in films for caption in film.captions][:20]
  application = make_app(gallery, PageSettings(query_burst=100))
  with serving(application) as url:

    def ask(text):
      with urllib.request.urlopen(f'{url}api/search?{urllib.parse.urlencode({"q": text})}') as answer:
        return json.load(answer)['query']

    with ThreadPoolExecutor(20) as threads:
      assert list(threads.map(ask, texts)) == texts
  assert sum(len(queries) for queries, _ in gallery.calls) >= len(set(texts))
  assert len(gallery.calls) <= len(texts) // 3, [len(queries) for queries, _ in gallery.calls]


def test_too_many_searches(gallery):
  settings = PageSettings(query_rate=0.5, query_burst=3)
  with TestClient(make_app(gallery, settings), base_url='http://127.0.0.1') as client:
    assert [client.get('/api/search?q=x').status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = client.get('/api/search?q=x')
    assert int(refused.headers['retry-after']) == 2 and 0 < refused.json()['error']['wait'] <= 2


def test_threshold_leaves_nothing(gallery):
  with TestClient(make_app(gallery, PageSettings(threshold=2.0)), base_url='http://127.0.0.1') as client:
    answer = client.get('/api/search?q=x').json()
    assert answer['hits'] == [] and answer['total'] == 0


def test_info(client, films):
  info = client.get('/api/info').json()
  assert info['videos'] == len(films) and info['seconds'] > 0
  with TestClient(make_app(MemoryGallery()), base_url='http://127.0.0.1') as empty:
    assert empty.get('/api/info').json()['videos'] == 0


def test_only_reading(client):
  for method in ('POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'):
    answer = client.request(method, '/api/info', headers={'origin': 'http://127.0.0.1'})
    assert 'GET' in error(answer, 405, 'method') and set(answer.headers['allow'].split(', ')) == {'GET', 'HEAD'}


def test_bad_thumbnails(client, films):
  video = f'{films[0].name}.mp4'
  for at in ('-1', 'nan', 'inf', '1e10', 'x'):
    error(client.get('/thumbnail', params={'id': video, 'at': at}), 400, 'bad_number')
  error(client.get('/thumbnail', params={'at': 1}), 400, 'no_id')
  error(client.get('/thumbnail', params=[('id', video), ('id', 'x')]), 400, 'no_id')


def test_a_thumbnail_of_a_file_that_vanishes_meanwhile(client, films, monkeypatch):
  opened, open_first = [], files.VideoFiles._open

  def once(self, path):
    opened.append(path)
    if len(opened) > 1:
      raise FileNotFoundError(path)
    return open_first(self, path)

  monkeypatch.setattr(files.VideoFiles, '_open', once)
  error(client.get('/thumbnail', params={'id': f'{films[0].name}.mp4', 'at': 1}), 410, 'gone')


def test_a_thumbnail_of_a_clock_that_counts_from_1970(tmp_path):
  start = 1_700_000_000
  path = render(tmp_path / 'late.mkv', [start + time for time in steady(50)])
  gallery = MemoryGallery()
  gallery.add('late.mkv', ['x'], path)
  with TestClient(make_app(gallery), base_url='http://127.0.0.1') as client:
    answer = client.get('/thumbnail', params={'id': 'late.mkv', 'at': f'{start + 1:.2f}'})
    assert answer.status_code == 200 and read(np.asarray(Image.open(io.BytesIO(answer.content)))) == 25
    assert client.get('/thumbnail', params={'id': 'late.mkv', 'at': 4.9e9}).status_code == 200


def test_the_loop_is_not_held(gallery):
  """While a search takes its time, other answers come."""
  gallery.delay = 0.5
  with TestClient(make_app(gallery), base_url='http://127.0.0.1') as client, ThreadPoolExecutor(1) as thread:
    search = thread.submit(client.get, '/api/search?q=x')
    time.sleep(0.1)
    begin = time.perf_counter()
    assert client.get('/api/info').status_code == 200
    assert time.perf_counter() - begin < 0.3
    assert search.result().status_code == 200


def test_results_as_files(client, films):
  """What is found, to keep; where the films lie is not told."""
  query = {'q': films[0].captions[0].text, 'top': 2}
  for kind, begin in (('csv', 'query,rank,video'), ('edl', 'TITLE: '), ('json', '{\n')):
    answer = client.get('/api/search', params=query | {'format': kind})
    assert answer.status_code == 200 and answer.text.startswith(begin)
    assert f'{films[0].name}.mp4' in answer.text and '/films' not in answer.text
    kept = answer.headers['content-disposition']
    assert kept.startswith('attachment') and kept.endswith(f'.{kind}') and urllib.parse.quote(query['q'][:20]) in kept
  error(client.get('/api/search', params=query | {'format': 'xml'}), 400, 'bad_format')
