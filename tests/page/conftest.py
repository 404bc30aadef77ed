"""A gallery over rendered films, made once."""

import pytest

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
