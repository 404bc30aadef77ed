"""Exact search against plain loops, on one device and eight, from arrays and from files."""

import jax
import numpy as np
import pytest

from dlkd_jax.gallery import exact, quantization
from dlkd_jax.gallery.quantization import Rows
from dlkd_jax.sharding import make_mesh
from tests.gallery.galleries import SCORERS, WEIGHTS, loop_scores, queries_near, structured


def stored_in(rows, dtype):
  return {name: quantization.encode(x, dtype) for name, x in rows.items()}


def close(found, expected, tolerance=1e-6):
  assert set(found) == set(expected)
  for name in expected:
    np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance)


@pytest.fixture(scope='module')
def gallery():
  rows, offsets = structured()
  queries = queries_near(rows, 5)
  return rows, offsets, queries


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('dtype', ['float32', *quantization.DTYPES])
def test_scores_are_the_largest_cosines_of_the_stored_rows(gallery, dtype, devices):
  rows, offsets, queries = gallery
  stored = stored_in(rows, dtype)
  expected = loop_scores({name: x.decode() for name, x in stored.items()}, offsets, queries)
  found = exact.video_scores(stored, offsets, queries, make_mesh(jax.devices()[:devices]))
  assert all(scores.dtype == np.float32 and scores.shape == (5, 40) for scores in found.values())
  close(found, expected)


@pytest.mark.parametrize('resident', [True, False])
def test_block_size_and_devices_do_not_matter(monkeypatch, resident):
  rows, offsets = structured(videos=300, longest=70, hidden=16)
  queries = queries_near(rows, 3)
  stored = stored_in(rows, 'int8')
  expected = loop_scores({name: x.decode() for name, x in stored.items()}, offsets, queries)
  monkeypatch.setattr(exact, '_PRODUCT_ROWS', {'cpu': 128})
  for block_rows, devices in ((1, 1), (1000, 2), (2048, 8), (10**6, 3)):
    search = exact.ExactSearch(stored, offsets, make_mesh(jax.devices()[:devices]), block_rows, resident)
    for _ in range(2):
      close(search.video_scores(queries), expected)


def test_any_number_of_queries_and_any_scorers(gallery, monkeypatch):
  rows, offsets, _ = gallery
  monkeypatch.setattr(exact, '_QUERY_SIZES', (1, 4))
  search = exact.ExactSearch(stored_in(rows, 'float32'), offsets)
  queries = queries_near(rows, 11)
  expected = loop_scores(rows, offsets, queries)
  for count in (0, 1, 3, 4, 11):
    close(search.video_scores({n: x[:count] for n, x in queries.items()}), {n: x[:count] for n, x in expected.items()})
  alone = {'exploration': queries['exploration']}
  close(search.video_scores(alone), {'exploration': expected['exploration']})


def test_files_are_read_in_place(tmp_path):
  rows, offsets = structured(videos=400, hidden=64)
  queries = queries_near(rows, 2)
  stored = stored_in(rows, 'int8')
  mapped = {}
  for name, x in stored.items():
    np.save(tmp_path / f'{name}.npy', x.values)
    mapped[name] = Rows(np.load(tmp_path / f'{name}.npy', mmap_mode='r'), x.scales)
  search = exact.ExactSearch(mapped, offsets, block_rows=1024)
  close(search.video_scores(queries), exact.video_scores(stored, offsets, queries), 0)
  place = search._kept[1][0]['inheritance'].unsafe_buffer_pointer()
  begin = mapped['inheritance'].values.ctypes.data
  assert begin < place < begin + mapped['inheritance'].values.nbytes


def test_videos_may_be_permuted_and_repeated(gallery):
  rows, offsets, queries = gallery
  order = np.random.default_rng(5).permutation(40)
  spans = [np.arange(offsets[v], offsets[v + 1]) for v in order]
  moved = {name: x[np.concatenate(spans)] for name, x in rows.items()}
  moved_offsets = np.concatenate([[0], np.cumsum([len(s) for s in spans])])
  before = exact.video_scores(stored_in(rows, 'int8'), offsets, queries)
  after = exact.video_scores(stored_in(moved, 'int8'), moved_offsets, queries)
  close(after, {name: x[:, order] for name, x in before.items()})


def test_repeated_frames_and_single_frames_change_nothing(gallery):
  rows, offsets, queries = gallery
  twice = {name: np.repeat(x, 2, axis=0) for name, x in rows.items()}
  close(
    exact.video_scores(stored_in(twice, 'float32'), offsets * 2, queries),
    exact.video_scores(stored_in(rows, 'float32'), offsets, queries),
  )
  single = {name: x[:9] for name, x in rows.items()}
  found = exact.video_scores(stored_in(single, 'float32'), np.arange(10), queries)
  close(found, loop_scores(single, np.arange(10), queries))


def test_negative_cosines_and_a_zero_frame():
  rows = {'a': np.asarray([[-1, 0], [-0.6, -0.8], [0, 0], [-1, 0], [0, 1]], np.float32)}
  found = exact.video_scores(stored_in(rows, 'float16'), np.asarray([0, 2, 4, 5]), {'a': np.asarray([[2.0, 0]])})
  np.testing.assert_allclose(found['a'], [[-0.6, 0, 0]], atol=1e-3)


def test_frame_scores_of_one_video(gallery):
  rows, offsets, queries = gallery
  stored = stored_in(rows, 'float16')
  found = exact.frame_scores(stored, offsets, 7, queries)
  scores = exact.video_scores(stored, offsets, queries)
  for name in SCORERS:
    assert found[name].shape == (5, offsets[8] - offsets[7])
    np.testing.assert_allclose(found[name].max(axis=1), scores[name][:, 7], atol=1e-6)


def test_queries_that_do_not_fit(gallery):
  rows, offsets, queries = gallery
  search = exact.ExactSearch(stored_in(rows, 'int8'), offsets)
  one, other = (queries[name] for name in SCORERS)
  with pytest.raises(ValueError, match=r"for \['teacher'\], and the gallery has the scorers"):
    search.video_scores({'teacher': one})
  with pytest.raises(ValueError, match='have 31 numbers, and the frames of the gallery 32; encode both'):
    search.video_scores({'inheritance': one[:, 1:]})
  with pytest.raises(ValueError, match=r"numbers of queries: \{'inheritance': 5, 'exploration': 4\}"):
    search.video_scores({'inheritance': one, 'exploration': other[:4]})
  with pytest.raises(ValueError, match='query vectors of inheritance: row 0 is not finite'):
    search.video_scores({'inheritance': np.full((1, 32), np.inf)})
  with pytest.raises(ValueError, match='no query vectors'):
    search.video_scores({})


def test_an_empty_gallery_is_an_error():
  with pytest.raises(ValueError, match='the gallery is empty'):
    exact.ExactSearch({'a': quantization.encode(np.zeros((0, 4)), 'int8')}, np.zeros(1, int))


def test_top_videos_are_ranked_and_ties_keep_the_order():
  scores = {'inheritance': np.asarray([[0.1, 0.5, 0.3, 0.5, 0.5]]), 'exploration': np.asarray([[0.0, 0, 1, 0, 0]])}
  found, fused = exact.top_videos(scores, {'inheritance': 1.0}, 3)
  assert found.tolist() == [[1, 3, 4]] and found.dtype == np.int64
  found, fused = exact.top_videos(scores, WEIGHTS | {'teacher': 0}, 2)
  assert found.tolist() == [[2, 1]]
  np.testing.assert_allclose(fused, [[0.7 * 0.3 + 0.3, 0.35]], rtol=1e-6)
  found, _ = exact.top_videos(scores, WEIGHTS, 10, allowed=np.asarray([True, False, False, True, True]))
  assert found.tolist() == [[3, 4, 0]]
  found, fused = exact.top_videos(scores, WEIGHTS, 10, allowed=np.zeros(5, bool))
  assert found.shape == fused.shape == (1, 0)


def test_top_videos_agree_with_sorting():
  rng = np.random.default_rng(0)
  scores = {'inheritance': rng.integers(0, 9, (20, 200)) / 8, 'exploration': rng.integers(0, 9, (20, 200)) / 8}
  found, fused = exact.top_videos(scores, WEIGHTS, 50)
  expected = exact.fuse(scores, WEIGHTS)
  np.testing.assert_array_equal(found, np.argsort(-expected, axis=1, kind='stable')[:, :50])
  np.testing.assert_array_equal(fused, np.take_along_axis(expected, found, axis=1))


@pytest.mark.parametrize(
  ('weights', 'count', 'allowed', 'message'),
  [
    ({}, 1, None, 'expected finite numbers, one of them other than 0'),
    ({'a': 0}, 1, None, 'one of them other than 0'),
    ({'a': np.nan}, 1, None, 'expected finite numbers'),
    ({'a': 1, 'b': 1}, 1, None, r"weights name \['b'\], and there are scores of \['a'\]"),
    ({'a': 1}, 0, None, 'count is 0'),
    ({'a': 1}, 1, np.ones(3, bool), r'allowed is bool \[3\]; expected bool \[4\]'),
  ],
)
def test_rankings_that_cannot_be_made(weights, count, allowed, message):
  with pytest.raises(ValueError, match=message):
    exact.top_videos({'a': np.zeros((2, 4))}, weights, count, allowed)
