"""Searching in two stages: the same results on a small gallery, kept when the index changes."""

import shutil

import numpy as np
import pytest

from dlkd_jax.gallery import acceleration, building, result_text, two_stage
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


def test_totals_and_pages(world, tmp_path, monkeypatch):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index)
  gallery = Gallery.open(index)
  (whole,) = gallery.search(SENTENCES[:1], top=16)
  least = whole.hits[9].score - 1e-4
  for sizes, known in (((500, 2000), 10), ((4, 12), None)):
    monkeypatch.setattr(acceleration, '_CANDIDATES', sizes)
    for offset in range(0, 20, 2):  # The last ones have no first stage.
      (page,) = gallery.search(SENTENCES[:1], top=2, offset=offset, exact=False)
      assert page.total == 16
      assert [h.video_id for h in page.hits] == [h.video_id for h in whole.hits[offset : offset + 2]]
    (some,) = gallery.search(SENTENCES[:1], top=2, threshold=least, exact=False)
    assert some.total == known and some.to_json()['total'] == known
    assert ('many videos' in result_text.describe_result(some)) == (known is None)
    (own,) = gallery.search(SENTENCES[:1], top=2, where='split=gallery', exact=False)
    assert own.total == 4


def test_one_query_scores_no_more_than_so_many(world, tmp_path, monkeypatch):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index)
  asked = []
  search = two_stage.search

  def counting(*arguments, **more):
    asked.append(arguments[5:7])
    return search(*arguments, **more)

  monkeypatch.setattr(two_stage, 'search', counting)
  gallery = Gallery.open(index)
  for offset in (0, 240, 900, 990, 10**6):
    gallery.search(SENTENCES[:1], top=10, offset=offset, exact=False)
  assert asked == [(500, 500), (500, 500), (2000, 2000), (2000, 2000)]


def test_segments_that_are_not_prepared_are_scored_exactly(world, tmp_path, monkeypatch):
  """As while segments are added or compacted, or after a process was killed between."""
  index = tmp_path / 'index'
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(index, part, world.run, building.Settings(clip=str(world.clip)), segment_frames=60)
  acceleration.accelerate(index)
  prepare = acceleration.prepare
  monkeypatch.setattr(acceleration, 'prepare', lambda folder: 0)
  building.add(index, world.collection)
  bare = [about for about in IndexFolder.open(index).manifest['segments'] if 'teacher.frames' not in about['files']]
  if not bare:  # Segments are prepared before they are put into the index.
    folder = IndexFolder.open(index)
    for name in [name for name in folder.manifest['segments'][-1]['files'] if name.endswith('.frames')]:
      del folder.manifest['segments'][-1]['files'][name]
    folder.write_manifest()
  assert_as_exact(index, top=20)
  assert_as_exact(index, where='split=gallery', top=3)
  assert_as_exact(index, flat=True, moments=2, top=5)
  assert acceleration.is_ready(IndexFolder.open(index).manifest)
  monkeypatch.setattr(acceleration, 'prepare', prepare)
  acceleration.accelerate(index)
  assert_as_exact(index, top=20)


def test_an_empty_index(world, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index)
  building.remove(index, lambda entry: True)
  assert Gallery.open(index).search(['a'], exact=False)[0].hits == ()
  building.compact(index)
  assert Gallery.open(index).search(['a'], exact=False)[0].hits == ()
