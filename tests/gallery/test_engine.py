"""LanceDB names the candidates: the same hits as exact search, and it follows the index."""

import json
import shutil

import numpy as np
import pytest

from dlkd_jax.gallery import acceleration, building, engine
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from tests.gallery.test_acceleration import assert_as_exact


@pytest.fixture
def lancedb():
  return pytest.importorskip('lancedb', reason="LanceDB is not installed: pip install 'dlkd_jax[lancedb]'")


def rows(lancedb, path):
  """Returns what the table holds: (segment, video) of every frame."""
  found = lancedb.connect(str(path)).open_table('frames').search().limit(10**6).select(['segment', 'video']).to_arrow()
  return sorted(zip(found['segment'].to_pylist(), found['video'].to_pylist(), strict=True))


def expected(index):
  """Returns the same of the frames of an index that were not removed."""
  segments = IndexFolder.open(index).segments()
  return sorted(
    (segment.name, entry.video_id)
    for segment in segments
    for entry, alive, frames in zip(segment.entries, segment.alive(), np.diff(segment.offsets), strict=True)
    for _ in range(frames if alive else 0)
  )


def test_it_finds_what_exact_search_finds_and_follows_the_index(lancedb, world, tmp_path, monkeypatch):
  index, place = tmp_path / 'index', tmp_path / 'elsewhere'
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(index, part, world.run, building.IndexSettings(clip=str(world.clip)), segment_frames=60)
  segments = len(IndexFolder.open(index).manifest['segments'])
  assert acceleration.accelerate(index, f'lancedb:{place}') == segments > 1
  assert acceleration.accelerate(index) == 0  # It remembers.
  assert rows(lancedb, place) == expected(index)
  # So few candidates that the engine has to name them.
  monkeypatch.setattr(acceleration, '_CANDIDATES', (8, 500))
  asked = []
  search = engine.EngineFrames.search
  monkeypatch.setattr(engine.EngineFrames, 'search', lambda self, *a: asked.append(a[1:]) or search(self, *a))
  assert_as_exact(index, top=4)
  assert asked
  before = Gallery.open(index)
  building.add(index, world.collection)
  assert_as_exact(index, top=4)  # New segments are not there yet.
  assert acceleration.accelerate(index) == 1 and rows(lancedb, place) == expected(index)
  assert_as_exact(index, top=4)
  building.remove(index, lambda entry: entry.video_id in ('v001.mp4', 'v013.mp4'))
  assert_as_exact(index, top=4, offset=2)
  assert_as_exact(index, where='split=gallery', weights={'teacher': 1.0})
  assert_as_exact(index, flat=True, moments=2, top=5)
  acceleration.accelerate(index)
  assert 'v001.mp4' not in {video for _, video in rows(lancedb, place)} and rows(lancedb, place) == expected(index)
  building.compact(index)
  assert_as_exact(index, top=4)
  assert acceleration.accelerate(index) == 1 and rows(lancedb, place) == expected(index)
  assert_as_exact(index, top=4)
  # Whoever opened the index before sees the table as it was.
  one, other = (before.search(['a red square 3'], top=4, exact=exact) for exact in (True, False))
  assert [hit.video_id for hit in one[0].hits] == [hit.video_id for hit in other[0].hits]
  acceleration.accelerate(index, 'none')
  assert 'engine' not in IndexFolder.open(index).manifest
  assert_as_exact(index, top=4)


def test_filters_are_pushed_down(lancedb, world, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index, 'lancedb')
  assert (index / 'lancedb').is_dir()
  folder = IndexFolder.open(index)
  (segment,) = folder.segments()
  frames = engine.open_frames(folder, [segment])['teacher']
  allowed = np.array([entry.split == 'gallery' for entry in segment.entries])
  query = segment.rows['teacher'].decode()[:2]
  count = len(segment.times)
  for chosen in (None, allowed):
    scores, found = frames.search(query, count, chosen)
    kept = np.repeat(np.ones(len(allowed), bool) if chosen is None else chosen, np.diff(segment.offsets))
    known = found >= 0
    assert known.sum(axis=1).tolist() == [kept.sum()] * 2 and kept[found[known]].all()
    products = query @ segment.rows['teacher'].decode().T
    np.testing.assert_allclose(scores[known], np.take_along_axis(products, found, axis=1)[known], atol=2e-3)
    assert np.all(np.diff(scores[:, : kept.sum()], axis=1) <= 1e-6)


def test_a_killed_push_goes_on(lancedb, world, tmp_path, monkeypatch):
  index = shutil.copytree(world.index, tmp_path / 'index')
  write = IndexFolder.write_manifest
  monkeypatch.setattr(IndexFolder, 'write_manifest', lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
  with pytest.raises(KeyboardInterrupt):
    acceleration.accelerate(index, 'lancedb')
  monkeypatch.setattr(IndexFolder, 'write_manifest', write)
  assert len(rows(lancedb, index / 'lancedb')) == len(expected(index))  # There, and the index does not know.
  assert acceleration.accelerate(index, 'lancedb') == 1
  assert rows(lancedb, index / 'lancedb') == expected(index)
  shutil.rmtree(index / 'lancedb')
  with pytest.raises(ValueError, match=r'there is no table of frames in .* --engine'):
    Gallery.open(index).search(['a'], exact=False)


def test_many_frames_are_indexed(lancedb, world, tmp_path, monkeypatch):
  monkeypatch.setattr(engine, '_INDEXED_ROWS', 100)
  index = shutil.copytree(world.index, tmp_path / 'index')
  acceleration.accelerate(index, 'lancedb')
  table = lancedb.connect(str(index / 'lancedb')).open_table('frames')
  scorers = set(IndexFolder.open(index).manifest['scorers'])
  assert {column for found in table.list_indices() for column in found.columns} == {*scorers, 'segment', 'number'}
  assert_as_exact(index, top=4)


def test_what_is_missing_is_named(world, tmp_path, monkeypatch):
  index = shutil.copytree(world.index, tmp_path / 'index')
  with pytest.raises(ValueError, match="--engine is 'milvus:x'; expected lancedb"):
    acceleration.accelerate(index, 'milvus:x')
  manifest = json.loads((index / 'manifest.json').read_text())
  manifest['engine'] = {'name': 'lancedb', 'address': None, 'version': 1, 'segments': ['000001']}
  (index / 'manifest.json').write_text(json.dumps(manifest))

  there = engine.importlib.import_module

  def absent(name):
    if name == 'lancedb':
      raise ModuleNotFoundError(f'No module named {name!r}')
    return there(name)

  monkeypatch.setattr(engine.importlib, 'import_module', absent)
  gallery = Gallery.open(index)
  with pytest.raises(ValueError, match=r'not installed: pip install .dlkd_jax\[lancedb\]'):
    gallery.search(['a'], exact=False)
  assert gallery.search(['a'], exact=True)[0].hits
