"""One small CLIP, data set, run and index for all tests of the gallery; nobody changes them."""

import types

import pytest

from dlkd_jax.gallery import building
from dlkd_jax.gallery.collection import Collection
from tests.gallery import worlds
from tests.gallery.oracle import Oracle


@pytest.fixture(scope='session')
def world(tmp_path_factory):
  """A folder with `clip`, `data` (12 videos in test, 4 in gallery), `run`, and an `index` of both in float16."""
  folder = tmp_path_factory.mktemp('gallery')
  clip = worlds.clip(folder / 'clip')
  data = worlds.data_set(folder / 'data', clip, 12)
  worlds.data_set(data, clip, 4, 'gallery', first=12)
  run = worlds.run(folder / 'run')
  collection = Collection.open(str(data), 'custom_prvr')
  building.build(folder / 'index', collection, run, building.IndexSettings(clip=str(clip)))
  return types.SimpleNamespace(
    folder=folder, clip=clip, data=data, run=run, index=folder / 'index', collection=collection
  )


@pytest.fixture(scope='session')
def oracle(world):
  """The same vectors, and the search in them, by plain numpy."""
  return Oracle(world)
