"""Queries from a file, and what is said where nothing is found."""

import pytest

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import queries
from dlkd_jax.gallery.gallery import Gallery

WISHES = {'top': 3, 'offset': 0, 'threshold': None, 'where': None}


def test_lines_and_objects():
  text = 'a dog\n\n  two cats \n{"text": "a tram", "id": 7}\n{"caption": "lake.mp4#0"}\n'
  assert queries.parse(text, 'f') == [
    ('text', 'a dog', None),
    ('text', 'two cats', None),
    ('text', 'a tram', 7),
    ('caption', 'lake.mp4#0', None),
  ]


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"text"', 'f, line 2: not JSON'),
    ('{"text": "a", "caption": "b"}', 'expected "text" or "caption"'),
    ('{"sentence": "a"}', r"line 2 has \['sentence'\]"),
    ('{"text": "a", "top": 3}', r"line 2 has \['top'\]"),
    ('{"text": 3}', 'expected "text" or "caption"'),
    ('{"text": " "}', 'f, line 2: "text" is empty'),
    ('{"text": "smile \\ud83d"}', r"f, line 2: holds half of a character \('\\ud83d'\)"),
    ('caf\udce9', r"f, line 2: holds half of a character, or bytes that are no UTF-8 text, at character 4 of 'caf"),
  ],
)
def test_bad_lines(line, message):
  with pytest.raises(ValueError, match=message):
    queries.parse('a dog\n' + line, 'f')


def test_lines_end_with_line_feeds_alone():
  text = '\u2028one\u2028two\x85\r\n{"text": "a\u2029b"}\r\n\r\n\x0cthree'
  assert [query[1] for query in queries.parse(text, 'f')] == ['one\u2028two', 'a\u2029b', 'three']


def test_files_of_other_editors(tmp_path):
  for content, expected in (
    ('\ufeffa dog\r\n', ['a dog']),
    ('\ufeff{"text": "a dog", "id": 7}\n', ['a dog']),
  ):
    assert [q[1] for q in queries.parse(files.decode(content.encode(), 'f'), 'f')] == expected
  with pytest.raises(UserError, match='f, line 2: byte 9 is 0xe9'):
    files.decode(b'a dog\ncaf\xe9\n', 'f')


def test_mixed_queries_keep_their_order(world):
  gallery = Gallery.open(world.index)
  asked = queries.parse('{"caption": "v003.mp4#1"}\na red square\n{"caption": "v001.mp4#0"}', 'f')
  found = queries.search(gallery, asked, WISHES)
  assert [result.query for result in found] == ['3 moves left', 'a red square', 'a red square 1']


def test_why_nothing_was_found(world):
  gallery = Gallery.open(world.index)
  query = ('text', 'a red square', None)

  def said(**more):
    wishes = {**WISHES, **more}
    (result,) = queries.search(gallery, [query], wishes)
    return queries.describe(gallery, result, query, wishes)

  assert 'with a score of 9 or more; the best has' in said(threshold=9.0)
  assert said(where=['split=train', 'year>3']).endswith('nothing found: no video passes split=train and year>3')
  assert said(threshold=9.0, where=['split=train']).endswith('no video passes split=train')
  assert said(offset=50).endswith('from --offset=50 on: the ranking has 16 videos')
  assert 'v0' in said()
