"""Searching in two stages: the same results on a small gallery, kept when the index changes."""

import shutil

import numpy as np
import pytest

from dlkd_jax.gallery import acceleration, building
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder

SENTENCES = ['a red square 3', 'moves left']


def assert_as_exact(path, **wishes):
  gallery = Gallery.open(path)
  exact, staged = gallery.search(SENTENCES, **wishes), gallery.search(SENTENCES, exact=False, **wishes)
  for one, other in zip(exact, staged, strict=True):
    assert [hit.video_id for hit in one.hits] == [hit.video_id for hit in other.hits]
    np.testing.assert_allclose([hit.score for hit in one.hits], [hit.score for hit in other.hits], atol=1e-5)
    assert [hit.moments for hit in one.hits] == [hit.moments for hit in other.hits]


def test_two_stages(world, tmp_path):
  index = tmp_path / 'index'
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(index, part, world.run, building.Settings(clip=str(world.clip)), segment_frames=60)
  with pytest.raises(ValueError, match=r'not prepared.*dlkd_jax\.index accelerate'):
    Gallery.open(index).search(SENTENCES, exact=False)
  segments = len(IndexFolder.open(index).manifest['segments'])
  assert acceleration.accelerate(index) == segments > 1 and acceleration.accelerate(index) == 0
  assert_as_exact(index)
  building.add(index, world.collection)
  assert_as_exact(index, top=20)
  building.remove(index, lambda entry: entry.video_id in ('v001.mp4', 'v013.mp4'))
  assert_as_exact(index, top=4, offset=3)
  assert_as_exact(index, where='split=gallery', weights={'teacher': 1.0})
  assert_as_exact(index, flat=True, moments=2, top=5)
  building.compact(index)
  assert_as_exact(index, top=20)
  IndexFolder.open(index).verify()


def test_an_empty_index(world, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index)
  building.remove(index, lambda entry: True)
  assert Gallery.open(index).search(['a'], exact=False)[0].hits == ()
  building.compact(index)
  assert Gallery.open(index).search(['a'], exact=False)[0].hits == ()
