"""What is known of videos, from a file of metadata and from records."""

import json

import numpy as np
import pytest

from dlkd_jax.gallery import collection
from dlkd_jax.gallery.collection import Collection, Knowledge


def write(path, *lines):
  path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))
  return path


def test_knowledge(tmp_path):
  said = write(
    tmp_path / 'said.jsonl',
    {'video': 'a/lake.mp4', 'title': 'At the lake', 'year': 2021, 'tags': ['dog', 'water']},
    '',
    {'video': 'tram.webm', 'public': False},
  )
  (tmp_path / 'films').mkdir()
  known = Knowledge.read(str(tmp_path / 'films'), str(said))
  lake = known.entry({'video_id': b'a/lake.mp4', 'duration': np.float32(3.5)}, 'test')
  assert (lake.video_id, lake.title, lake.duration, lake.split) == ('a/lake.mp4', 'At the lake', 3.5, 'test')
  assert lake.path == str(tmp_path / 'films' / 'a' / 'lake.mp4')
  assert lake.metadata == {'year': 2021, 'tags': ['dog', 'water']}
  other = Knowledge().entry({'video_id': 'more/TRAM.WEBM', 'duration': np.float32(np.nan)}, 'gallery')
  assert (other.title, other.path, other.duration, other.metadata) == ('more/TRAM', None, None, {})
  assert Knowledge().entry({'video_id': 'v_1', 'duration': 1.0}, '').title == 'v_1'


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"video"', r'line 2: not JSON .*expected one object'),
    ('[1]', r'line 2: .*expected an object'),
    ({'title': 'no video'}, r'line 2: .*expected an object'),
    ({'video': 'a'}, "line 2: 'a' is described a second time"),
    ({'video': 'b', 'deep': {'x': 1}}, "line 2: 'deep' is"),
    ({'video': 'b', 'none': None}, "line 2: 'none' is None"),
  ],
)
def test_bad_metadata(tmp_path, line, message):
  with pytest.raises(ValueError, match=message):
    collection.read_metadata(write(tmp_path / 'said.jsonl', {'video': 'a'}, line))


def test_absent_files(tmp_path):
  with pytest.raises(FileNotFoundError, match='--videos'):
    Knowledge.read(str(tmp_path / 'films'), None)
  with pytest.raises(FileNotFoundError):
    Knowledge.read(None, str(tmp_path / 'said.jsonl'))


def test_captions_with_and_without_moments():
  record = {'video_id': b'a', 'caption_ids': [b'a#0', b'a#1'], 'captions': [b'x', b'y']}
  record['moments'] = np.array([[1, 2.5], [np.nan, np.nan]], np.float32)
  one, other = collection.captions_of(record)
  assert (one.caption_id, one.text, one.start, one.end) == ('a#0', 'x', 1.0, 2.5)
  assert (other.start, other.end) == (None, None)


def test_splits(world):
  whole = Collection.open(str(world.data), 'custom_prvr')
  assert len(whole) == 16 and whole.counts == {'test': 12, 'gallery': 4} and len(list(whole.records())) == 16
  assert whole.features()['student'] == 'fake:1' and whole.features()['Dt'] == 10
  with pytest.raises(ValueError, match=r"no videos in \['train'\]; its splits are gallery \(4\), test \(12\)"):
    Collection.open(str(world.data), 'custom_prvr', ['train'])


def test_metadata_with_marks_and_separators_of_other_systems(tmp_path):
  path = tmp_path / 'said.jsonl'
  path.write_bytes('\ufeff{"video": "a", "title": "x\u2028y\x85z"}\r\n\r\n{"video": "b"}\r\n'.encode())
  assert collection.read_metadata(path) == {'a': {'title': 'x\u2028y\x85z'}, 'b': {}}
  path.write_bytes(b'{"video": "a"}\n{"video": "caf\xe9"}')
  with pytest.raises(ValueError, match='line 2: byte 29 is 0xe9'):
    collection.read_metadata(path)


def test_moments_that_cannot_be_are_unknown():
  record = {'video_id': 'a', 'caption_ids': ['a#0', 'a#1'], 'captions': ['x', 'y'], 'duration': 5.0}
  record['moments'] = np.array([[3, 1], [3, 100]], np.float32)
  first, second = collection.captions_of(record)
  assert (first.start, first.end, second.start, second.end) == (None, None, 3, 5)
