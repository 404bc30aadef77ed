"""What the page is told of a result."""

import json

import numpy as np
import pytest

from dlkd_jax.gallery.results import Hit, Moment, SearchResult
from dlkd_jax.page import answers
from dlkd_jax.page.files import VideoFiles
from tests.page.memory_gallery import Video


@pytest.mark.parametrize('frames', [1, 2, 9, 10, 11, 137, 4000])
def test_thin_curve_keeps_ends_and_peaks(frames):
  random = np.random.default_rng(frames)
  times, curve = np.arange(frames) / 3, random.normal(size=frames)
  thin_times, thin = answers.thin_curve(times, curve, 10)
  assert len(thin) == min(frames, 10) and (np.diff(thin_times) > 0).all()
  assert thin_times[0] == times[0] and thin_times[-1] == times[-1]
  assert thin.max() == curve.max() and thin_times[np.argmax(thin)] == times[np.argmax(curve)]
  assert set(thin) <= set(curve)


def test_result_json():
  videos = {
    'a b/c&d.mp4': Video('a b/c&d.mp4', 'C', '/secret/place/a b/c&d.mp4', 9.0),
    'x': Video('x', '', None, None),
  }
  moments = (Moment(1.0, 2.5, 2.0, 0.75), Moment(5.0, 6.0, 5.5, 0.5))
  times, curve = np.arange(9, dtype=np.float32), np.linspace(0, 0.75, 9, dtype=np.float32)
  hits = (
    Hit('a b/c&d.mp4', np.float32(0.75), {'teacher': np.float32(0.75)}, moments, times, curve, 'C', '/secret', 9.0),
    Hit(
      'x',
      0.5,
      {'teacher': 0.5},
      moments[:1],
      times,
      curve,
      '',
      None,
      None,
      {'year': 2001, 'tags': ['lake', 'dog'], 'seen': True},
    ),
  )
  content = answers.result_json(SearchResult('q', hits, np.int64(7), 0.0123, ('a note',)), VideoFiles(videos), 2, 5)
  assert json.loads(json.dumps(content)) == content and 'secret' not in json.dumps(content)
  first, second = content['hits']
  assert (content['total'], content['offset'], content['seconds'], content['notes']) == (7, 2, 0.0123, ['a note'])
  assert first['video_id'] == 'a b/c&d.mp4' and first['video'] == 'video?id=a+b%2Fc%26d.mp4'
  assert first['moments'][0] == {
    'start': 1.0,
    'end': 2.5,
    'peak': 2.0,
    'score': 0.75,
    'thumbnail': 'thumbnail?id=a+b%2Fc%26d.mp4&at=2.00',
  }
  assert len(first['times']) == len(first['curve']) == 5
  assert second['title'] == 'x' and second['video'] is None and second['moments'][0]['thumbnail'] is None
  assert second['duration'] is None and second['metadata'] == {'year': 2001, 'tags': ['lake', 'dog'], 'seen': True}


def test_a_hit_is_told_as_the_gallery_tells_it():
  """But for where its file lies, and with addresses."""
  moments, curve = (Moment(1.0, 2.5, 2.0, 0.75),), np.linspace(0, 1, 4, dtype=np.float32)
  metadata = {'tags': ['lake', 'dog'], 'seen': False, 'year': 2001, 'rate': float('nan'), 'none': None}
  hit = Hit('a', 0.5, {'teacher': 0.5}, moments, np.arange(4.0), curve, 'A', '/secret/a.mp4', 3.0, metadata)
  result = SearchResult('q', (hit,), None, 0.5)
  content = answers.result_json(result, VideoFiles({'a': Video('a', 'A', '/secret/a.mp4', 3.0)}), 0, 100)
  assert content['total'] is None
  (told,) = content['hits']
  expected = hit.to_json(curve=True)
  assert expected.pop('path') == '/secret/a.mp4' and expected['metadata']['rate'] is None
  assert told.pop('video') == 'video?id=a' and told['moments'][0].pop('thumbnail') == 'thumbnail?id=a&at=2.00'
  assert told == expected
  assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_names_that_are_no_text_have_addresses():
  assert answers.video_url('caf\udce9.mp4') == 'video?id=caf%E9.mp4'
  assert answers.thumbnail_url('caf\udce9.mp4', 1) == 'thumbnail?id=caf%E9.mp4&at=1.00'
