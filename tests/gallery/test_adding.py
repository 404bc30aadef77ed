"""A collection that lives: what is new, changed, gone, removed and taken back; each named, nothing stuck."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from dlkd_jax.gallery import acceleration, building, sorting
from dlkd_jax.gallery.building import IndexSettings
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import has_codes
from tests.gallery import worlds


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
  """Data sets of the teacher alone: `one` has v000 to v005, `two` another v001 and v006 more, without v004."""
  folder = tmp_path_factory.mktemp('sets')
  clip = worlds.clip(folder / 'clip')
  worlds.data_set(folder / 'one', clip, 6)
  for first, count, seed in ((0, 1, 0), (1, 1, 9), (2, 2, 0), (5, 2, 0)):
    worlds.data_set(folder / 'two', clip, count, first=first, seed=seed)
  return folder, clip


def opened(sets, name):
  return Collection.open(str(sets[0] / name), 'custom_prvr')


@pytest.fixture
def index(sets, tmp_path):
  building.build(tmp_path / 'index', opened(sets, 'one'), None, IndexSettings(clip=str(sets[1])))
  return tmp_path / 'index'


def names(path):
  IndexFolder.open(path).verify()
  return sorted(int(video[1:4]) for video in Gallery.open(path).videos)


def rows(path, video):
  return Gallery.open(path).frames(video)[1]['teacher']


def test_what_was_removed_does_not_come_back(sets, index):
  building.remove(index, lambda entry: entry.video_id in ('v002.mp4', 'v003.mp4'))
  done = building.add(index, opened(sets, 'one'))
  assert (done.added, done.there, done.forgotten) == (0, 4, ['v002.mp4', 'v003.mp4'])
  building.compact(index)
  done = building.build(index, opened(sets, 'one'), None, IndexSettings(clip=str(sets[1])))
  assert (done.added, done.forgotten) == (0, ['v002.mp4', 'v003.mp4']) and names(index) == [0, 1, 4, 5]
  done = building.add(index, opened(sets, 'one'), again=True)
  assert (done.added, done.forgotten) == (2, []) and names(index) == [0, 1, 2, 3, 4, 5]
  assert building.add(index, opened(sets, 'one')).added == 0 and not IndexFolder.open(index).manifest['forgotten']


def test_what_changed_is_named_and_the_rest_goes_on(sets, index):
  before = rows(index, 'v001.mp4')
  done = building.add(index, opened(sets, 'two'))
  assert (done.added, done.there, done.changed, done.updated) == (1, 5, ['v001.mp4'], [])
  assert done.vanished == ['v004.mp4'] and names(index) == [0, 1, 2, 3, 4, 5, 6]
  np.testing.assert_array_equal(rows(index, 'v001.mp4'), before)


def test_update_takes_it_anew(sets, index, tmp_path):
  building.build(tmp_path / 'other', opened(sets, 'two'), None, IndexSettings(clip=str(sets[1])))
  done = building.add(index, opened(sets, 'two'), update=True)
  assert (done.added, done.there, done.changed, done.updated) == (1, 5, [], ['v001.mp4'])
  np.testing.assert_array_equal(rows(index, 'v001.mp4'), rows(tmp_path / 'other', 'v001.mp4'))
  assert names(index) == [0, 1, 2, 3, 4, 5, 6]
  assert list(Gallery.open(index).search_captions(['v001.mp4#0'], top=9)[0].hits[0].moments)
  done = building.add(index, opened(sets, 'two'), update=True)
  assert (done.added, done.changed, done.updated) == (0, [], [])
  building.compact(index)
  assert names(index) == [0, 1, 2, 3, 4, 5, 6]


def test_an_update_is_one_change_of_the_index(sets, index, monkeypatch):
  """Whoever opens the index in between has the old video or the new one."""
  seen, write = [], IndexFolder.write_manifest

  def looked(folder):
    seen.append(sorted(Gallery.open(index).videos))
    write(folder)
    seen.append(sorted(Gallery.open(index).videos))

  monkeypatch.setattr(IndexFolder, 'write_manifest', looked)
  building.add(index, opened(sets, 'two'), update=True, segment_frames=1)
  assert len(seen) >= 4 and all('v001.mp4' in videos and len(set(videos)) == len(videos) for videos in seen)


def test_prune(sets, index):
  done = building.add(index, opened(sets, 'two'), prune=True)
  assert (done.pruned, done.vanished) == (['v004.mp4'], []) and names(index) == [0, 1, 2, 3, 5, 6]
  done = building.add(index, opened(sets, 'one'))
  assert done.added == 1 and done.forgotten == [] and 4 in names(index), 'it comes back with its record'


def test_films_that_come_and_go(sets, tmp_path):
  index, films = tmp_path / 'index', tmp_path / 'films'
  films.mkdir()
  for number in range(6):
    (films / f'v{number:03d}.mp4').write_bytes(b'')
  building.build(index, opened(sets, 'one'), None, IndexSettings(clip=str(sets[1])), Knowledge.read(films, None))
  (films / 'v002.mp4').rename(tmp_path / 'away.mp4')
  done = building.add(index, opened(sets, 'one'))
  assert done.vanished == ['v002.mp4'] and len(names(index)) == 6
  for _ in range(2):
    building.add(index, opened(sets, 'one'), prune=True)
    assert names(index) == [0, 1, 3, 4, 5], 'the record is still there, the film is not'
    assert building.add(index, opened(sets, 'one')).added == 0
  (films / 'v003.mp4').rename(tmp_path / 'gone too.mp4')
  assert building.add(index, opened(sets, 'one'), prune=True).pruned == ['v003.mp4']
  assert building.add(index, opened(sets, 'one')).added == 0 and names(index) == [0, 1, 4, 5]
  (tmp_path / 'gone too.mp4').rename(films / 'v003.mp4')
  (tmp_path / 'away.mp4').rename(films / 'v002.mp4')
  assert building.add(index, opened(sets, 'one')).added == 2 and len(names(index)) == 6
  films.rename(tmp_path / 'unmounted')
  done = building.add(index, opened(sets, 'one'))
  assert done.vanished == [] and 'the folder of the films, is not there' in done.absent[0]
  assert building.add(index, opened(sets, 'one'), prune=True).pruned == []
  films.mkdir()
  with pytest.raises(ValueError, match='is its disk there'):
    building.add(index, opened(sets, 'one'), prune=True)
  assert len(names(index)) == 6


def test_it_remembers_films_and_metadata(sets, tmp_path):
  index, films = tmp_path / 'index', tmp_path / 'films'
  films.mkdir()
  (films / 'v006.mp4').write_bytes(b'')
  said = tmp_path / 'said.jsonl'
  said.write_text(json.dumps({'video': 'v006.mp4', 'title': 'Six', 'year': 6}))
  building.build(index, opened(sets, 'one'), None, IndexSettings(clip=str(sets[1])), Knowledge.read(films, said))
  done = building.add(index, opened(sets, 'two'))
  six = Gallery.open(index).videos['v006.mp4']
  assert (six.path, six.title, six.metadata) == (str(films / 'v006.mp4'), 'Six', {'year': 6})
  assert done.without_file == []
  assert IndexFolder.open(index).manifest['roots'] == [os.path.realpath(films)]
  said.write_text(json.dumps({'video': 'v006.mp4', 'title': 'Sixth', 'year': 6}))
  assert building.add(index, opened(sets, 'two')).changed == ['v001.mp4', 'v006.mp4']
  assert 'v006.mp4' in building.add(index, opened(sets, 'two'), update=True).updated
  assert Gallery.open(index).videos['v006.mp4'].title == 'Sixth'
  said.unlink()
  assert 'the metadata, is not there' in building.add(index, opened(sets, 'two')).absent[0]


def test_roots_of_linked_films(sets, tmp_path):
  films = tmp_path / 'films'
  for folder in ('films/sub', 'elsewhere/a', 'elsewhere/b'):
    (tmp_path / folder).mkdir(parents=True)
  (tmp_path / 'elsewhere' / 'a' / 'x.mp4').write_bytes(b'')
  (films / 'v000.mp4').symlink_to(tmp_path / 'elsewhere' / 'a' / 'x.mp4')
  (films / 'v001.mp4').write_bytes(b'')
  (films / 'v002.mp4').symlink_to(tmp_path / 'elsewhere' / 'b' / 'absent.mp4')
  (tmp_path / 'link').symlink_to(films)
  known = Knowledge.read(tmp_path / 'link', None)
  building.build(tmp_path / 'index', opened(sets, 'one'), None, IndexSettings(clip=str(sets[1])), known)
  roots = IndexFolder.open(tmp_path / 'index').manifest['roots']
  assert roots == sorted(os.path.realpath(tmp_path / name) for name in ('elsewhere/a', 'films'))


def test_an_index_of_an_earlier_version(sets, index, tmp_path):
  manifest = json.loads((index / 'manifest.json').read_text())
  about = manifest['segments'][0]
  lines = index / 'segments' / about['name'] / 'videos.jsonl'
  old = [json.loads(line) for line in lines.read_text().splitlines()]
  fields = ('video_id', 'title', 'path', 'duration', 'split', 'metadata')
  lines.write_text(''.join(json.dumps({name: line[name] for name in fields}) + '\n' for line in old))
  about['files']['videos.jsonl']['bytes'] = lines.stat().st_size
  for name in ('catalog', 'roots', 'forgotten'):
    manifest.pop(name, None)
  for name in ('videos', 'metadata'):
    manifest['settings'].pop(name, None)
  (index / 'manifest.json').write_text(json.dumps(manifest))
  assert len(Gallery.open(index)) == 6
  done = building.add(index, opened(sets, 'two'), update=True)
  assert (done.added, done.there, done.changed, done.unchecked) == (1, 5, [], 5)
  assert len(Gallery.open(index)) == 7 and IndexFolder.open(index).manifest['roots'] == []


def test_no_record_is_read_that_is_not_wanted(sets, index, monkeypatch):
  read, raw = [], []
  records, stored = Collection.records, Collection._raw

  def counted(collection, places=None, running=None):
    read.append(len(places))
    return records(collection, places)

  def watched(*arguments, **options):
    for one in stored(*arguments, **options):
      raw.append(one[1])
      yield one

  monkeypatch.setattr(Collection, 'records', counted)
  monkeypatch.setattr(Collection, '_raw', watched)
  building.add(index, opened(sets, 'one'))
  assert read == [0] and raw == []
  building.add(index, opened(sets, 'two'))
  assert read == [0, 1] and raw == ['v006.mp4'], 'what was added last lies last'


def test_a_set_without_a_list_of_hashes(sets, index, tmp_path):
  for name in ('one', 'two'):
    shutil.copytree(sets[0] / name, tmp_path / name)
    for path in (tmp_path / name).rglob('videos.json'):
      path.unlink()
  shutil.rmtree(index)
  one, two = (Collection.open(str(tmp_path / name), 'custom_prvr') for name in ('one', 'two'))
  building.build(index, one, None, IndexSettings(clip=str(sets[1])))
  assert building.add(index, one).changed == []
  done = building.add(index, two, update=True)
  assert (done.added, done.updated, done.vanished) == (1, ['v001.mp4'], ['v004.mp4'])


def test_small_additions_stay_few_segments(sets, tmp_path):
  """Also where they are accelerated: every commit has compressed frames of all segments."""
  clip, index = sets[1], tmp_path / 'index'
  data = tmp_path / 'data'
  worlds.data_set(data, clip, 30)
  whole = Collection.open(str(data), 'custom_prvr')
  digests = whole.digests()

  def part(count):
    class Part(Collection):
      def digests(self):
        return dict(list(digests.items())[:count])

    return Part(**vars(whole))

  building.build(index, part(1), None, IndexSettings(clip=str(clip)))
  acceleration.accelerate(index)
  written, counts = 0, []
  for number in range(2, 31):
    before = {about['name'] for about in IndexFolder.open(index).manifest['segments']}
    building.add(index, part(number))
    manifest = IndexFolder.open(index).manifest
    written += sum(about['frames'] for about in manifest['segments'] if about['name'] not in before)
    counts.append(len(manifest['segments']))
    assert all(has_codes(about, manifest['scorers']) for about in manifest['segments'])
  frames = sum(about['frames'] for about in manifest['segments'])
  print(f'{max(counts)} segments at most; each frame was written {written / frames:.1f} times')
  assert max(counts) <= 4 and written <= 12 * frames and len(Gallery.open(index)) == 30
  assert {path.name for path in (index / 'segments').iterdir()} == {about['name'] for about in manifest['segments']}
  building.build(tmp_path / 'once', whole, None, IndexSettings(clip=str(clip)))
  one, other = Gallery.open(index), Gallery.open(tmp_path / 'once')
  for video in other.videos:
    np.testing.assert_array_equal(one.frames(video)[1]['teacher'], other.frames(video)[1]['teacher'])
    assert one.videos[video] == other.videos[video]
  query = {'teacher': np.random.default_rng(0).normal(size=(3, one.manifest['scorers']['teacher']))}
  for mine, theirs in zip(one.search_vectors(query, top=30), other.search_vectors(query, top=30), strict=True):
    assert [hit.video_id for hit in mine.hits] == [hit.video_id for hit in theirs.hits]


def test_every_file_is_as_readable_as_a_new_one(world, tmp_path):
  index = tmp_path / 'index'
  building.build(index, world.collection, world.run, IndexSettings(clip=str(world.clip)))
  acceleration.accelerate(index)
  (tmp_path / 'new').write_text('')
  mode = (tmp_path / 'new').stat().st_mode
  odd = [path.name for path in index.rglob('*') if path.is_file() and path.stat().st_mode != mode]
  assert not odd


def test_start_of_the_clock(sets, index):
  entry = Knowledge().entry({'video_id': b'a.mp4', 'duration': 1.0, 'start': np.float32(2.5)}, 'test')
  assert (entry.start, entry.start_known) == (2.5, True)
  found = Catalog.open(IndexFolder.open(index)).entry(0)
  assert (found.start, found.start_known) == (0.0, False)


def test_prune_is_refused_without_films(sets):
  found = sorting.Sorted({}, {}, {}, (), ('a',), (), 0, frozenset())
  with pytest.raises(ValueError, match='is its disk there'):
    opened(sets, 'one').check_prune(found, Knowledge(pathlib.Path('nowhere')))


@pytest.mark.parametrize('between', [None, 'remove', 'compact'])
def test_what_an_earlier_version_removed_stays_removed(sets, index, between):
  """It marked videos in the segments, and remembered nothing else."""
  building.remove(index, lambda entry: entry.video_id in ('v002.mp4', 'v003.mp4'))
  building.add(index, opened(sets, 'one'), again=True)
  building.remove(index, lambda entry: entry.video_id == 'v003.mp4')
  manifest = json.loads((index / 'manifest.json').read_text())
  del manifest['forgotten']
  (index / 'manifest.json').write_text(json.dumps(manifest))
  if between == 'remove':
    building.remove(index, lambda entry: entry.video_id == 'v004.mp4')
  if between == 'compact':
    building.compact(index)
  gone = ['v003.mp4', *(['v004.mp4'] if between == 'remove' else [])]
  done = building.add(index, opened(sets, 'one'))
  assert (done.added, done.forgotten) == (0, gone)
  assert building.add(index, opened(sets, 'one'), again=True).added == len(gone)


def test_what_was_said_of_a_video_outlives_its_update(sets, tmp_path):
  index, films, said = tmp_path / 'index', tmp_path / 'films', tmp_path / 'said.jsonl'
  films.mkdir()
  (films / 'v001.mp4').write_bytes(b'')
  said.write_text(json.dumps({'video': 'v001.mp4', 'title': 'One', 'year': 1}))
  building.build(index, opened(sets, 'one'), None, IndexSettings(clip=str(sets[1])), Knowledge.read(films, said))
  said.unlink()
  manifest = json.loads((index / 'manifest.json').read_text())
  del manifest['settings']['videos']  # As in an index that did not remember it.
  (index / 'manifest.json').write_text(json.dumps(manifest))
  assert building.add(index, opened(sets, 'two'), update=True).updated == ['v001.mp4']
  one = Gallery.open(index).videos['v001.mp4']
  assert (one.title, one.metadata, one.path) == ('One', {'year': 1}, str(films / 'v001.mp4'))


def test_a_title_that_is_taken_back_is_a_change(sets, tmp_path):
  index, said = tmp_path / 'index', tmp_path / 'said.jsonl'
  said.write_text(json.dumps({'video': 'v001.mp4', 'title': 'One', 'year': 1}))
  building.build(index, opened(sets, 'one'), None, IndexSettings(clip=str(sets[1])), Knowledge.read(None, said))
  said.write_text(json.dumps({'video': 'v001.mp4', 'year': 1}))
  assert building.add(index, opened(sets, 'one')).changed == ['v001.mp4']
  assert building.add(index, opened(sets, 'one'), update=True).updated == ['v001.mp4']
  assert Gallery.open(index).videos['v001.mp4'].title == 'v001'
  assert building.add(index, opened(sets, 'one')).changed == []
