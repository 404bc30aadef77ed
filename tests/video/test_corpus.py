"""Videos and captions joined: names, splits, moments, and what is refused."""

from __future__ import annotations

import json
import math
import pathlib

import pytest

from dlkd_jax.video import corpus


def _folder(tmp_path: pathlib.Path, *names: str) -> pathlib.Path:
  for name in names:
    path = tmp_path / 'films' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
  return tmp_path / 'films'


def _captions(tmp_path: pathlib.Path, *lines) -> pathlib.Path:
  path = tmp_path / 'captions.jsonl'
  path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))
  return path


def test_names_may_be_short(tmp_path):
  folder = _folder(tmp_path, 'a.mp4', 'x/b.mkv', 'x/y/c.webm', 'notes.txt', 'raw/film')
  said = [{'video': name, 'text': name} for name in ('a', 'b.mkv', 'y/c', 'raw/film', 'absent')]
  found = corpus.find(folder, _captions(tmp_path, *said))
  assert [(job.video, [each.text for each in job.captions]) for job in found.jobs] == [
    ('a.mp4', ['a']),
    ('raw/film', ['raw/film']),  # No video by its name, but a caption says so.
    ('x/b.mkv', ['b.mkv']),
    ('x/y/c.webm', ['y/c']),
  ]
  assert found.skipped == ('notes.txt',) and found.missing == {'absent': 1}


def test_what_lies_beside_a_film_under_its_name_is_not_meant(tmp_path):
  folder = _folder(tmp_path, 'a.mp4', 'a.srt', 'A.jpg', 'x/b.MKV', 'x/b.nfo', 'c.mp4', 'c.webm')
  found = corpus.find(folder, _captions(tmp_path, {'video': 'a', 'text': 'one'}, {'video': 'b', 'text': 'two'}))
  assert {job.video: len(job.captions) for job in found.jobs} == {'a.mp4': 1, 'x/b.MKV': 1, 'c.mp4': 0, 'c.webm': 0}
  with pytest.raises(ValueError, match=r"'c' may be \['c.mp4', 'c.webm'\]"):
    corpus.find(folder, _captions(tmp_path, {'video': 'c', 'text': 'one'}))


@pytest.mark.parametrize('split', [0, False, [], {}])
def test_what_is_no_split_is_refused(split, tmp_path):
  folder = _folder(tmp_path, 'a.mp4')
  with pytest.raises(ValueError, match='split is'):
    corpus.find(folder, _captions(tmp_path, {'video': 'a', 'text': 'one', 'split': split}))


def test_splits_and_moments(tmp_path):
  folder = _folder(tmp_path, 'a.mp4', 'b.mp4', 'c.mp4')
  lines = [
    {'video': 'a.mp4', 'text': ' one ', 'start': 1, 'end': 2.5, 'split': 'train', 'annotator': 7},
    '',
    {'video': 'a.mp4', 'text': 'two', 'split': 'train'},
    {'video': 'b.mp4', 'text': 'three', 'start': None},
  ]
  first, second, third = corpus.find(folder, _captions(tmp_path, *lines)).jobs
  assert (first.split, second.split, third.split) == ('train', 'test', 'gallery')
  assert first.captions[0] == corpus.Caption('one', 1.0, 2.5) and math.isnan(first.captions[1].start)
  assert first.caption_ids() == ['a.mp4#0', 'a.mp4#1'] and third.captions == ()


def test_the_digest_follows_file_captions_and_split(tmp_path):
  folder = _folder(tmp_path, 'a.mp4')

  def digest(*lines):
    return corpus.find(folder, _captions(tmp_path, *lines)).jobs[0].digest()

  line = {'video': 'a.mp4', 'text': 'one'}
  before = digest(line)
  assert before == digest(line | {'split': 'test'})
  others = [digest(line | changed) for changed in ({'text': 'two'}, {'split': 'val'}, {'start': 0, 'end': 1})]
  (folder / 'a.mp4').write_bytes(b'changed')
  assert len({before, digest(line), *others}) == 5


@pytest.mark.parametrize(
  'line, message',
  [
    ('{"video": ', 'line 2: not JSON'),
    ('["a.mp4"]', 'line 2: expected an object'),
    ({'text': 'x'}, "line 2: 'video' is None"),
    ({'video': 'a.mp4', 'text': ' '}, "'text' is ' '"),
    ({'video': 'a.mp4', 'text': 'x', 'split': 'dev'}, "split is 'dev'"),
    ({'video': 'a.mp4', 'text': 'x', 'split': 'val'}, "in split 'test' and 'val'"),
    ({'video': 'a.mp4', 'text': 'x', 'start': 3}, 'give both'),
    ({'video': 'a.mp4', 'text': 'x', 'start': None, 'end': 2}, 'give both'),
    ({'video': 'a.mp4', 'text': 'x', 'start': True, 'end': 2}, "'start' is True; expected seconds"),
    ({'video': 'a.mp4', 'text': 'x', 'start': [1], 'end': 2}, 'expected seconds'),
    ({'video': 'a.mp4', 'text': 'cut \ud83d'}, 'line 2: holds half of a character'),
    ({'video': 'a.mp4', 'text': 'x', 'start': '3', 'end': 4}, "'start' is '3'; expected seconds"),
    ({'video': 'b', 'text': 'x'}, 'may be .*b.mp4.*b.mkv'),
    ({'video': 'a', 'text': 'x'}, 'named in two ways'),
  ],
)
def test_bad_captions_are_refused_by_line(line, message, tmp_path):
  folder = _folder(tmp_path, 'a.mp4', 'b.mp4', 'x/b.mkv')
  with pytest.raises(ValueError, match=message):
    corpus.find(folder, _captions(tmp_path, {'video': 'a.mp4', 'text': 'good'}, line))


def test_nothing_to_do_is_refused(tmp_path):
  folder = _folder(tmp_path, 'notes.txt')
  with pytest.raises(ValueError, match='holds no videos'):
    corpus.find(folder, None)
  with pytest.raises(ValueError, match='holds no captions'):
    corpus.find(folder, _captions(tmp_path, ''))
