"""Filters over what is known of videos."""

import pytest

from dlkd_jax.gallery import filters
from dlkd_jax.gallery.segments import Entry

ENTRIES = [
  Entry('a', 'At the lake', None, 12.5, 'test', {'year': 2019, 'tags': ['dog', 'Water'], 'public': True}),
  Entry('b', 'Tram', None, None, 'gallery', {'year': '2021', 'tags': 'tram'}),
  Entry('c', 'Nothing', None, 90.0, 'test', {'size': float('nan')}),
]


@pytest.mark.parametrize(
  ('conditions', 'expected'),
  [
    ([], 'abc'),
    (['split=test'], 'ac'),
    (['split!=test'], 'b'),
    (['year=2019'], 'a'),
    (['year=2019.0'], 'a'),
    (['year=2021'], 'b'),
    (['year!=2019'], 'bc'),
    (['year>2019'], 'b'),
    (['year>=2019'], 'ab'),
    (['year < 2021'], 'a'),
    (['duration<=12.5'], 'a'),
    (['tags=dog'], 'a'),
    (['tags~TER'], 'a'),
    (['tags~tr'], 'b'),
    (['public=true'], 'a'),
    (['public=1'], ''),
    (['title~the'], 'a'),
    (['size>0'], ''),
    (['absent=1'], ''),
    (['absent!=1'], 'abc'),
    (['split=test', 'duration>20'], 'c'),
    ('video_id=b', 'b'),
    ({'split': 'test', 'year': 2019}, 'a'),
    (lambda entry: entry.title == 'Tram', 'b'),
  ],
)
def test_conditions(conditions, expected):
  keep = filters.as_filter(conditions)
  assert ''.join(entry.video_id for entry in ENTRIES if keep(entry)) == expected


@pytest.mark.parametrize(
  ('condition', 'message'), [('year', 'not understood'), ('=3', 'not understood'), ('year>new', 'a number')]
)
def test_bad_conditions(condition, message):
  with pytest.raises(ValueError, match=message):
    filters.parse([condition])


def test_none_is_no_filter():
  assert filters.as_filter(None) is None
