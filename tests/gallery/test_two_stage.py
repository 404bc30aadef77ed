"""Search in two stages: exact scores, nearly always of the right videos, and the right ones where few count."""

import numpy as np
import pytest

from dlkd_jax.gallery import exact, quantization, two_stage
from dlkd_jax.gallery.frame_index import FrameIndex
from dlkd_jax.gallery.quantization import JoinedRows
from tests.gallery.galleries import WEIGHTS, queries_near, structured


class Gallery:
  """A structured gallery with its indexes, queries and exact scores."""

  def __init__(self, dtype='int8', **sizes):
    self.rows, self.offsets = structured(**sizes)
    self.stored = {name: quantization.encode(x, dtype) for name, x in self.rows.items()}
    self.indexes = {name: FrameIndex.build(x) for name, x in self.stored.items()}
    self.queries = queries_near(self.rows, 30)
    self.exact = exact.video_scores(self.stored, self.offsets, self.queries)

  def search(self, weights=WEIGHTS, count=10, queries=None, **options):
    queries = self.queries if queries is None else queries
    return two_stage.search(self.indexes, self.stored, self.offsets, queries, weights, count, **options)

  def recall(self, found, allowed=None):
    top, _ = exact.top_videos(self.exact, WEIGHTS, 10, allowed)
    return np.mean([len(set(f.videos) & set(t)) / len(t) for f, t in zip(found, top, strict=True)])


@pytest.fixture(scope='module')
def gallery():
  return Gallery(videos=600, hidden=32)


@pytest.mark.parametrize('dtype', quantization.DTYPES)
def test_scores_are_exact_and_ranked(dtype):
  gallery = Gallery(dtype, videos=150, hidden=16)
  fused = exact.fuse(gallery.exact, WEIGHTS)
  for i, found in enumerate(gallery.search(candidates=50)):
    assert found.videos.dtype == np.int64 and len(found.videos) == 10 and np.all(np.diff(found.fused) <= 0)
    np.testing.assert_allclose(found.fused, fused[i, found.videos], atol=1e-6)
    for name, scores in found.scores.items():
      np.testing.assert_allclose(scores, gallery.exact[name][i, found.videos], atol=1e-6)


def test_recall_on_a_structured_gallery(gallery):
  found = [gallery.search(candidates=candidates, frames=300) for candidates in (10, 60, 200)]
  recalls = [gallery.recall(f) for f in found]
  assert recalls[0] < recalls[1] and recalls[2] >= 0.97


def test_all_candidates_are_exact_search(gallery):
  top, fused = exact.top_videos(gallery.exact, WEIGHTS, 10)
  for i, found in enumerate(gallery.search(candidates=600)):
    np.testing.assert_allclose(found.fused, fused[i], atol=1e-6)
    np.testing.assert_array_equal(found.videos, top[i])


def test_more_frames_are_asked_for_where_they_lie_in_few_videos(gallery, monkeypatch):
  asked = []
  search = FrameIndex.search

  def counting(self, queries, count, allowed=None):
    asked.append((len(queries), count))
    return search(self, queries, count)

  monkeypatch.setattr(FrameIndex, 'search', counting)
  assert gallery.recall(gallery.search(frames=20, candidates=200)) >= 0.97
  counts = [count for _, count in asked]
  assert counts[0] == 20 and max(counts) > 200 and counts == sorted(counts)


def test_many_frames_of_one_video_hide_no_other():
  rows, offsets = structured(videos=80, longest=3, hidden=16)
  long = {name: np.concatenate([np.repeat(x[:1], 3000, axis=0), x]) for name, x in rows.items()}
  offsets = np.concatenate([[0], offsets + 3000])
  stored = {name: quantization.encode(x, 'float16') for name, x in long.items()}
  indexes = {name: FrameIndex.build(x) for name, x in stored.items()}
  queries = {name: x[:1] for name, x in long.items()}
  (found,) = two_stage.search(indexes, stored, offsets, queries, WEIGHTS, 10, candidates=40, frames=50)
  top, _ = exact.top_videos(exact.video_scores(stored, offsets, queries), WEIGHTS, 10)
  assert len(set(found.videos) & set(top[0])) >= 9 and len(found.videos) == 10


@pytest.mark.parametrize('videos', [1, 2, 12])
def test_small_galleries_are_ranked_whole(videos):
  gallery = Gallery(videos=videos, longest=2, hidden=16)
  for candidates in (1, 500):
    found = gallery.search(candidates=candidates, count=videos)
    assert all(sorted(f.videos) == list(range(videos)) for f in found)


@pytest.mark.parametrize('share', [0.5, 0.05, 0.01])
def test_only_allowed_videos_are_found(gallery, share):
  allowed = np.random.default_rng(0).random(600) < share
  found = gallery.search(candidates=25, allowed=allowed)
  wanted = min(10, allowed.sum())
  assert all(len(f.videos) == wanted and allowed[f.videos].all() for f in found)
  assert gallery.recall(found, allowed) >= (1 if allowed.sum() <= 25 else 0.8)


def test_no_allowed_video_and_no_query(gallery):
  found = gallery.search(allowed=np.zeros(600, bool))
  assert all(len(f.videos) == len(f.fused) == len(f.scores['exploration']) == 0 for f in found)
  assert gallery.search(queries={name: x[:0] for name, x in gallery.queries.items()}) == []


def test_a_scorer_alone_and_queries_of_any_length(gallery):
  wished = {'inheritance': 0.0, 'exploration': 2.0}
  shorter = {'exploration': gallery.queries['exploration'] / 7}
  for mine, other in zip(gallery.search(wished, queries=shorter), gallery.search(wished), strict=True):
    assert set(mine.scores) == {'exploration'}
    np.testing.assert_array_equal(mine.videos, other.videos)
    np.testing.assert_allclose(mine.fused, 2 * mine.scores['exploration'])


def test_a_gallery_in_parts_gives_the_same(gallery):
  middle = gallery.offsets[222]
  parts = {name: JoinedRows([x[:middle], x[middle:]]) for name, x in gallery.stored.items()}
  joined = two_stage.search(gallery.indexes, parts, gallery.offsets, gallery.queries, WEIGHTS, 10, candidates=50)
  for mine, other in zip(joined, gallery.search(candidates=50), strict=True):
    np.testing.assert_array_equal(mine.videos, other.videos)
    np.testing.assert_allclose(mine.fused, other.fused, rtol=0, atol=1e-6)


def test_of_equal_videos_the_first_is_first():
  rows, offsets = structured(videos=30, longest=4, hidden=16)
  twice = {name: np.concatenate([x, x]) for name, x in rows.items()}
  offsets = np.concatenate([offsets, offsets[1:] + offsets[-1]])
  stored = {name: quantization.encode(x, 'int8') for name, x in twice.items()}
  indexes = {name: FrameIndex.build(x) for name, x in stored.items()}
  (found,) = two_stage.search(indexes, stored, offsets, {n: x[:1] for n, x in rows.items()}, WEIGHTS, 6)
  assert np.all(found.videos[1::2] == found.videos[::2] + 30)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'weights': {'inheritance': -1, 'exploration': 2}}, 'expected numbers of 0 or more'),
    ({'weights': {}}, 'one of them more'),
    ({'weights': {'teacher': 1}}, r"weights name \['teacher'\], and there is query vectors of \['exploration', 'inh"),
    ({'count': 0}, 'count is 0 and frames 2000'),
    ({'frames': 0}, 'frames 0; expected 1 or more'),
    ({'allowed': np.ones(5, bool)}, r'allowed is bool \[5\]; expected bool \[600\]'),
    ({'queries': {'inheritance': np.ones((1, 8)), 'exploration': np.ones((1, 32))}}, 'have 8 numbers'),
    ({'queries': {'inheritance': np.full((1, 32), np.nan), 'exploration': np.ones((1, 32))}}, 'row 0 is not finite'),
  ],
)
def test_arguments_that_do_not_fit(gallery, change, message):
  with pytest.raises(ValueError, match=message):
    gallery.search(**change)


def test_an_index_of_other_rows_is_refused(gallery):
  indexes = {name: FrameIndex.build(x[:700]) for name, x in gallery.stored.items()}
  with pytest.raises(ValueError, match='the index of frames of inheritance has 700 vectors of 32, and the gallery'):
    two_stage.search(indexes, gallery.stored, gallery.offsets, gallery.queries, WEIGHTS, 10)
