"""Folders of films and an index of them: what is new, changed, renamed, gone, broken; each told, nothing done twice."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building, film_encoding, films, index_text, progress_file
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder, IndexFolderError
from dlkd_jax.video import reading
from tests.environment import environment
from tests.gallery import worlds
from tests.gallery.film_worlds import add, put, rows


@pytest.fixture(scope='module')
def made(tmp_path_factory, opened_once):
  """An index of three films in a folder; nobody changes them."""
  folder = tmp_path_factory.mktemp('films')
  worlds.clip(folder / 'clip')
  put(folder / 'films' / 'a.mp4', 0)
  put(folder / 'films' / 'b.mp4', 1)
  put(folder / 'films' / 'dir' / 'c.mp4', 2)
  add(folder / 'index', folder / 'films', clip=str(folder / 'clip'))
  return folder


@pytest.fixture(scope='module')
def opened_once():
  """Models are opened once, not for each addition: that is a compilation."""
  with pytest.MonkeyPatch.context() as patch:
    opened, models = {}, film_encoding.Models
    patch.setattr(film_encoding, 'Models', lambda *names: opened.get(names) or opened.setdefault(names, models(*names)))
    yield


@pytest.fixture
def world(made, tmp_path):
  """A copy of it: an `index` of the films in `films`."""
  for name in ('films', 'index'):
    shutil.copytree(made / name, tmp_path / name)
  manifest = json.loads((tmp_path / 'index' / 'manifest.json').read_text())
  manifest['settings']['folders'][0]['path'] = str(tmp_path / 'films')
  (tmp_path / 'index' / 'manifest.json').write_text(json.dumps(manifest))
  add(tmp_path / 'index')  # Paths are others now.
  return tmp_path


@pytest.fixture
def read(monkeypatch):
  """The films that are decoded from here on."""
  seen, real = [], reading._read

  def watched(how, path, *more):
    seen.append(path.name)
    return real(how, path, *more)

  monkeypatch.setattr(reading, '_read', watched)
  return seen


def counts(done):
  found = done.addition
  return {
    'new': found.added,
    'changed': len(set(found.updated) - set(found.restated)),
    'moved': len(found.moved),
    'restated': len(found.restated),
    'vanished': len(found.vanished),
    'pruned': len(found.pruned),
    'there': found.there,
  }


def told(done, **expected):
  """Whether an addition did just that."""
  return {name: count for name, count in counts(done).items() if count} == expected


def test_the_same_as_by_a_data_set(made, tmp_path):
  from dlkd_jax.gallery.collection import Collection
  from dlkd_jax.video import extraction

  extraction.extract(extraction.Request(made / 'films', tmp_path / 'data', teacher=f'clip:{made / "clip"}'))
  building.build(tmp_path / 'index', Collection.open(str(tmp_path / 'data'), 'custom_prvr'), None)
  expected, found = rows(tmp_path / 'index'), rows(made / 'index')
  assert list(found) == ['a.mp4', 'b.mp4', 'dir/c.mp4'] and found.keys() == expected.keys()
  for video in found:
    np.testing.assert_allclose(found[video], expected[video], atol=2e-3)
  assert not np.allclose(found['a.mp4'][0], found['b.mp4'][0], atol=0.02), 'the films are too much alike for a test'
  one, other = (
    Gallery.open(index).search(['a red square', 'blue'], top=9) for index in (made / 'index', tmp_path / 'index')
  )
  for ours, theirs in zip(one, other, strict=True):
    scores = {hit.video_id: hit.score for hit in theirs.hits}
    assert {hit.video_id for hit in ours.hits} == scores.keys()
    assert all(abs(hit.score - scores[hit.video_id]) < 1e-3 for hit in ours.hits)
  # An index of films takes a data set that was made alike, and one of a data set takes films; no name is there twice.
  shutil.copytree(made / 'index', tmp_path / 'both')
  done = building.add(tmp_path / 'both', Collection.open(str(tmp_path / 'data'), 'custom_prvr'))
  assert done.added == 0 and len(done.alike) == 3
  put(tmp_path / 'films' / 'new.mp4', 5)
  put(tmp_path / 'films' / 'a.mp4', 0)
  done = add(tmp_path / 'index', tmp_path / 'films', settle_seconds=0)
  assert told(done, new=1) and done.addition.alike == ['a.mp4'] and len(rows(tmp_path / 'index')) == 4


def test_nothing_is_done_twice(world, read):
  done = add(world / 'index')
  assert told(done, there=3) and read == [] and done.addition.frames == 0
  before = (world / 'index' / 'manifest.json').read_bytes()
  add(world / 'index')
  assert (world / 'index' / 'manifest.json').read_bytes() == before
  put(world / 'films' / 'b.mp4', 1, age=5 * 10**5)
  assert told(add(world / 'index'), there=3, restated=1) and read == [], 'the date is another, the film is not'
  assert told(add(world / 'index'), there=3)


def test_what_changed(world, read):
  before = rows(world / 'index')
  put(world / 'films' / 'new.mp4', 3)
  put(world / 'films' / 'a.mp4', 4)
  assert told(add(world / 'index'), new=1, changed=1, there=3) and sorted(read) == ['a.mp4', 'new.mp4']
  after = rows(world / 'index')
  assert not np.array_equal(after['a.mp4'], before['a.mp4'])
  np.testing.assert_array_equal(after['b.mp4'], before['b.mp4'])


def test_renamed_moved_copied_and_exchanged(world, read):
  before = rows(world / 'index')
  films = world / 'films'
  said = world / 'said.jsonl'
  said.write_text('{"video": "a.mp4", "year": 2021}\n{"video": "b.mp4", "title": "Bee", "year": 2022}')
  assert told(add(world / 'index', metadata=said), there=3, restated=2)
  (films / 'a.mp4').rename(films / 'dir' / 'renamed.mp4')
  (films / 'b.mp4').rename(films / 'bee.mp4')
  shutil.copy2(films / 'dir' / 'c.mp4', films / 'copy.mp4')
  done = add(world / 'index')
  assert done.addition.moved == {'bee.mp4': 'b.mp4', 'dir/renamed.mp4': 'a.mp4'} and read == []
  assert told(done, new=1, moved=2, there=3) and done.addition.frames == 0, 'nothing was encoded'
  after, videos = rows(world / 'index'), Gallery.open(world / 'index').videos
  assert sorted(after) == ['bee.mp4', 'copy.mp4', 'dir/c.mp4', 'dir/renamed.mp4']
  np.testing.assert_array_equal(after['dir/renamed.mp4'], before['a.mp4'])
  np.testing.assert_array_equal(after['copy.mp4'], before['dir/c.mp4'])
  renamed, bee = videos['dir/renamed.mp4'], videos['bee.mp4']
  assert renamed.path == str(films / 'dir' / 'renamed.mp4') and renamed.title == 'dir/renamed'
  assert renamed.metadata == {'year': 2021} and bee.title == 'Bee' and videos['copy.mp4'].metadata == {}
  assert told(add(world / 'index'), there=4)
  (films / 'bee.mp4').rename(films / 'other')
  (films / 'copy.mp4').rename(films / 'bee.mp4')
  (films / 'other').rename(films / 'copy.mp4')
  assert told(add(world / 'index'), changed=2, there=4) and read == []
  np.testing.assert_array_equal(rows(world / 'index')['copy.mp4'], before['b.mp4'])


def test_gone_and_pruned(world):
  (world / 'films' / 'a.mp4').unlink()
  assert told(add(world / 'index'), vanished=1, there=2) and len(rows(world / 'index')) == 3
  assert told(add(world / 'index', prune=True), pruned=1, there=2)
  put(world / 'films' / 'a.mp4', 0)
  assert told(add(world / 'index'), new=1, there=2), 'it comes back with its file'
  (world / 'films').rename(world / 'unmounted')
  done = add(world / 'index', prune=True)
  assert told(done, there=3) and 'is not there: its 3 films stay' in done.addition.absent[0]
  (world / 'films').mkdir()
  with pytest.raises(UserError, match='is its disk there'):
    add(world / 'index', prune=True)
  assert told(add(world / 'index'), vanished=3) and len(rows(world / 'index')) == 3


def test_several_folders(world, read):
  put(world / 'holiday' / 'a.mp4', 5)
  put(world / 'other' / 'holiday' / 'a.mp4', 6)
  put(world / 'films' / 'dir' / 'a.mp4', 7)
  put(world / 'last' / 'dir' / 'a.mp4', 8)
  done = add(world / 'index', world / 'holiday', world / 'other' / 'holiday', world / 'last' / 'dir')
  assert told(done, new=4, there=3)
  new = {'holiday/a.mp4', 'holiday-2/a.mp4', 'dir/a.mp4', 'dir-2/a.mp4'}
  assert rows(world / 'index').keys() == {'a.mp4', 'b.mp4', 'dir/c.mp4'} | new
  assert told(add(world / 'index'), there=7) and told(add(world / 'index', world / 'films' / 'dir'), there=7)
  found = Gallery.open(world / 'index').search(['a'], top=9, where='folder=holiday')[0]
  assert [hit.video_id for hit in found.hits] == ['holiday/a.mp4']
  with pytest.raises(UserError, match='which the index knows as a folder of its own'):
    add(world / 'index', world)
  read.clear()
  (world / 'holiday').rename(world / 'trip')
  done = add(world / 'index', world / 'trip')
  assert (
    done.addition.moved == {'trip/a.mp4': 'holiday/a.mp4'}
    and read == []
    and 'it is forgotten' in done.addition.absent[0]
  )
  assert [each.name for each in films.known_folders(IndexFolder.open(world / 'index').manifest['settings'])] == [
    *('', 'holiday-2', 'dir-2', 'trip')
  ]
  assert add(world / 'index').addition.absent == []
  put(world / 'films' / 'trip' / 'a.mp4', 9)
  (world / 'films' / 'trip' / 'a.srt').write_text('1\n00:00:00,000 --> 00:00:01,000\nOf another film\n')
  videos = dict(Gallery.open(world / 'index').videos)
  (broken,) = add(world / 'index').outcomes.files
  assert dict(Gallery.open(world / 'index').videos) == videos, 'the one that had the id keeps it'
  assert broken.status == 'failed' and 'rename one of them' in broken.reason and len(rows(world / 'index')) == 7


def test_broken_ones(world, read):
  put(world / 'films' / 'broken.mp4', None)
  put(world / 'films' / 'a.mp4', None)
  put(world / 'films' / 'cut.mp4', 3)
  (world / 'films' / 'cut.mp4').write_bytes((world / 'films' / 'cut.mp4').read_bytes()[:400])
  os.utime(world / 'films' / 'cut.mp4', (1, 1))
  done = add(world / 'index')
  assert {each.video for each in done.outcomes.files} == {'broken.mp4', 'a.mp4', 'cut.mp4'}
  lines = index_text.describe_films(done, 'index')
  assert (
    lines.startswith('index has 3 films: 3 broken; 0 frames in') and '  broken: broken.mp4: is not a video' in lines
  )
  read.clear()
  done = add(world / 'index')
  assert read == [] and all('as before' in each.reason for each in done.outcomes.files)
  assert told(done, vanished=1, there=2), 'what a broken film was before stays until it is pruned'
  put(world / 'films' / 'broken.mp4', 4)
  assert told(add(world / 'index', prune=True, again=True), new=1, pruned=1, there=2)
  assert set(read) == {'broken.mp4', 'a.mp4', 'cut.mp4'}
  put(world / 'films' / 'b.mp4', None)
  assert told(add(world / 'index', prune=True), pruned=1, there=2), 'at once'
  assert IndexFolder.open(world / 'index').manifest['failed'].keys() == {'a.mp4', 'b.mp4', 'cut.mp4'}
  put(world / 'films' / 'a.mp4', 5)  # Read before the next one, which is broken.
  put(world / 'films' / 'late.mp4', None)
  assert told(add(world / 'index', segment_frames=1), new=1, there=2)
  assert IndexFolder.open(world / 'index').manifest['failed'].keys() == {'b.mp4', 'cut.mp4', 'late.mp4'}


def test_still_being_written(world, monkeypatch):
  monkeypatch.setattr(reading, 'GLANCE_SECONDS', 0.01)
  put(world / 'films' / 'whole.mp4', 3, age=1)
  growing = put(world / 'films' / 'growing.mp4', 4, age=1)
  put(world / 'films' / 'begun.mp4', None, age=1)
  monkeypatch.setattr(reading.time, 'sleep', lambda _: growing.open('ab').write(b'more'))
  done = add(world / 'index')
  assert told(done, new=1, there=3)
  assert {each.video: each.status for each in done.outcomes.files} == dict.fromkeys(
    ('growing.mp4', 'begun.mp4'), 'waiting'
  )
  assert 'left to the next run: growing.mp4: is being written to' in index_text.describe_films(done, 'index')


def test_what_was_removed_stays_out(world):
  building.remove(world / 'index', lambda entry: entry.video_id in ('a.mp4', 'b.mp4'))
  assert told(add(world / 'index'), there=1)
  (world / 'films' / 'a.mp4').rename(world / 'films' / 'z.mp4')
  done = add(world / 'index')
  assert told(done, there=1) and done.addition.forgotten == ['b.mp4', 'z.mp4'], 'by another name, too'
  assert told(add(world / 'index', again=True), new=2, there=1)


def test_metadata_and_facts(world):
  said = world / 'said.jsonl'
  said.write_text('{"video": "a.mp4", "title": "A", "year": 2021}\n{"video": "absent.mp4"}')
  done = add(world / 'index', metadata=said)
  assert told(done, there=3, restated=1) and done.addition.not_described == ['absent.mp4']
  assert told(add(world / 'index'), there=3), 'the file is remembered'
  said.write_text('{"video": "a.mp4", "year": 2022}')
  assert told(add(world / 'index'), there=3, restated=1)
  gallery = Gallery.open(world / 'index')
  film = gallery.videos['a.mp4']
  assert (film.title, film.metadata, film.size) == ('a', {'year': 2022}, (world / 'films' / 'a.mp4').stat().st_size)
  day = time.strftime('%Y-%m-%d', time.gmtime(film.written / 1e9))
  for where, count in ((f'date={day}', 3), ('date<2000-01-01', 0), (f'size={film.size}', 1), ('length>0', 3)):
    assert gallery.search(['a'], top=9, where=where)[0].total == count, where
  said.unlink()
  assert 'the metadata, is not there' in add(world / 'index').addition.absent[0]
  assert Gallery.open(world / 'index').videos['a.mp4'].metadata == {'year': 2022}


def test_subtitles_are_kept_in_step(world, read):
  def heard(sentence):
    found = Gallery.open(world / 'index').search([sentence], top=9)[0].hits
    return {hit.video_id for hit in found for said in hit.said if said.kind == 'said'}

  (world / 'films' / 'a.en.srt').write_text('1\n00:00:00,000 --> 00:00:01,000\nThe zebra sleeps\n')
  assert told(add(world / 'index'), there=3, restated=1) and heard('zebra') == {'a.mp4'}
  assert told(add(world / 'index'), there=3)
  (world / 'films' / 'a.mp4').rename(world / 'films' / 'zoo.mp4')
  assert told(add(world / 'index'), moved=1, there=3) and heard('zebra') == set(), 'its subtitles stayed behind'
  (world / 'films' / 'a.en.srt').rename(world / 'films' / 'zoo.en.srt')
  assert told(add(world / 'index'), there=3, restated=1) and heard('zebra') == {'zoo.mp4'} and read == []
  (world / 'films' / 'zoo.mp4').rename(world / 'films' / 'ark.mp4')
  (world / 'films' / 'zoo.en.srt').rename(world / 'films' / 'ark.en.srt')
  assert told(add(world / 'index'), moved=1, there=3) and heard('zebra') == {'ark.mp4'}


def test_the_model_is_the_indexes(world, made, tmp_path):
  other = worlds.clip(tmp_path / 'other_clip', seed=3)
  with pytest.raises(UserError, match='say with --clip where it is'):
    add(world / 'index', clip=str(other))
  with pytest.raises(UserError, match='--rate=2 is asked for'):
    add(world / 'index', rate=2.0)
  with pytest.raises(UserError, match='leave --dtype out'):
    add(world / 'index', dtype='int8')
  with pytest.raises(UserError, match='was made without a student'):
    add(world / 'index', workdir=tmp_path)
  moved = shutil.copytree(made / 'clip', tmp_path / 'moved_clip')
  add(world / 'index', clip=str(moved))
  manifest = IndexFolder.open(world / 'index').manifest
  assert {about['where'] for kind in ('text', 'pictures') for about in manifest[kind].values() if about} == {str(moved)}


def test_what_is_asked_for_wrongly(tmp_path, made):
  with pytest.raises(UserError, match='is no index; name the folders'):
    add(tmp_path / 'index')
  with pytest.raises(UserError, match='is no folder'):
    add(tmp_path / 'index', made / 'films' / 'a.mp4', clip=str(made / 'clip'))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='holds no videos'):
    add(tmp_path / 'index', tmp_path / 'empty', clip=str(made / 'clip'))
  with pytest.raises(UserError, match='--rate is 0'):
    add(tmp_path / 'index', made / 'films', rate=0.0)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['empty']
  (tmp_path / 'index').mkdir()
  (tmp_path / 'index' / 'mine').touch()
  with pytest.raises(IndexFolderError, match='files that no index has'):
    add(tmp_path / 'index', made / 'films', clip=str(made / 'clip'))


def test_it_can_be_searched_while_it_grows(made, tmp_path, monkeypatch):
  monkeypatch.setattr('dlkd_jax.gallery.adding._BATCH_SECONDS', 0.0)
  monkeypatch.setattr('dlkd_jax.gallery.adding._SEGMENT_SECONDS', 0.0)
  monkeypatch.setattr(progress_file, '_EVERY', 0.0)
  for seed in range(8):
    put(tmp_path / 'films' / f'{seed}.mp4', seed)
  seen, real = [], reading._read_one

  def watched(*arguments):
    seen.append((len(Gallery.open(tmp_path / 'index').videos), progress_file.read(tmp_path / 'index')))
    return real(*arguments)

  monkeypatch.setattr(reading, '_read_one', watched)
  add(tmp_path / 'index', tmp_path / 'films', clip=str(made / 'clip'))
  assert [count for count, _ in seen] == list(range(8))
  assert [running['done'] for _, running in seen] == list(range(8)) and seen[-1][1]['total'] == 8
  assert seen[-1][1]['frames'] > 7 and 0.5 < seen[-1][1]['share'] < 1
  assert len(IndexFolder.open(tmp_path / 'index').manifest['segments']) <= 3, 'small segments are merged'
  assert progress_file.read(tmp_path / 'index') is None


def test_the_command_needs_no_data_sets(made, tmp_path):
  code = (
    'import runpy, sys; sys.argv[0] = "add"; heavy = {"tensorflow_datasets", "array_record", "grain", "orbax"}\n'
    'try: runpy.run_module("dlkd_jax.add", run_name="__main__", alter_sys=True)\n'
    'finally: print(sorted(heavy & sys.modules.keys()))'
  )
  arguments = [str(made / 'films'), f'--index={tmp_path / "index"}', f'--clip={made / "clip"}']
  done = subprocess.run(
    [sys.executable, '-c', code, *arguments], env=environment(), capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  first, last = done.stdout.splitlines()
  assert first.startswith(f'{tmp_path / "index"} has 3 films: 3 new; ') and last == '[]'
