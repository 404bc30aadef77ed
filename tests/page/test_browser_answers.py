"""The page in a real browser: addresses below a proxy, filters, what is said of results, and what is tried again."""

import dataclasses
import time

import pytest

from dlkd_jax.page import answers
from dlkd_jax.page.app import make_app
from dlkd_jax.page.guards import RateLimit, RefusalError
from dlkd_jax.page.server import serving
from tests.page.browser import RELAXED, active, chips, find, playing, press, rows, text, until
from tests.page.films import told
from tests.page.proxy import proxied

pytestmark = pytest.mark.usefixtures('wide')


@pytest.mark.parametrize('slash', [True, False])
def test_below_the_path_of_a_proxy(browser, gallery, films, slash):
  """Everything, from pictures to the button back, is found below the path; nothing is asked for at the root."""
  film, sentence, segment = told(films)
  with serving(make_app(gallery, RELAXED)) as url, proxied(url, '/user/me/proxy/8766', slash) as (address, missed):
    browser.get(address)
    until(lambda: len(find(browser, '.examples a')) == 2, 'the examples')
    if not slash:
      missed.clear()  # Before the page has led to its place, a browser looks ahead for files.
    assert find(browser, '.mark')[0].get_attribute('href').endswith('/proxy/8766/')
    find(browser, '.examples a')[0].click()
    rows(browser, 2)
    field = find(browser, '#query')[0]
    field.clear()
    field.send_keys(sentence + '\ue007')
    until(lambda: find(browser, '.result')[0].get_attribute('data-id') == f'{film.name}.mp4', 'the film')
    until(lambda: find(browser, '.still-loaded'), 'a picture')
    find(browser, '.still')[0].click()
    assert segment.start - 1 <= playing(browser) < segment.end
    assert '/user/me/proxy/8766/?q=' in browser.current_url and 'v=' in browser.current_url
    shared = browser.current_url
    browser.back()
    until(lambda: not find(browser, 'dialog[open]'), 'the end of the dialog')
    find(browser, '.mark')[0].click()
    until(lambda: browser.current_url.endswith('/proxy/8766/'), 'the address of the start')
    browser.get(shared)
    until(lambda: find(browser, 'dialog[open]'), 'the player')
    playing(browser)
    assert not [path for path in missed if 'favicon' not in path]


def test_a_total_that_is_not_known(browser, gallery, films):
  """Of a large index: more is offered while pages are full."""
  gallery.counts = False
  with serving(make_app(gallery, dataclasses.replace(RELAXED, top=3))) as url:
    browser.get(f'{url}?q=x')
    rows(browser, 3)
    assert text(browser, '#status').startswith('The best 3 videos, found in')
    assert find(browser, '#more')[0].is_displayed() and text(browser, '#more') == 'Show 3 more results'
    find(browser, '#more')[0].click()
    rows(browser, 4)
    assert text(browser, '#status').startswith('4 videos, found in') and not find(browser, '#more')[0].is_displayed()
  with serving(make_app(gallery, dataclasses.replace(RELAXED, top=4))) as url:
    browser.get(f'{url}?q=x')
    rows(browser, 4)
    find(browser, '#more')[0].click()
    until(lambda: not find(browser, '#more')[0].is_displayed(), 'that there is no more')
    assert text(browser, '#status').startswith('4 videos, found in') and len(find(browser, '.result')) == 4


def test_filters(browser, gallery, films):
  for year, (name, video) in enumerate(gallery.videos.items(), 2000):
    gallery.videos[name] = dataclasses.replace(video, metadata={'year': year, 'place': 'lake'})
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    until(lambda: 'videos' in text(browser, '#foot'), 'the number of videos')
    assert not find(browser, '#where')[0].is_displayed()
    find(browser, '[aria-controls=filter]')[0].click()
    assert text(browser, '#keys') == 'by place, year'
    find(browser, '#query')[0].send_keys('x')
    find(browser, '#where')[0].send_keys('year/')
    assert active(browser).get_attribute('id') == 'where'  # Not a key of the page.
    press(browser, '\ue003', '>=2003\ue007')
    rows(browser, 1)
    assert 'where=year%3E%3D2003' in browser.current_url and text(browser, '#status').startswith('1 video,')
    assert chips(browser) == ['Only year>=2003'] and not find(browser, '#where')[0].get_attribute('value')
    find(browser, '#where')[0].send_keys('year >= 3000\ue007')
    until(lambda: 'year >= 3000” holds' in text(browser, '#notice'), 'that nothing is left')
    assert chips(browser) == ['Only year>=2003', 'Only year >= 3000']
    browser.back()
    rows(browser, 1)
    find(browser, '#where')[0].send_keys('year >= ?\ue007')
    until(lambda: 'The filter is not understood' in text(browser, '#notice'), 'that it is not understood')
    assert 'year >= ?' in text(browser, '#notice') and not find(browser, '.again')
    find(browser, '.part-remove')[1].click()
    rows(browser, 1)
    assert chips(browser) == ['Only year>=2003']
    find(browser, '.part-remove')[0].click()
    rows(browser, 2)
    assert not chips(browser) and 'where' not in browser.current_url
    for _ in range(3):
      browser.back()
    rows(browser, 1)
    browser.back()
    until(lambda: find(browser, 'body.idle'), 'the start')


def test_what_is_said_of_a_sentence(browser, gallery, monkeypatch):
  notes = ('Only the first 77 words are searched for; the rest, from <b>“dog”</b> on, is left out.', 'Another one.')
  search = gallery.search

  def noted(queries, **options):
    return [
      dataclasses.replace(result, notes=notes if result.query == 'long' else ())
      for result in search(queries, **options)
    ]

  monkeypatch.setattr(gallery, 'search', noted)
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q=long')
    rows(browser, 2)
    assert [one.text for one in find(browser, '#said li')] == list(notes)
    field = find(browser, '#query')[0]
    field.clear()
    field.send_keys('short\ue007')
    until(lambda: not find(browser, '#said')[0].is_displayed(), 'that nothing is said')


def test_that_nothing_stands_out_is_said(browser, gallery, monkeypatch):
  """Of a sentence of which the gallery says so; what is nearest is shown all the same."""
  told = answers.result_json
  monkeypatch.setattr(
    answers, 'result_json', lambda result, *rest: told(result, *rest) | {'nothing': 'no' in result.query}
  )
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q=no such thing')
    rows(browser, 2)
    assert 'Nothing here stands out for “no such thing”' in text(browser, '#weak')
    field = find(browser, '#query')[0]
    field.clear()
    field.send_keys('a thing\ue007')
    until(lambda: not find(browser, '#weak')[0].is_displayed(), 'that nothing is said')
    assert len(find(browser, '.result')) == 2


def test_metadata_in_words(browser, gallery, films):
  metadata = {'tags': ['lake', 'dog'], 'seen': True, 'old': False, 'rate': 2.5, 'none': None, 'place': 'a pier'}
  for name, video in gallery.videos.items():
    gallery.videos[name] = dataclasses.replace(video, metadata=metadata)
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q=x')
    rows(browser, 2)
    find(browser, '.still')[0].click()
    playing(browser)
    names, values = find(browser, '.facts dt'), find(browser, '.facts dd')
    assert {name.text: value.text.strip() for name, value in zip(names, values, strict=True)} == {
      'tags': 'lake dog',
      'seen': 'yes',
      'old': 'no',
      'rate': '2.5',
      'none': 'unknown',
      'place': 'a pier',
    }
    assert [one.text for one in find(browser, '.facts .fact')] == ['lake', 'dog']


def test_a_search_is_not_tried_for_ever(browser, gallery, monkeypatch):
  tries = []

  def refused(self, client):
    tries.append(client)
    raise RefusalError(429, 'too_often', 'Too many requests at once.', 0.1)

  monkeypatch.setattr(RateLimit, 'check', refused)
  with serving(make_app(gallery)) as url:
    browser.get(f'{url}?q=x')
    until(lambda: 'after 3 more tries' in text(browser, '#notice'), 'that it gives up')
    time.sleep(1)
    assert len(tries) == 4
    monkeypatch.undo()
    find(browser, '.again')[0].click()
    until(lambda: find(browser, '.result:not(.skeleton)'), 'results')
