"""A gallery over rendered films, made once, and a browser."""

import pytest

from tests.page.browser import chromium, view
from tests.page.films import add_films, write_films
from tests.page.memory_gallery import MemoryGallery


@pytest.fixture(scope='session')
def films_folder(tmp_path_factory):
  return tmp_path_factory.mktemp('films')


@pytest.fixture(scope='session')
def films(films_folder):
  return write_films(films_folder)


@pytest.fixture
def gallery(films, films_folder):
  gallery = MemoryGallery()
  add_films(gallery, films, films_folder)
  return gallery


@pytest.fixture(scope='module')
def browser():
  with chromium() as browser:
    yield browser


@pytest.fixture
def wide(browser):
  """The browser as wide as a screen, and on no page behind the test."""
  view(browser, 1280, 860)
  yield
  browser.get('about:blank')
