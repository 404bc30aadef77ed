"""The page in a real browser: what goes with a sentence, what is said in films, and what can be taken out."""

import dataclasses

import av
import pytest
from PIL import Image

from dlkd_jax.gallery.results import Said
from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import serving
from tests.page.browser import RELAXED, active, chips, complaints, find, playing, press, rows, text, until
from tests.page.films import told
from tests.page.memory_gallery import MemoryGallery

pytestmark = pytest.mark.usefixtures('wide')
FACETS = [
  {'field': 'length', 'name': 'length', 'kind': 'number', 'least': 10, 'most': 22.5, 'videos': 4},
  {
    'field': 'place',
    'name': 'place',
    'kind': 'text',
    'videos': 4,
    'values': [
      {'value': 'lake', 'videos': 3, 'filter': 'place = lake'},
      {'value': '<b>', 'videos': 1, 'filter': "place = '<b>'"},
    ],
  },
]


@pytest.fixture
def asked(gallery, monkeypatch):
  """The queries that the gallery was asked."""
  queries, search = [], gallery.search

  def noted(these, **options):
    queries.extend((query, options.get('where')) for query in these)
    return search(these, **options)

  monkeypatch.setattr(gallery, 'search', noted)
  return queries


def test_more_like_this_and_without(browser, gallery, films, asked):
  film, sentence, _ = told(films)
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q={sentence}')
    rows(browser, 2)
    peak = gallery.search([sentence], moments=3)[0].hits[0].moments[0].peak
    find(browser, '.like')[0].click()
    until(lambda: chips(browser), 'the chip')
    assert chips(browser) == [f'Like {film.name.replace("_", " ")} at 0:{int(peak):02d}']
    assert not find(browser, '#query')[0].get_attribute('value')
    until(lambda: asked[-1][0].like == (f'{film.name}.mp4', peak) and asked[-1][0].text is None, 'the search')
    find(browser, '#query')[0].send_keys('in red')
    find(browser, '[aria-controls=not]')[0].click()
    assert active(browser).get_attribute('id') == 'without'
    press(browser, 'a ball\ue007')
    until(lambda: asked[-1][0].without == ('a ball',), 'the search')
    assert asked[-1][0].text == 'in red' and asked[-1][0].like == (f'{film.name}.mp4', peak)
    assert (
      chips(browser)[1] == 'Not a ball' and 'without=a+ball' in browser.current_url and 'like=' in browser.current_url
    )
    shared = browser.current_url
    browser.get(shared)  # The address says all of it.
    until(lambda: len(chips(browser)) == 2, 'the chips')
    find(browser, '.part-remove')[0].click()
    until(lambda: asked[-1][0].like is None and asked[-1][0].without == ('a ball',), 'the search without it')
    browser.back()
    until(lambda: len(chips(browser)) == 2, 'the chips again')
    assert not complaints(browser)


def test_a_picture_is_chosen_or_dropped(browser, gallery, films, asked, tmp_path):
  Image.new('RGB', (60, 40), (200, 30, 30)).save(tmp_path / 'red thing.png')
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    find(browser, '#file')[0].send_keys(str(tmp_path / 'red thing.png'))
    rows(browser, 2)
    assert asked[-1][0].picture.pixels.shape == (40, 60, 3) and tuple(asked[-1][0].picture.pixels[0, 0]) == (
      200,
      30,
      30,
    )
    assert chips(browser) == ['Picture red thing.png'] and not find(browser, '#files')[0].is_displayed()
    drawn = "return [...document.querySelector('.part-preview').getContext('2d').getImageData(20, 20, 1, 1).data]"
    until(lambda: browser.execute_script(drawn)[:2] == [200, 30], 'a small picture of it')
    find(browser, '#query')[0].send_keys('moves\ue007')
    until(lambda: asked[-1][0].text == 'moves' and asked[-1][0].picture is not None, 'both')
    find(browser, '.part-remove')[0].click()
    until(lambda: asked[-1][0] == 'moves', 'the sentence alone')
    browser.execute_script("""
      const data = new DataTransfer();
      data.items.add(new File(['no picture'], 'a.png', { type: 'image/png' }));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));""")
    until(lambda: 'The picture cannot be read' in text(browser, '#notice'), 'that it is none')
    assert not find(browser, '.again')
    browser.execute_script("""
      const data = new DataTransfer();
      data.items.add(new File(['x'], 'a.txt', { type: 'text/plain' }));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));""")
    until(lambda: 'PNG, JPEG or WebP' in text(browser, '#said'), 'what can be dropped')
  assert all('400' in one for one in complaints(browser))


def test_filters_are_offered(browser, gallery, asked, monkeypatch):
  monkeypatch.setattr(MemoryGallery, 'facets', {'videos': 4, 'looked_at': 4, 'fields': FACETS})
  for name, video in gallery.videos.items():
    gallery.videos[name] = dataclasses.replace(video, metadata={'place': 'lake'})
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q=x')
    rows(browser, 2)
    find(browser, '[aria-controls=filter]')[0].click()
    until(lambda: len(find(browser, '.facet')) == 2, 'what there is to filter by')
    lake = find(browser, '.facet-value[data-filter]')[0]
    lake.click()
    until(lambda: asked[-1][1] == ('place = lake',), 'the filter')
    assert lake.get_attribute('aria-pressed') == 'true' and chips(browser) == ['Only place = lake']
    find(browser, '.facet-bound')[0].send_keys('12')
    find(browser, '.facet-range .facet-value')[0].click()
    until(lambda: asked[-1][1] == ('place = lake', 'length >= 12'), 'both')
    assert browser.current_url.count('where=') == 2
    lake.click()
    until(lambda: asked[-1][1] == ('length >= 12',), 'one of them')


def test_what_is_said(browser, gallery, films, monkeypatch):
  """As snippets that play, on the timeline, and as captions; text is never markup."""
  film, sentence, _ = told(films)
  name, words = f'{film.name}.mp4', '🐕 the <b>dog</b> runs'
  gallery.said[name] = [(3.0, 5.0, words, 'en'), (7.0, 8.0, 'now it rests', 'en')]
  search = gallery.search

  def said(these, **options):
    found = Said('said', words, ((9, 12),), 3.0, 5.0, 'en'), Said('title', 'About a dog', ((8, 11),))
    return [
      dataclasses.replace(result, hits=tuple(dataclasses.replace(hit, said=found) for hit in result.hits))
      for result in search(these, **options)
    ]

  monkeypatch.setattr(gallery, 'search', said)
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q={sentence}')
    rows(browser, 2)
    best = find(browser, '.result')[0]
    assert [' '.join(one.text.split()) for one in best.find_elements('class name', 'said')] == [
      f'0:03 {words}',
      'title About a dog',
    ]
    assert [mark.text for mark in best.find_elements('css selector', '.said mark')] == ['dog', 'dog']
    assert best.find_elements('class name', 'plot-said')
    best.find_element('class name', 'said-play').click()
    assert 2.9 <= playing(browser) < 5.5
    cue = 'const t = document.querySelector("video").textTracks[0]; return [t.mode, t.language, t.cues?.length]'
    until(lambda: browser.execute_script(cue) == ['showing', 'en', 2], 'the captions')
    first = 'return document.querySelector("video").textTracks[0].cues[0].getCueAsHTML().textContent'
    assert browser.execute_script(first) == words
    assert not complaints(browser)


def test_taking_out(browser, gallery, films, tmp_path):
  film, sentence, _ = told(films)
  kept = tmp_path / 'kept'
  kept.mkdir()
  behaviour = {'behavior': 'allow', 'downloadPath': str(kept)}
  browser.execute_cdp_cmd('Page.setDownloadBehavior', behaviour)
  moment = gallery.search([sentence])[0].hits[0].moments[0]
  with serving(make_app(gallery, dataclasses.replace(RELAXED, cache=tmp_path / 'cache'))) as url:
    browser.get(f'{url}?q={sentence}')
    rows(browser, 2)
    for link in find(browser, '#files a'):
      link.click()
    until(lambda: len([f for f in kept.iterdir() if f.suffix in ('.csv', '.edl', '.json')]) == 3, 'the lists')
    (listed,) = kept.glob('*.csv')
    assert f'{film.name}.mp4' in listed.read_text() and listed.stem == sentence[:60].strip()
    find(browser, '.still')[0].click()
    playing(browser)
    browser.execute_script('document.querySelector("video").pause()')
    find(browser, '.takeout summary')[0].click()
    buttons = {button.text: button for button in find(browser, '.takeout-items button')}
    assert list(buttons) == ['Clip, as it is', 'Clip, exact', 'Picture, PNG', 'JPEG']
    buttons['Picture, PNG'].click()
    until(lambda: list(kept.glob('*.png')), 'the picture')
    buttons['Clip, exact'].click()
    until(lambda: list(kept.glob('*.mp4')), 'the clip')
    (clip,) = kept.glob('*.mp4')
    assert clip.stem.startswith(f'{film.name} 0-') and ' to ' in clip.stem
    with av.open(str(clip)) as container:
      lasts = container.duration / av.time_base
    assert lasts == pytest.approx(moment.end - moment.start, abs=0.3)
    assert not complaints(browser)
