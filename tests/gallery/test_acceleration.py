"""Searching in two stages: the same results on a small gallery, kept when the index changes."""

import shutil

import numpy as np
import pytest

from dlkd_jax.gallery import (
  acceleration,
  building,
  exact,
  index_folder,
  quantization,
  result_text,
  two_stage,
)
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.frame_index import FrameIndex
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import SegmentWriter
from dlkd_jax.tools import benchmark_search
from tests.paths import shared

SENTENCES = ['a red square 3', 'moves left']


def assert_as_exact(path, **options):
  gallery = Gallery.open(path)
  exact, staged = gallery.search(SENTENCES, **options), gallery.search(SENTENCES, exact=False, **options)
  for one, other in zip(exact, staged, strict=True):
    assert [hit.video_id for hit in one.hits] == [hit.video_id for hit in other.hits]
    np.testing.assert_allclose([hit.score for hit in one.hits], [hit.score for hit in other.hits], atol=1e-5)
    assert [hit.moments for hit in one.hits] == [hit.moments for hit in other.hits]


def test_two_stages(world, tmp_path):
  index = tmp_path / 'index'
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(index, part, world.run, building.IndexSettings(clip=str(world.clip)), segment_frames=60)
  with pytest.raises(ValueError, match=r'not prepared.*fewer than 200,000 frames is.*dlkd index accelerate'):
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


def prepared(path):
  return ['teacher.frames' in about['files'] for about in IndexFolder.open(path).manifest['segments']]


def test_large_indexes_are_prepared_as_they_grow(world, tmp_path, monkeypatch):
  """Nothing is asked for: from so many frames on, segments come with compressed frames, and earlier ones get them."""
  index = tmp_path / 'index'
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(index, part, world.run, building.IndexSettings(clip=str(world.clip)), segment_frames=60)
  frames = sum(about['frames'] for about in IndexFolder.open(index).manifest['segments'])
  assert not any(prepared(index)) and not acceleration.is_ready(IndexFolder.open(index).manifest)
  monkeypatch.setattr(index_folder, 'MANY_FRAMES', frames + 1)
  finished = []
  finish = SegmentWriter.finish
  monkeypatch.setattr(SegmentWriter, 'finish', lambda writer: finished.append(finish(writer)) or finished[-1])
  building.add(index, world.collection, segment_frames=60)
  # The last segment came with them, and the earlier ones were written before the manifest that says so.
  assert 'teacher.frames' in finished[-1]['files'] and all(prepared(index))
  assert_as_exact(index, top=20)
  building.compact(index)
  assert prepared(index) == [True]
  IndexFolder.open(index).verify()


def test_codes_are_fitted_once(world, tmp_path, monkeypatch):
  """To fit them takes longer than to compress a small addition."""
  index = tmp_path / 'index'
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(index, part, world.run, building.IndexSettings(clip=str(world.clip)))
  acceleration.accelerate(index)
  asked = []
  build = FrameIndex.build
  monkeypatch.setattr(FrameIndex, 'build', lambda rows, centres: asked.append(centres) or build(rows, centres=centres))
  for frames, fitted in ((10**6, True), (1, False)):
    monkeypatch.setattr(index_folder, 'FITTED_FRAMES', frames)
    building.add(index, world.collection)
    assert len(asked) == 3 and all((centres is None) == fitted for centres in asked)
    asked.clear()
    assert_as_exact(index, top=16)
    building.remove(index, lambda entry: entry.split == 'gallery')
    building.compact(index)
    asked.clear()
    folder = IndexFolder.open(index)
    with index_folder.writing(index):
      folder.manifest['forgotten'] = {}
      folder.write_manifest()


def test_whichever_costs_less_answers(world, tmp_path, monkeypatch):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index)
  asked = []
  search = two_stage.search
  monkeypatch.setattr(two_stage, 'search', lambda *a, **more: asked.append(a[5]) or search(*a, **more))
  gallery = Gallery.open(index)
  gallery.search(SENTENCES)
  assert not asked  # Few frames.
  monkeypatch.setattr(acceleration, 'MANY_FRAMES', 10)
  gallery.search(SENTENCES)
  assert not asked  # Few videos.
  monkeypatch.setattr(acceleration, '_CANDIDATES', (2, 500))
  gallery.search(SENTENCES, top=1)
  assert asked.pop() == 2
  for options in ({'exact': True}, {'top': 2}, {'offset': 10**6}):
    gallery.search(SENTENCES, **{'top': 1} | options)
    assert not asked, options


def test_it_pays_where_most_is_left_out():
  assert acceleration.pays(200_000, 4000, 500, 1) and not acceleration.pays(199_999, 4000, 500, 1)
  assert not acceleration.pays(10**7, 3999, 500, 1)  # Few long films.
  assert not acceleration.pays(599_999, 4000, 500, 8) and acceleration.pays(600_000, 4000, 500, 64)


def test_damaged_compressed_frames_are_written_anew(world, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index)
  (file,) = index.glob('segments/*/teacher.frames')
  content = bytearray(file.read_bytes())
  content[80] ^= 1
  file.write_bytes(bytes(content))
  with pytest.raises(ValueError, match=r'not a whole index of frames.*accelerate'):
    Gallery.open(index).search(SENTENCES, exact=False)
  assert acceleration.accelerate(index) == 1 and acceleration.accelerate(index) == 0
  assert_as_exact(index)
  IndexFolder.open(index).verify()


@pytest.mark.slow
def test_real_clip_frames():
  """Where two stages are automatic, they find nearly what exact search finds."""
  folder = shared('packs', 'charades_clip')
  with np.load(folder / 'test_frames_clip_vitb32_1fps.npz', allow_pickle=False) as archive:
    rows, offsets = archive['features'], archive['offsets']
  texts = np.load(folder / 'object_names_clip_vitb32.npy', allow_pickle=False)
  stored, weights = {'teacher': quantization.encode(rows, 'float16')}, {'teacher': 1.0}
  queries = {'teacher': texts[:: len(texts) // 200]}
  indexes = {'teacher': FrameIndex.build(stored['teacher'])}
  count = (len(offsets) - 1) // acceleration._SHARE  # No more are scored exactly of so few.
  found = two_stage.search(indexes, stored, offsets, queries, weights, 10, count)
  expected, _ = exact.top_videos(exact.video_scores(stored, offsets, queries), weights, 10)
  assert len(expected) >= 200
  assert benchmark_search.recall(np.stack([each.videos for each in found]), expected) >= 0.98


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


def test_segments_that_are_not_prepared_are_scored_exactly(world, tmp_path):
  """As of indexes that were added to by earlier versions."""
  index = tmp_path / 'index'
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(index, part, world.run, building.IndexSettings(clip=str(world.clip)), segment_frames=60)
  acceleration.accelerate(index)
  building.add(index, world.collection)
  folder = IndexFolder.open(index)
  for name in [name for name in folder.manifest['segments'][-1]['files'] if name.endswith('.frames')]:
    del folder.manifest['segments'][-1]['files'][name]
  folder.write_manifest()
  assert_as_exact(index, top=20)
  assert_as_exact(index, where='split=gallery', top=3)
  assert_as_exact(index, flat=True, moments=2, top=5)
  assert acceleration.is_ready(IndexFolder.open(index).manifest)
  assert acceleration.accelerate(index) == 1
  assert_as_exact(index, top=20)


def test_an_empty_index(world, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index)
  building.remove(index, lambda entry: True)
  assert Gallery.open(index).search(['a'], exact=False)[0].hits == ()
  building.compact(index)
  assert Gallery.open(index).search(['a'], exact=False)[0].hits == ()
