"""Results say everything as JSON, whatever numpy types their numbers have."""

import json

import numpy as np

from dlkd_jax.gallery.results import Hit, Moment, SearchResult


def test_json():
  hit = Hit(
    'a.mp4',
    np.float32(0.5),
    {'teacher': np.float32(0.5)},
    (Moment(0.0, 2.5, 1.0, np.float32(0.5)),),
    np.arange(3, dtype=np.float32),
    np.array([0.1, 0.5, 0.2], np.float32),
    'A',
    metadata={'year': 2020, 'tags': ['lake', 'dog'], 'public': True, 'size': float('nan'), 'n': np.int64(3)},
  )
  content = json.loads(json.dumps(SearchResult('a dog', (hit,), 1, 0.25).to_json(curve=True)))
  (found,) = content['hits']
  assert content['total'] == 1 and content['seconds'] == 0.25
  assert found['moments'] == [{'start': 0.0, 'end': 2.5, 'peak': 1.0, 'score': 0.5}]
  assert found['times'] == [0, 1, 2] and found['curve'] == [0.1, 0.5, 0.2]
  assert found['path'] is None and found['id'] == found['video_id'] == 'a.mp4'
  assert (found['start'], found['end']) == (0.0, 2.5)
  assert found['metadata'] == {'year': 2020, 'tags': ['lake', 'dog'], 'public': True, 'size': None, 'n': 3}
  assert 'curve' not in hit.to_json()
