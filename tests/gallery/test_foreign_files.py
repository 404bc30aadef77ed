"""Files of other people: an index is not put among them, and whatever changes an index leaves them as they are."""

import json
import os
import shutil

import pytest

from dlkd_jax.gallery import acceleration, building, tuning
from dlkd_jax.gallery.building import IndexSettings
from dlkd_jax.gallery.index_folder import IndexFolder, IndexFolderError
from dlkd_jax.gallery.segments import SegmentWriter

# Each a file of somebody's, named as an index names its own, or nearly so.
NAMES = (
  'segments/holiday_2019/raw.mov',
  'segments/000001/raw.mov',
  'segments/000002/offsets.i64',
  'segments/000003/times.f32',
  'segments/0000007/teacher.values',
  'segments/note.txt',
  'student_list.safetensors',
  'student-0123456789ab.safetensors',
  'student.partial.safetensors',
  'students.txt',
  'catalog-000001.sqlite',
  'catalog-000099.sqlite.tmp',
  'catalog.sqlite',
  'manifest.json.tmp',
  'manifest.json.bak',
  '.lock',
)


def snapshot(path):
  """Everything below a folder: kind, and content or target."""
  found = {}
  for folder, folders, names in os.walk(path):
    for name in folders + names:
      full = os.path.join(folder, name)
      what = os.readlink(full) if os.path.islink(full) else None
      if what is None and os.path.isfile(full):
        with open(full, 'rb') as file:
          what = file.read()
      found[os.path.relpath(full, path)] = what
  return found


def put(path, name):
  file = path / name
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_bytes(b'somebody wrote this')
  return file


@pytest.mark.parametrize('name', NAMES)
def test_no_index_among_them(world, tmp_path, name):
  put(tmp_path / 'project', name)
  before = snapshot(tmp_path)
  with pytest.raises(IndexFolderError, match='holds files that no index has'):
    building.build(tmp_path / 'project', world.collection, None, IndexSettings(clip=str(world.clip)))
  assert snapshot(tmp_path) == before


@pytest.mark.parametrize('name', ['.lock', 'segments', 'student-0123456789ab.safetensors', 'catalog-000001.sqlite'])
def test_no_index_among_links_and_empty_folders(world, tmp_path, name):
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'project').mkdir()
  (tmp_path / 'project' / name).symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(IndexFolderError, match='holds files that no index has'):
    building.build(tmp_path / 'project', world.collection, None)
  (tmp_path / 'project' / name).unlink()
  (tmp_path / 'project' / name).mkdir()
  before = snapshot(tmp_path)
  with pytest.raises(IndexFolderError, match='holds files that no index has'):
    building.build(tmp_path / 'project', world.collection, None)
  assert snapshot(tmp_path) == before


def test_a_file_is_no_folder(world, tmp_path):
  (tmp_path / 'index').write_text('a file')
  with pytest.raises(IndexFolderError, match='is no folder'):
    building.build(tmp_path / 'index', world.collection, None)
  assert (tmp_path / 'index').read_text() == 'a file'


@pytest.mark.parametrize('there', [True, False])
def test_nothing_is_made_where_there_is_no_index(world, tmp_path, there):
  path = tmp_path / 'nowhere'
  if there:
    put(path, 'letter.txt')
  before = snapshot(tmp_path)
  for change in (
    lambda: building.add(path, world.collection),
    lambda: building.remove(path, lambda entry: True),
    lambda: building.compact(path),
    lambda: acceleration.accelerate(path),
    lambda: tuning.tune(path, world.collection),
  ):
    with pytest.raises(FileNotFoundError, match='is no index'):
      change()
    assert snapshot(tmp_path) == before


def test_whatever_changes_an_index_leaves_them(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  for name in NAMES:
    if name not in ('manifest.json.tmp', '.lock'):
      put(path, name)
  put(path, 'segments/000008/offsets.i64').write_bytes(b'x' * 8)
  put(path, 'segments/000008/values.txt')
  outside = put(tmp_path / 'outside', 'offsets.i64')
  outside.write_bytes(bytes(16))
  (path / 'segments' / '000005').symlink_to(outside.parent)
  (path / 'segments' / '000006').mkdir()
  (path / 'segments' / '000006' / 'offsets.i64').symlink_to(outside)
  (path / 'catalog-000077.sqlite').symlink_to(outside)
  (path / 'student-ffffffffffff.safetensors').symlink_to(outside)
  theirs = {
    name: content
    for name, content in snapshot(tmp_path).items()
    if name.removeprefix('index/') not in snapshot(world.index) and name != 'index'
  }
  building.build(path, world.collection, world.run, IndexSettings(clip=str(world.clip)))
  building.remove(path, lambda entry: entry.split == 'gallery')
  building.compact(path)
  acceleration.accelerate(path)
  building.add(path, world.collection)
  building.compact(path)
  found = snapshot(tmp_path)
  assert {name: found.get(name) for name in theirs} == theirs and len(theirs) > len(NAMES)
  IndexFolder.open(path).verify()


def test_a_replaced_segment_goes_and_what_was_put_into_it_stays(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  put(path, 'segments/000001/notes.txt')
  building.remove(path, lambda entry: entry.split == 'gallery')
  building.compact(path)
  assert [file.name for file in (path / 'segments' / '000001').iterdir()] == ['notes.txt']


def test_what_a_killed_writer_left_goes(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  folder = IndexFolder.open(path)
  folder.new_segment()  # Its files are open and not on the disk yet.
  folder.new_segment().abandon()
  (path / 'segments' / '000009').mkdir()
  SegmentWriter(path / 'segments' / '000010', folder.manifest['scorers'], 'float16').abandon()
  (path / 'segments' / '000010' / 'offsets.i64').write_bytes(b'')
  (path / 'segments' / '000010' / 'teacher.values').write_bytes(b'of an earlier version')
  building.compact(path)
  assert [file.name for file in (path / 'segments').iterdir()] == ['000001']


@pytest.mark.parametrize(
  'change',
  [
    lambda m: m['segments'][0].update(name='../../outside'),
    lambda m: m['segments'][0].update(name='/etc'),
    lambda m: m['segments'][0]['files'].update({'../../../outside': {'bytes': 0, 'sha256': ''}}),
    lambda m: m['student'].update(file='../student.safetensors'),
    lambda m: m['catalog'].update(file='..'),
    lambda m: m['scorers'].update({'../x': 3}),
  ],
)
def test_no_name_in_a_manifest_leads_out(world, tmp_path, change):
  path = shutil.copytree(world.index, tmp_path / 'index')
  manifest = json.loads((path / 'manifest.json').read_text())
  change(manifest)
  (path / 'manifest.json').write_text(json.dumps(manifest))
  with pytest.raises(IndexFolderError, match='which is no name of a file of an index'):
    IndexFolder.open(path)


def test_a_manifest_of_another_program_is_no_index(world, tmp_path):
  (tmp_path / 'manifest.json').write_text('{"manifest_version": 3, "name": "an extension"}')
  with pytest.raises(IndexFolderError, match='has format None'):
    building.build(tmp_path, world.collection, None)
  assert [file.name for file in tmp_path.iterdir()] == ['manifest.json'], 'nothing was put beside it'
