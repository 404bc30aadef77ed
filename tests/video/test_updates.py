"""A collection that changes: films and captions that are corrected, moved, half copied, or gone."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import resource
import shutil
import time

import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.errors import UserError
from dlkd_jax.video import decoding, extraction, reading, work_folder
from tests.video import films
from tfds_builders import base_builder


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
  folder = tmp_path_factory.mktemp('films')
  films.render(folder / 'a.mp4', films.steady(40))
  films.render(folder / 'b.mkv', films.steady(30))
  films.render(folder / 'c.webm', films.steady(20, 10))
  films.render(folder / 'other.mp4', films.steady(80))
  return folder


class Collection:
  """A folder of films, a file of captions, and a data set; films were written long ago."""

  def __init__(self, folder: pathlib.Path, rendered: pathlib.Path):
    self.films, self.data, self.rendered = folder / 'films', folder / 'data', rendered
    self.films.mkdir()
    self.captions = folder / 'captions.jsonl'
    for name in ('a.mp4', 'b.mkv', 'c.webm'):
      self.put(name)
    self.said = [{'video': 'a.mp4', 'text': 'one', 'split': 'train'}, {'video': 'b.mkv', 'text': 'two'}]

  def put(self, name: str, content: bytes | None = None, age: float = 3600):
    path = self.films / name
    path.write_bytes((self.rendered / name).read_bytes() if content is None else content)
    os.utime(path, (time.time() - age,) * 2)

  def extract(self, **changed):
    self.captions.write_text('\n'.join(map(json.dumps, self.said)))
    request = extraction.Request(self.films, self.data, self.captions, rate=2, readers=1, **changed)
    self.result = extraction.extract(request)
    return {each.video: each.status for each in self.result.outcomes.files}

  def reason(self, video: str) -> str:
    return next(each.reason for each in self.result.outcomes.files if each.video == video)

  def records(self, version: str | None = None):
    name = f'custom_prvr/{version}' if version else 'custom_prvr'
    found = {}
    for split in sources.split_names(self.data, name):
      source = sources.open_source(self.data, name, split)
      found |= {(split, sources.text(record['video_id'])): record for record in (source[i] for i in range(len(source)))}
    return found

  def versions(self):
    return sorted(path.name for path in (self.data / 'custom_prvr').glob('[0-9]*'))


@pytest.fixture
def collection(tmp_path, rendered):
  return Collection(tmp_path, rendered)


@pytest.fixture
def decoded(monkeypatch):
  """Names of the films that are decoded."""
  names, real = [], decoding.sample_views

  def sample_views(path, *more):
    names.append(pathlib.Path(path).name)
    return real(path, *more)

  monkeypatch.setattr(decoding, 'sample_views', sample_views)
  return names


def test_one_changed_film_does_not_block_the_rest(collection, decoded):
  collection.extract()
  before = collection.records()
  collection.put('a.mp4', (collection.rendered / 'other.mp4').read_bytes())
  collection.put('other.mp4')
  decoded.clear()
  status = collection.extract()
  assert status == {'a.mp4': 'changed', 'b.mkv': 'kept', 'c.webm': 'kept', 'other.mp4': 'extracted'}
  assert decoded == ['other.mp4'] and '--update' in str(collection.result.outcomes)
  after = collection.records()
  np.testing.assert_array_equal(after['train', 'a.mp4']['times'], before['train', 'a.mp4']['times'])
  status = collection.extract(update=True)
  assert status == {'a.mp4': 'updated', 'b.mkv': 'kept', 'c.webm': 'kept', 'other.mp4': 'kept'}
  assert decoded == ['other.mp4', 'a.mp4'] and collection.versions() == ['1.0.0', '1.0.1', '1.0.2']
  after = collection.records()
  assert (len(before['train', 'a.mp4']['times']), len(after['train', 'a.mp4']['times'])) == (4, 7)
  assert after.keys() == before.keys() | {('gallery', 'other.mp4')}
  # Versions that were there before are as they were, and nothing more is to be done.
  np.testing.assert_array_equal(
    collection.records('1.0.0')['train', 'a.mp4']['times'], before['train', 'a.mp4']['times']
  )
  assert set(collection.extract(update=True).values()) == {'kept'} and len(collection.versions()) == 3


def test_a_corrected_caption_does_not_decode_the_film_again(collection, decoded):
  collection.extract()
  before = collection.records()
  collection.said[0]['text'] = 'one, corrected'
  decoded.clear()
  assert collection.extract()['a.mp4'] == 'changed' and 'captions' in collection.reason('a.mp4')
  assert collection.versions() == ['1.0.0']
  assert collection.extract(update=True)['a.mp4'] == 'updated'
  assert not decoded and collection.versions() == ['1.0.0', '1.0.1']
  after = collection.records()
  assert sources.texts(after['train', 'a.mp4']['captions']) == ['one, corrected']
  assert after['train', 'a.mp4']['token_lengths'].tolist() == [2]
  np.testing.assert_array_equal(after['train', 'a.mp4']['student_frames'], before['train', 'a.mp4']['student_frames'])
  assert sources.texts(collection.records('1.0.0')['train', 'a.mp4']['captions']) == ['one']


def test_a_video_moves_to_another_split(collection, decoded):
  collection.extract()
  collection.said[0]['split'] = 'val'
  collection.said.append({'video': 'c.webm', 'text': 'three', 'start': 0.5, 'end': 1.0})
  decoded.clear()
  assert collection.extract(update=True) == {'a.mp4': 'updated', 'b.mkv': 'kept', 'c.webm': 'updated'}
  assert not decoded
  assert set(collection.records()) == {('val', 'a.mp4'), ('test', 'b.mkv'), ('test', 'c.webm')}
  assert set(collection.records('1.0.0')) == {('train', 'a.mp4'), ('test', 'b.mkv'), ('gallery', 'c.webm')}


def test_features_that_are_gone_are_made_again(collection, decoded):
  collection.extract()
  shutil.rmtree(collection.data / 'custom_prvr_extracted')
  collection.said[0]['text'] = 'one, corrected'
  decoded.clear()
  assert collection.extract(update=True)['a.mp4'] == 'updated'
  assert decoded == ['a.mp4']


def test_an_update_that_was_stopped_goes_on(collection, decoded, monkeypatch):
  collection.extract()
  collection.put('a.mp4', (collection.rendered / 'other.mp4').read_bytes())
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(extraction, '_pack', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    collection.extract(update=True)
  decoded.clear()
  assert collection.extract()['a.mp4'] == 'changed' and collection.versions() == ['1.0.0']
  # Undone: what the stopped run made is not taken.
  content = (collection.films / 'a.mp4').read_bytes()
  collection.put('a.mp4')
  collection.said[1]['text'] = 'two, corrected'
  assert collection.extract(update=True) == {'a.mp4': 'kept', 'b.mkv': 'updated', 'c.webm': 'kept'}
  assert len(collection.records()['train', 'a.mp4']['times']) == 4 and not decoded
  collection.put('a.mp4', content)
  assert collection.extract(update=True)['a.mp4'] == 'updated' and not decoded
  assert len(collection.records()['train', 'a.mp4']['times']) == 7


def test_an_update_that_fails_leaves_the_record(collection):
  collection.extract()
  collection.put('a.mp4', b'no film at all')
  assert collection.extract(update=True)['a.mp4'] == 'failed'
  assert ('train', 'a.mp4') in collection.records() and collection.versions() == ['1.0.0']


def test_what_vanished_is_named_and_kept(collection):
  collection.extract()
  (collection.films / 'b.mkv').unlink()
  status = collection.extract(update=True)
  assert status['b.mkv'] == 'missing' or status['b.mkv'] == 'vanished'
  assert {each.status for each in collection.result.outcomes.files if each.video == 'b.mkv'} == {
    'vanished',
    'missing',
  }
  assert ('test', 'b.mkv') in collection.records()


def test_a_set_of_before_is_gone_on_with(collection, monkeypatch):
  """Digests had one part, work files no check sum."""
  collection.extract()
  packed = collection.data / 'custom_prvr' / '1.0.0' / 'videos.json'
  old = {video: digest.partition(':')[0] for video, digest in json.loads(packed.read_text()).items()}
  packed.write_text(json.dumps(old))
  folder = work_folder.WorkFolder(collection.data / 'custom_prvr_extracted')
  for video in old:
    folder.file(video).unlink()
  assert set(collection.extract().values()) == {'kept'}
  collection.said[0]['text'] = 'other'
  assert collection.extract() == {'a.mp4': 'changed', 'b.mkv': 'kept', 'c.webm': 'kept'}


def test_a_film_that_is_still_copied_waits(collection, monkeypatch):
  monkeypatch.setattr(reading, 'GLANCE_SECONDS', 0.01)
  whole = (collection.rendered / 'other.mp4').read_bytes()
  collection.put('other.mp4', whole[: len(whole) // 2], age=1)
  collection.put('empty.mp4', b'', age=1)
  status = collection.extract()
  assert status['other.mp4'] == status['empty.mp4'] == 'waiting' and status['a.mp4'] == 'extracted'
  assert 'other.mp4' in str(collection.result.outcomes) and ' s after' in collection.reason('other.mp4')
  assert ('gallery', 'other.mp4') not in collection.records()
  # Half a minute later it is whole, or it stayed as it is.
  collection.put('other.mp4', whole, age=1)
  collection.put('empty.mp4', b'')
  status = collection.extract()
  assert status['other.mp4'] == 'extracted' and status['empty.mp4'] == 'failed'
  assert len(collection.records()['gallery', 'other.mp4']['times']) == 7


def test_a_film_that_grows_between_two_looks_waits(collection, monkeypatch):
  whole = (collection.rendered / 'other.mp4').read_bytes()
  collection.put('other.mp4', whole, age=1)
  monkeypatch.setattr(reading.time, 'sleep', lambda _: (collection.films / 'other.mp4').open('ab').write(b'more'))
  assert collection.extract()['other.mp4'] == 'waiting'
  assert 'is being written to' in collection.reason('other.mp4')


@pytest.mark.parametrize('age', [1, 3600])
def test_a_film_that_is_written_to_while_it_is_read_waits(age, collection, monkeypatch):
  monkeypatch.setattr(reading, 'GLANCE_SECONDS', 0.01)
  collection.put('other.mp4', age=age)
  real = decoding.sample_views

  def sample_views(path, *more):
    for frame in real(path, *more):
      if pathlib.Path(path).name == 'other.mp4':
        with pathlib.Path(path).open('ab') as file:
          file.write(b'more')
      yield frame

  monkeypatch.setattr(decoding, 'sample_views', sample_views)
  status = collection.extract()
  assert status['other.mp4'] == 'waiting' and status['a.mp4'] == 'extracted'
  assert ('gallery', 'other.mp4') not in collection.records()


def test_features_of_before_that_became_zeros_are_made_again(collection, decoded, monkeypatch):
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(extraction, '_pack', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    collection.extract()
  path = work_folder.WorkFolder(collection.data / 'custom_prvr_extracted').file('a.mp4')
  content = path.read_bytes()
  header = 8 + int.from_bytes(content[:8], 'little')
  path.write_bytes(content[:header] + bytes(len(content) - header))  # As after a power cut.
  decoded.clear()
  assert collection.extract() == {'a.mp4': 'extracted', 'b.mkv': 'kept', 'c.webm': 'kept'}
  assert decoded == ['a.mp4'] and np.any(collection.records()['train', 'a.mp4']['student_frames'])


def test_damage_to_features_of_a_packed_film_blocks_nothing(collection):
  collection.extract()
  path = work_folder.WorkFolder(collection.data / 'custom_prvr_extracted').file('a.mp4')
  path.write_bytes(bytes(100))
  collection.put('other.mp4')
  assert collection.extract()['other.mp4'] == 'extracted'
  assert collection.extract()['a.mp4'] == 'kept'


def test_impossible_moments_are_cut_or_unknown_and_named_once(collection):
  moments = [(3, 1), (0.5, 100), (50, 60), (-1, 1), (1, 1), (0.25, 1), (None, None), (float('inf'), 10**400)]
  collection.said = [
    {'video': 'a.mp4', 'text': f'caption {number}', 'start': start, 'end': end}
    for number, (start, end) in enumerate(moments)
  ]
  collection.extract()
  record = collection.records()['test', 'a.mp4']
  nan = [np.nan, np.nan]
  expected = [nan, [0.5, record['duration']], nan, nan, nan, [0.25, 1], nan, nan]
  np.testing.assert_allclose(record['moments'], np.array(expected, np.float32), rtol=1e-6)
  (note,) = collection.result.outcomes.notes
  assert note.startswith('6 annotated moments cannot be') and "'a.mp4#0' from 3 to 1 s" in note
  assert str(collection.result.outcomes).count('cannot be') == 1


def test_large_pictures_are_shrunk_unless_the_set_was_made_otherwise(collection):
  collection.extract(max_side=0)
  options = collection.result.builder.info.metadata['options']
  assert options['max_side'] is None
  collection.put('other.mp4')
  assert collection.extract()['other.mp4'] == 'extracted'  # As the others were.
  shutil.rmtree(collection.data)
  collection.extract()
  assert collection.result.builder.info.metadata['options']['max_side'] == extraction.MAX_SIDE
  with pytest.raises(ValueError, match='max_side: 1024 → 64'):
    collection.extract(max_side=64)


def test_two_extractions_at_once_are_refused(collection):
  with (
    base_builder.only_builder(collection.data / 'custom_prvr_extracted'),
    pytest.raises(ValueError, match='another process'),
  ):
    collection.extract()


def test_what_a_stopped_run_left_of_another_film_is_not_packed(collection, monkeypatch):
  collection.put('other.mp4')
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(extraction, '_pack', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    collection.extract()
  collection.put('a.mp4', b'no film at all')
  collection.put('other.mp4', (collection.rendered / 'other.mp4').read_bytes()[:5000], age=1)
  (collection.films / 'c.webm').unlink()
  status = collection.extract()
  assert status == {'a.mp4': 'failed', 'b.mkv': 'kept', 'c.webm': 'vanished', 'other.mp4': 'waiting'}
  # Of a film that has gone, what was made of it is not lost.
  assert collection.records().keys() == {('test', 'b.mkv'), ('gallery', 'c.webm')}


@contextlib.contextmanager
def largest_file(limit: int):
  """No file may grow beyond some bytes, as on a disk that is full."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_said_and_room_lets_it_go_on(collection):
  failed = 0
  collection.captions.write_text('\n'.join(map(json.dumps, collection.said)))
  for limit in [1 << power for power in range(5, 18)]:
    with largest_file(limit):
      try:
        extraction.extract(extraction.Request(collection.films, collection.data, collection.captions, rate=2))
      except OSError:
        failed += 1
        assert collection.versions() == []
        assert not list(collection.data.glob('**/*.tmp')) and not list(collection.data.glob('*/incomplete*'))
  assert failed >= 4 and collection.versions() == ['1.0.0']
  assert len(collection.records()) == 3


def test_features_that_may_not_be_read_are_not_removed(collection, monkeypatch):
  collection.extract()
  path = work_folder.WorkFolder(collection.data / 'custom_prvr_extracted').file('a.mp4')

  def safe_open(name, *more):
    raise FileNotFoundError(f'No such file or directory: {name}')  # What the library says of every error.

  monkeypatch.setattr(work_folder.parameter_files.safetensors, 'safe_open', safe_open)
  with pytest.raises(FileNotFoundError):
    collection.extract()
  assert path.exists()


def test_features_of_which_nothing_is_known_are_not_packed(collection, monkeypatch):
  folder = collection.data / 'custom_prvr_extracted'
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(extraction, '_pack', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    collection.extract()
  (folder / 'extraction.json').unlink()
  with pytest.raises(UserError, match=r'extraction\.json: absent.*remove .*videos'):
    collection.extract(max_side=64)
  shutil.rmtree(folder / 'videos')
  assert set(collection.extract(max_side=64).values()) == {'extracted'}


def test_another_type_than_the_set_has_is_refused_before_the_work(collection, decoded):
  collection.extract(dtype='float32')
  collection.put('other.mp4')
  decoded.clear()
  with pytest.raises(UserError, match='stored as float32, and float16 is asked for; add --dtype=float32'):
    collection.extract()
  assert not decoded
  assert collection.extract(dtype='float32')['other.mp4'] == 'extracted'
