"""Best and worst queries against plain loops."""

import numpy as np

from dlkd_jax.reporting import examples
from tests.reporting import worlds


def test_margins():
  scores = np.array([[0.5, 0.2, 0.4], [0.1, 0.9, 0.95]], np.float32)
  np.testing.assert_allclose(examples.margins(scores, np.array([0, 1])), [0.1, -0.05], rtol=1e-5)


def test_choice():
  data = worlds.split(captions=200, videos=30)
  chosen = examples.choose(data, 'fused', 5)
  ranks, margin = data.ranks['fused'], examples.margins(data.scores['fused'], data.own)
  assert margin[chosen['best'][0]] == margin.max() and ranks[chosen['worst'][0]] == ranks.max()
  assert all(ranks[row] == 1 for row in chosen['best']) and (np.diff(ranks[chosen['worst']]) <= 0).all()
  for rows in chosen.values():
    assert len(set(data.own[rows].tolist())) == 5


def test_what_is_shown():
  data = worlds.split()
  chosen = examples.choose(data, 'fused', 2)
  pairs = examples.pairs_of(data, 'fused', chosen)
  found = examples.describe(data, 'fused', chosen, worlds.curves(data, pairs))
  for example, row in zip(found, [*chosen['best'], *chosen['worst']], strict=True):
    assert example.own.video_id == data.video_ids[data.own[row]] and example.text == data.texts[row]
    assert (example.first is None) == (example.kind == 'best') == (example.ranks['fused'] == 1)
    if example.first is not None:
      assert example.first.video_id == data.video_ids[int(np.argmax(data.scores['fused'][row]))]


def test_a_tie_at_the_top_shows_the_wrong_video():
  data = worlds.split()
  data.scores['fused'][3] = 0.5
  pairs = examples.pairs_of(data, 'fused', {'worst': [3]})
  assert pairs[1][1] != data.own[3]


def test_fewer_than_asked_for():
  data = worlds.split(captions=3, videos=3)
  assert len(examples.choose(data, 'fused', 9)['best']) <= 3
