"""Making and changing an index: what goes in, what is refused, and what is said of it."""

import shutil

import pytest

from dlkd_jax.gallery import building
from dlkd_jax.gallery.building import IndexSettings
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder, IndexFolderError
from dlkd_jax.gallery.segments import SegmentWriter
from tests.gallery import worlds


def test_the_same_again_adds_nothing(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  before = (path / 'manifest.json').read_text()
  done = building.build(path, world.collection, world.run, IndexSettings(clip=str(world.clip)))
  assert (done.added, done.there, done.captions) == (0, 16, 0)
  assert (path / 'manifest.json').read_text() == before


def test_an_index_that_was_made_otherwise_is_refused(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  other = worlds.run(tmp_path / 'run', seed=1)
  for run, settings, message in (
    (world.run, IndexSettings(dtype='int8'), "dtype: 'float16' → 'int8'"),
    (world.run, IndexSettings(long_videos='resample'), 'long_videos'),
    (other, IndexSettings(), 'student: .*→'),
    (None, IndexSettings(), r'scorers\.inheritance: 16 → .*absent'),
  ):
    with pytest.raises(IndexFolderError, match=message):
      building.build(path, world.collection, run, settings)
  assert len(Gallery.open(path)) == 16 and len(list(path.glob('student*'))) == 1


def test_features_of_another_kind_are_refused(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  clip = worlds.clip(tmp_path / 'clip', seed=5)
  other = Collection.open(str(worlds.data_set(tmp_path / 'data', clip, 2)), 'custom_prvr')
  with pytest.raises(IndexFolderError, match=r'teacher: .*same options'):
    building.add(path, other)


def test_a_student_of_other_backbones_is_refused(world, tmp_path):
  data = worlds.data_set(tmp_path / 'trained', world.clip, 2, student='fake:2')
  run = worlds.run(tmp_path / 'run', data_dir=data)
  with pytest.raises(ValueError, match='student: fake:2 in training, fake:1 here'):
    building.build(tmp_path / 'index', world.collection, run)
  assert not (tmp_path / 'index').exists()


def test_zero_shot_and_single(world, tmp_path):
  building.build(tmp_path / 'teacher', world.collection, None, IndexSettings(clip=str(world.clip)))
  teacher = Gallery.open(tmp_path / 'teacher')
  assert (
    teacher.scorers == ('teacher',) and teacher.weights == {'teacher': 1.0} and not list(tmp_path.glob('*/student*'))
  )
  whole = Gallery.open(world.index)
  (one,), (other,) = teacher.search(['a red square']), whole.search(['a red square'], weights={'teacher': 1.0})
  assert [(h.video_id, h.score) for h in one.hits] == [(h.video_id, h.score) for h in other.hits]

  run = worlds.run(tmp_path / 'run', dual=False)
  building.build(tmp_path / 'single', world.collection, run, IndexSettings(scorers=['inheritance']))
  single = Gallery.open(tmp_path / 'single')
  assert single.scorers == ('inheritance',) and single.weights == {'inheritance': 1.0}
  assert len(single.search(['a red square'])[0].hits) == 10, 'needs no CLIP'


def test_without_a_teacher(tmp_path):
  data = worlds.data_set(tmp_path / 'data', None, 3)
  collection = Collection.open(str(data), 'custom_prvr')
  with pytest.raises(ValueError, match='no teacher features; give the --workdir'):
    building.build(tmp_path / 'index', collection, None)
  building.build(tmp_path / 'index', collection, worlds.run(tmp_path / 'run'))
  gallery = Gallery.open(tmp_path / 'index')
  assert gallery.scorers == ('inheritance', 'exploration') and len(gallery.search(['a'])[0].hits) == 3
  with pytest.raises(ValueError, match='nothing to score colour with; run and records give inheritance, exploration'):
    building.build(tmp_path / 'other', collection, tmp_path / 'run', IndexSettings(scorers=['colour']))
  with pytest.raises(ValueError, match='nothing to score teacher with'):
    building.build(tmp_path / 'other', collection, tmp_path / 'run', IndexSettings(scorers=['teacher']))


def test_the_account(world, tmp_path):
  (tmp_path / 'films').mkdir()
  (tmp_path / 'films' / 'v003.mp4').write_bytes(b'')
  known = Knowledge(tmp_path / 'films', {'v003.mp4': {'title': 'Three', 'year': 3}, 'absent.mp4': {}})
  done = building.build(tmp_path / 'index', world.collection, None, knowledge=known)
  assert done.added == 16 and len(done.without_file) == 15 and done.not_described == ['absent.mp4']
  three = Gallery.open(tmp_path / 'index').videos['v003.mp4']
  assert (three.title, three.metadata) == ('Three', {'year': 3})


def test_weights_are_stored(world, tmp_path):
  settings = IndexSettings(weights={'inheritance': 0.5, 'teacher': 0.5}, clip=str(world.clip))
  building.build(tmp_path / 'index', world.collection, world.run, settings)
  gallery = Gallery.open(tmp_path / 'index')
  assert gallery.weights == {'inheritance': 0.5, 'exploration': 0.0, 'teacher': 0.5}
  (one,) = gallery.search(['a red square'])
  (other,) = Gallery.open(world.index).search(['a red square'], weights={'inheritance': 0.5, 'teacher': 0.5})
  assert [h.score for h in one.hits] == [h.score for h in other.hits]


@pytest.mark.parametrize('wrong', [{'dtype': 'float64'}, {'long_videos': 'cut'}])
def test_bad_settings(wrong):
  with pytest.raises(ValueError, match='expected one of'):
    IndexSettings(**wrong)


def test_no_run(world, tmp_path):
  with pytest.raises(FileNotFoundError, match='--workdir'):
    building.build(tmp_path / 'index', world.collection, tmp_path)
  assert not (tmp_path / 'index').exists()


@pytest.mark.parametrize('moment', ['_write_catalog', 'write_manifest', '_clear_catalogs'])
def test_a_build_that_was_killed_at_its_beginning_is_begun_anew(world, tmp_path, monkeypatch, moment):
  path = tmp_path / 'index'

  def stop(*_):
    (path / 'catalog-000001.sqlite.tmp').write_bytes(b'')
    (path / 'manifest.json.tmp').write_bytes(b'{\n  "form')
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(IndexFolder, moment, stop)
    with pytest.raises(KeyboardInterrupt):
      building.build(path, world.collection, world.run, IndexSettings(clip=str(world.clip)))
  assert len(list(path.glob('student*'))) == 1
  building.build(path, world.collection, world.run, IndexSettings(clip=str(world.clip)))
  assert len(Gallery.open(path)) == 16 and len(list(path.glob('student*'))) == 1
  assert sorted(file.name[:7] for file in path.iterdir()) == ['.lock', 'catalog', 'manifes', 'segment', 'student']


@pytest.mark.parametrize('moment', ['finish', 'write_manifest', 'clear_away'])
def test_compacting_that_is_stopped_loses_nothing(world, tmp_path, monkeypatch, moment):
  path = shutil.copytree(world.index, tmp_path / 'index')
  building.remove(path, lambda entry: entry.split == 'gallery')
  calls = []

  def stop(*_, **__):
    calls.append(1)
    if moment != 'clear_away' or len(calls) == 2:  # It is called at the beginning, too.
      raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(SegmentWriter if moment == 'finish' else IndexFolder, moment, stop)
    with pytest.raises(KeyboardInterrupt):
      building.compact(path)
  assert len(Gallery.open(path).search_captions(['v001.mp4#0'], top=20)[0].hits) == 12
  building.compact(path)
  assert len(list((path / 'segments').iterdir())) == 1 and len(Gallery.open(path)) == 12


def test_removing_names_what_went(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  assert building.remove(path, lambda entry: entry.video_id == 'v001.mp4') == ['v001.mp4']
  assert building.remove(path, lambda entry: entry.video_id == 'v001.mp4') == []
  gallery = Gallery.open(path)
  assert 'v001.mp4' not in gallery.videos and 'v001.mp4#0' not in gallery.captions and len(gallery) == 15
  assert IndexFolder.open(path).manifest['segments'][0]['removed'] == ['v001.mp4']
