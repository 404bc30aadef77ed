"""Text for people: times, aligned tables, accounts."""

from dlkd_jax.gallery import index_text
from dlkd_jax.gallery.building import Addition


def test_clock():
  seconds = [0, 59.99, 60, 3599.9, 3600, 7325]
  assert [index_text.clock(s) for s in seconds] == ['0:00', '0:59', '1:00', '59:59', '1:00:00', '2:02:05']


def test_account_of_an_addition():
  done = Addition(added=3, there=2, captions=4, without_file=list('abcdefg'), not_described=[])
  lines = index_text.describe_addition(done, 'index').splitlines()
  assert lines[0] == '3 videos with 4 captions added to index; 2 were there already'
  assert lines[1] == '7 videos have no file where --videos says: a, b, c, d, e, …'
  assert index_text.describe_addition(Addition(1, 0, 0, None, []), 'i').count('\n') == 0
