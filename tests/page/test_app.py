"""The application's answers, asked as a browser would."""

import json
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from dlkd_jax.page.app import make_app
from dlkd_jax.page.running import serving
from dlkd_jax.page.settings import Settings
from tests.page.memory_gallery import MemoryGallery


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
  for name in ('page.css', 'page.js', 'player.js', 'results.js', 'plot.js', 'text.js', 'api.js', 'favicon.svg'):
    file = client.get(f'/static/{name}')
    assert file.status_code == 200 and file.content, name
  again = client.get('/static/page.js', headers={'if-none-match': client.get('/static/page.js').headers['etag']})
  assert again.status_code == 304
  assert client.get('/favicon.ico').headers['content-type'] == 'image/svg+xml'


@pytest.mark.parametrize('name', ['app.py', '../app.py', '..%2fapp.py', '%2e%2e%2fapp.py', 'page.js%00', ''])
def test_nothing_but_the_page_files_is_static(client, name):
  assert client.get(f'/static/{name}').status_code == 404


def test_nothing_of_the_page_comes_from_elsewhere(client):
  for name in ('index.html', 'page.css', 'results.css', 'player.css', 'page.js', 'player.js', 'results.js', 'plot.js'):
    text = client.get(f'/static/{name}').text.replace('http://www.w3.org/2000/svg', '')
    assert 'http:' not in text and 'https:' not in text and '@import' not in text, name
    assert 'innerHTML' not in text and 'style="' not in text, name


def test_search(client, gallery, films):
  caption = films[2].captions[0]
  answer = client.get('/api/search', params={'q': f'  {caption.text}\n ', 'top': 2, 'moments': 2}).json()
  assert answer['query'] == caption.text and answer['total'] == len(films) and len(answer['hits']) == 2
  best = answer['hits'][0]
  assert (
    best['id'] == f'{films[2].name}.mp4'
    and best['playable']
    and set(best['scores'])
    == {
      'inheritance',
      'exploration',
    }
  )
  segment = films[2].segments[caption.segment]
  assert segment.start <= best['moments'][0]['peak'] < segment.end
  assert len(best['curve']['times']) == len(best['curve']['values'])
  assert 'path' not in best and str(gallery.videos[best['id']].path) not in str(answer)
  following = client.get('/api/search', params={'q': caption.text, 'top': 2, 'offset': 2}).json()
  assert {hit['id'] for hit in following['hits']}.isdisjoint(hit['id'] for hit in answer['hits'])


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
    gallery.error = ValueError('the sentence has no word that is known')
    assert 'no word' in error(client.get('/api/search', params={'q': 'x'}), 400, 'refused')
    gallery.error = KeyError('a secret')
    assert 'secret' not in error(client.get('/api/search', params={'q': 'x'}), 500, 'failed')
    assert "default-src 'none'" in client.get('/api/search?q=x').headers['content-security-policy']


def test_concurrent_queries_are_searched_together(gallery, films):
  """Twenty at once over real connections: fewer calls than queries, and each gets its own answer."""
  gallery.delay = 0.2
  texts = [caption.text for film in films for caption in film.captions][:20]
  application = make_app(gallery, Settings(query_burst=100))
  with serving(application) as url:

    def ask(text):
      with urllib.request.urlopen(f'{url}api/search?{urllib.parse.urlencode({"q": text})}') as answer:
        return json.load(answer)['query']

    with ThreadPoolExecutor(20) as threads:
      assert list(threads.map(ask, texts)) == texts
  assert sum(len(queries) for queries, _ in gallery.calls) >= len(set(texts))
  assert len(gallery.calls) <= len(texts) // 3, [len(queries) for queries, _ in gallery.calls]


def test_too_many_searches(gallery):
  settings = Settings(query_rate=0.5, query_burst=3)
  with TestClient(make_app(gallery, settings), base_url='http://127.0.0.1') as client:
    assert [client.get('/api/search?q=x').status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = client.get('/api/search?q=x')
    assert int(refused.headers['retry-after']) == 2 and 0 < refused.json()['error']['wait'] <= 2


def test_threshold_leaves_nothing(gallery):
  with TestClient(make_app(gallery, Settings(threshold=2.0)), base_url='http://127.0.0.1') as client:
    answer = client.get('/api/search?q=x').json()
    assert answer['hits'] == [] and answer['total'] == 0


def test_info(client, films):
  info = client.get('/api/info').json()
  assert info['videos'] == len(films) and info['seconds'] > 0
  with TestClient(make_app(MemoryGallery()), base_url='http://127.0.0.1') as empty:
    assert empty.get('/api/info').json()['videos'] == 0


def test_only_reading(client):
  for method in ('POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'):
    assert client.request(method, '/api/search?q=x').status_code == 405


def test_bad_thumbnails(client, films):
  video = f'{films[0].name}.mp4'
  for at in ('-1', 'nan', 'inf', '1e9', 'x'):
    error(client.get('/thumbnail', params={'id': video, 'at': at}), 400, 'bad_number')
  error(client.get('/thumbnail', params={'at': 1}), 400, 'no_id')
  error(client.get('/thumbnail', params=[('id', video), ('id', 'x')]), 400, 'no_id')


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
