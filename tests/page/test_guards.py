"""Who may ask, and how often, by a clock that the test turns: names of this server, and pages of other sites."""

import base64
import hashlib
import re

import pytest
from starlette.responses import Response
from starlette.testclient import TestClient

from dlkd_jax.page.app import make_app
from dlkd_jax.page.guards import HEADERS, Guard, RateLimit, RefusalError, allowed_host, host_of
from dlkd_jax.page.server import PageSettings


@pytest.mark.parametrize(
  ('header', 'host'),
  [
    ('localhost', 'localhost'),
    ('LocalHost:8000', 'localhost'),
    ('127.0.0.1:80', '127.0.0.1'),
    ('[::1]:8000', '::1'),
    ('[::1]', '::1'),
    ('::1', '::1'),
  ],
)
def test_host_of(header, host):
  assert host_of(header) == host


def test_allowed_hosts():
  for header in ('localhost:8000', '127.0.0.1', '[::1]:1', '192.168.1.7:8000'):
    assert allowed_host(header), header
  for header in ('evil.example', 'evil.example:8000', 'localhost.evil.example', '127.0.0.1.evil.example', '', ':8000'):
    assert not allowed_host(header), header
  assert allowed_host('Films.home:8000', ['films.home'])


@pytest.fixture
def client(gallery):
  with TestClient(make_app(gallery, PageSettings(hosts=('films.home',))), base_url='http://127.0.0.1:8000') as client:
    yield client


@pytest.mark.parametrize('path', ['/', '/api/search?q=x', '/api/info', '/video?id=test_0000.mp4', '/static/page.js'])
def test_other_names_are_refused(client, path):
  """DNS rebinding: the name of another site that leads here."""
  refused = client.get(path, headers={'host': 'evil.example:8000'})
  assert refused.status_code == 400 and refused.json()['error']['code'] == 'foreign_host'
  assert refused.headers['content-security-policy'] == HEADERS['content-security-policy']
  assert client.get(path, headers={'host': 'films.home:8000'}).status_code == 200


def test_scripts_of_other_sites_are_refused(client):
  for site in ('cross-site', 'same-site'):
    headers = {'sec-fetch-site': site, 'sec-fetch-mode': 'no-cors'}
    assert client.get('/api/search?q=x', headers=headers).status_code == 403
    assert client.get('/thumbnail?id=test_0000.mp4&at=1', headers=headers).status_code == 403
    link = {'sec-fetch-site': site, 'sec-fetch-mode': 'navigate'}
    assert client.get('/?q=x', headers=link).status_code == 200
    assert client.get('/video?id=test_0000.mp4', headers=link).status_code == 403
  own = {'sec-fetch-site': 'same-origin', 'sec-fetch-mode': 'cors'}
  assert client.get('/api/search?q=x', headers=own).status_code == 200


def test_the_script_in_the_page_is_the_one_that_is_allowed(client):
  (script,) = re.findall('<script>(.*?)</script>', client.get('/').text, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"'sha256-{digest}'" in HEADERS['content-security-policy']


def test_every_answer_has_the_headers(client):
  for path in ('/', '/absent', '/api/search', '/api/search?q=x', '/video?id=absent', '/video?id=test_0000.mp4'):
    answer = client.get(path)
    for name, value in HEADERS.items():
      assert answer.headers[name] == value, path


def test_what_may_change_something_needs_the_own_origin(gallery):
  """Headers that are absent mean another site, but for what only reads; what there is to ask for does not matter."""
  asked = []

  async def app(scope, receive, send):
    asked.append(scope['method'])
    await Response('done')(scope, receive, send)

  client = TestClient(Guard(app, ('films.home',)), base_url='http://192.168.1.7:8000')
  own = {'origin': 'http://192.168.1.7:8000'}
  refused = [
    {},
    {'sec-fetch-site': 'none'},
    {'sec-fetch-site': 'same-origin'},
    {'origin': 'null'},
    {'origin': ''},
    {'origin': 'http://192.168.1.7'},
    {'origin': 'http://192.168.1.7:8001'},
    {'origin': 'http://192.168.1.7:8000.evil.example'},
    {'origin': 'http://evil.example', 'referer': 'http://192.168.1.7:8000/'},
    {'origin': 'http://films.home'},  # A name of this server, but not the one that is asked.
    {'origin': 'http://[192.168.1.7:8000'},
    own | {'sec-fetch-site': 'cross-site'},
    own | {'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'navigate'},
    own | {'host': 'evil.example'},
  ]
  for method in ('POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'X'):
    for headers in refused:
      assert client.request(method, '/', headers=headers).status_code in (400, 403), (method, headers)
  client_two = [('origin', own['origin']), ('origin', 'http://evil.example')]
  assert client.post('/', headers=client_two).status_code == 403
  assert not asked
  for headers in (own, own | {'sec-fetch-site': 'same-origin'}, {'host': 'FILMS.home', 'origin': 'https://films.home'}):
    assert client.post('/', headers=headers).status_code == 200, headers
  assert client.get('/').status_code == client.head('/').status_code == 200


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_a_burst_and_then_the_rate():
  clock = Clock()
  limit = RateLimit(2.0, 3, clock=clock)
  assert [limit.wait('a') for _ in range(3)] == [0, 0, 0]
  assert limit.wait('a') == pytest.approx(0.5)
  assert limit.wait('b') == 0  # Another client.
  clock.now = 0.5
  assert limit.wait('a') == 0 and limit.wait('a') == pytest.approx(0.5)
  clock.now = 100.0
  assert [limit.wait('a') for _ in range(4)][:3] == [0, 0, 0] and limit.wait('a') > 0


def test_in_the_long_run():
  clock, allowed = Clock(), 0
  limit = RateLimit(5.0, 10, clock=clock)
  for step in range(10_000):
    clock.now = step / 100
    allowed += limit.wait('a') == 0
  assert abs(allowed - (10 + 5 * 100)) <= 1


def test_memory_is_bounded():
  limit = RateLimit(1.0, 1, clients=10, clock=Clock())
  for number in range(1000):
    limit.wait(str(number))
  assert len(limit._buckets) == 10


def test_refusal_says_how_long():
  limit = RateLimit(0.1, 1, clock=Clock())
  limit.check('a')
  with pytest.raises(RefusalError, match='10 s') as refused:
    limit.check('a')
  assert refused.value.status == 429 and refused.value.wait == pytest.approx(10)
