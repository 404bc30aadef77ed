"""Text for people: times, aligned tables, accounts."""

import numpy as np

from dlkd_jax.gallery import account
from dlkd_jax.gallery.building import Account
from dlkd_jax.gallery.results import Hit, Moment, SearchResult


def hit(video, score, moments, duration=100.0, title=None):
  scores = {'inheritance': score, 'teacher': score / 2}
  times = np.arange(3.0)
  return Hit(video, score, scores, moments, times, times, title or video.removesuffix('.mp4'), None, duration)


def test_clock():
  seconds = [0, 59.99, 60, 3599.9, 3600, 7325]
  assert [account.clock(s) for s in seconds] == ['0:00', '0:59', '1:00', '59:59', '1:00:00', '2:02:05']


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
  lines = account.describe_result(result, offset=9).splitlines()
  assert lines[0] == '“a dog”: 1,234 videos, 0.01 s'
  assert lines[1].split() == ['rank', 'score', 'video', 'moment', 'inheritance', 'teacher']
  assert lines[2] == '  10  0.812  lake.mp4       1:02\u20131:15, 0:03\u20130:04        0.812    0.406'
  assert lines[3] == '  11  0.500  city/tram.mp4  frame 3\u20137                   0.500    0.250'
  titled = SearchResult('a dog', (hit('x7.mp4', 0.5, (Moment(3.0, 7.0, 5.0, 0.5),), title='At the lake'),), 1, 0.0)
  assert 'x7.mp4  At the lake  0:03' in account.describe_result(titled) and '1 video,' in account.describe_result(
    titled
  )
  assert account.describe_result(SearchResult('a dog', (), 0, 0.0)) == '“a dog”: nothing found'


def test_account_of_an_addition():
  done = Account(added=3, there=2, captions=4, without_file=list('abcdefg'), not_described=[])
  lines = account.describe_account(done, 'index').splitlines()
  assert lines[0] == '3 videos with 4 captions added to index; 2 were there already'
  assert lines[1] == '7 videos have no file where --videos says: a, b, c, d, e, …'
  assert account.describe_account(Account(1, 0, 0, None, []), 'i').count('\n') == 0
