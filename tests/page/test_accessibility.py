"""What axe-core finds wrong with the page, in each of its states, light, dark and narrow: nothing.

axe-core comes in packages of other programs; any of them will do, without what it asks for besides:
`pip install --no-deps axe-playwright-python`.
"""

import dataclasses
import importlib.util
import pathlib

import pytest

from dlkd_jax.page.app import make_app
from dlkd_jax.page.server import serving
from tests.page.browser import RELAXED, active, chips, find, playing, press, rows, text, until, view
from tests.page.films import told
from tests.page.memory_gallery import MemoryGallery
from tests.page.test_browser_parts import FACETS

_RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, { resultTypes: ['violations'] }).then(
  (found) => done(found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(', ')}`)),
  (error) => done([String(error)]));
"""
# Scales of the same picture: light and wide, dark, and a telephone.
VIEWS = ({}, {'dark': True}, {'width': 360, 'height': 800, 'touch': True})


def axe() -> str:
  for package in ('axe_playwright_python', 'axe_selenium_python'):
    if spec := importlib.util.find_spec(package):
      return next(pathlib.Path(spec.submodule_search_locations[0]).rglob('axe.min.js')).read_text(encoding='utf-8')
  pytest.skip('axe-core is absent; install it with `pip install --no-deps axe-playwright-python`')


def violations(browser, script):
  found = {}
  for shown in VIEWS:
    view(browser, **({'width': 1280, 'height': 860} | shown))
    browser.execute_cdp_cmd('Page.setBypassCSP', {'enabled': True})
    browser.execute_script(script)
    if odd := browser.execute_async_script(_RUN):
      found[str(shown)] = odd
  view(browser, 1280, 860)
  return found


def test_nothing_is_wrong_for_axe(browser, wide, gallery, films, monkeypatch):
  script = axe()
  film, sentence, _ = told(films)
  gallery.said[f'{film.name}.mp4'] = [(3.0, 5.0, 'a dog runs', 'en')]
  monkeypatch.setattr(MemoryGallery, 'facets', {'videos': 4, 'looked_at': 4, 'fields': FACETS})
  for name, video in gallery.videos.items():
    gallery.videos[name] = dataclasses.replace(video, metadata={'place': 'lake'})
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(url)
    until(lambda: find(browser, '.examples a'), 'the welcome')
    assert violations(browser, script) == {}
    browser.get(f'{url}?q={sentence}&where=place = lake&without=a ball')
    rows(browser, 2)
    until(lambda: len(chips(browser)) == 2, 'the chips')
    find(browser, '[aria-controls=filter]')[0].click()
    until(lambda: find(browser, '.facet'), 'the filters')
    assert violations(browser, script) == {}
    find(browser, '.still')[0].click()
    playing(browser)
    find(browser, '.takeout summary')[0].click()
    assert violations(browser, script) == {}
    browser.get(f'{url}?q=x&where=place = sea')
    until(lambda: text(browser, '#notice'), 'that nothing is left')
    assert violations(browser, script) == {}


def test_focus_goes_through_the_page_in_its_order(browser, wide, gallery, films):
  """From the link that skips to the results, by Tab alone; and nothing that is hidden has it."""
  with serving(make_app(gallery, RELAXED)) as url:
    browser.get(f'{url}?q={told(films)[1]}')
    rows(browser, 2)
    browser.execute_script('document.activeElement.blur()')
    seen = []
    for _ in range(14):
      press(browser, '\ue004')
      one = active(browser)
      assert one.is_displayed(), one.get_attribute('outerHTML')
      seen.append(one.get_attribute('id') or (one.get_attribute('class') or one.text).split()[0])
    wanted = ['skip', 'mark', 'query', 'search-go', 'choose', 'adder', 'adder', 'CSV', 'EDL', 'JSON', 'still']
    assert seen[: len(wanted)] == wanted
    assert any(name in ('like', 'moment') for name in seen[len(wanted) :])
