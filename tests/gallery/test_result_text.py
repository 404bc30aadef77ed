"""Results as text."""

import numpy as np

from dlkd_jax.gallery import result_text
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.queries import Query
from dlkd_jax.gallery.results import Hit, Moment, SearchResult

WISHES = {'top': 3, 'offset': 0, 'threshold': None, 'where': None}


def hit(video, score, moments, duration=100.0, title=None):
  scores = {'inheritance': score, 'teacher': score / 2}
  times = np.arange(3.0)
  return Hit(video, score, scores, moments, times, times, title or video.removesuffix('.mp4'), None, duration)


def test_table_of_hits():
  result = SearchResult(
    'a dog',
    (
      hit('lake.mp4', 0.8125, (Moment(62.0, 75.5, 70.0, 0.8), Moment(3.0, 4.0, 3.5, 0.7))),
      hit('city/tram.mp4', 0.5, (Moment(3.0, 7.0, 5.0, 0.5),), duration=None),
    ),
    1234,
    0.0123,
  )
  lines = result_text.describe_result(result, offset=9).splitlines()
  assert lines[0] == '“a dog”: 1,234 videos, 0.01 s'
  assert lines[1].split() == ['rank', 'score', 'video', 'moment', 'inheritance', 'teacher']
  assert lines[2] == '  10  0.812  lake.mp4       1:02\u20131:15, 0:03\u20130:04        0.812    0.406'
  assert lines[3] == '  11  0.500  city/tram.mp4  frame 3\u20137                   0.500    0.250'
  titled = SearchResult('a dog', (hit('x7.mp4', 0.5, (Moment(3.0, 7.0, 5.0, 0.5),), title='At the lake'),), 1, 0.0)
  assert 'x7.mp4  At the lake  0:03' in result_text.describe_result(
    titled
  ) and '1 video,' in result_text.describe_result(titled)
  assert result_text.describe_result(SearchResult('a dog', (), 0, 0.0)) == '“a dog”: nothing found'


def test_why_nothing_was_found(world):
  gallery = Gallery.open(world.index)
  query = Query('a red square')

  def said(**more):
    options = {**WISHES, **more}
    (result,) = gallery.search([query], **options)
    return result_text.describe(gallery, result, query, options)

  assert 'with a score of 9 or more; the best has' in said(threshold=9.0)
  assert said(where=['split=train', 'year>3']).endswith('nothing found: no video passes split=train and year>3')
  assert said(threshold=9.0, where=['split=train']).endswith('no video passes split=train')
  assert said(offset=50).endswith('from --offset=50 on: the ranking has 16 videos')
  assert 'v0' in said()
