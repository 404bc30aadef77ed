"""Queries from a file, and what is said where nothing is found."""

import pytest

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
    ('{"text"', 'f, line 2 is not JSON'),
    ('{"text": "a", "caption": "b"}', 'expected "text" or "caption"'),
    ('{"sentence": "a"}', r"line 2 has \['sentence'\]"),
    ('{"text": "a", "top": 3}', r"line 2 has \['top'\]"),
    ('{"text": 3}', 'expected "text" or "caption"'),
  ],
)
def test_bad_lines(line, message):
  with pytest.raises(ValueError, match=message):
    queries.parse('a dog\n' + line, 'f')


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
