"""A split as a run sees it: order by ids, and times of frames."""

import types

import numpy as np
import pytest

from dlkd_jax.reporting import split_data
from dlkd_jax.retrieval.evaluate import EvaluationResult
from dlkd_jax.retrieval.metrics import metrics_from_ranks, rank_own_videos
from tests.reporting import worlds


def record(frames=6, teacher=6, duration=12.0, **more):
  return {
    'student_frames': np.zeros((frames, 2)),
    'teacher_frames': np.zeros((teacher, 2)),
    'duration': np.float32(duration),
  } | more


def test_frames_without_times_are_spread_evenly():
  found = split_data.describe_video(record(teacher=3), 128)
  np.testing.assert_allclose(found.student_times, [1, 3, 5, 7, 9, 11])
  np.testing.assert_allclose(found.teacher_times, [2, 6, 10])
  assert found.seconds and not found.own_times


def test_times_of_their_own_are_taken():
  times = np.array([0.0, 1, 2, 3, 4, 9], np.float32)
  found = split_data.describe_video(record(times=times), 128)
  np.testing.assert_array_equal(found.student_times, times)
  np.testing.assert_array_equal(found.teacher_times, times)
  assert found.own_times


def test_averaged_frames_have_averaged_times():
  found = split_data.describe_video(record(frames=12, teacher=0, times=np.arange(12, dtype=np.float32)), 4)
  # The last row is left out of the last slot, as it is from the features.
  np.testing.assert_allclose(found.student_times, [1, 4, 7, 9.5])
  assert found.teacher_times.shape == (0,)


def test_unknown_durations_give_shares():
  found = split_data.describe_video(record(duration=np.nan), 128)
  assert np.isnan(found.duration) and not found.seconds
  np.testing.assert_allclose(found.student_times, (np.arange(6) + 0.5) / 6)


def test_own_times_suffice_without_a_duration():
  assert split_data.describe_video(record(duration=np.nan, times=np.arange(6, dtype=np.float32)), 128).seconds


@pytest.fixture
def read(monkeypatch):
  """Reads a split whose evaluation gives captions and videos in an order of its own."""
  truth = worlds.split()

  def with_order(seed):
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(len(truth.caption_ids)), random.permutation(len(truth.video_ids))
    place = np.argsort(columns)
    own = place[truth.own[rows]]
    scores = {name: matrix[np.ix_(rows, columns)] for name, matrix in truth.scores.items()}
    ranks = {name: rank_own_videos(matrix, own) for name, matrix in scores.items()}
    captions, videos = [truth.caption_ids[i] for i in rows], [truth.video_ids[i] for i in columns]
    metrics = {name: metrics_from_ranks(x) for name, x in ranks.items()}
    result = EvaluationResult(metrics, ranks, captions, videos, own, scores, 0)
    records = []
    for column, video in enumerate(videos):
      mine = np.flatnonzero(own == column)
      original = rows[mine]
      some = {'captions': [truth.texts[i] for i in original], 'caption_ids': [captions[i] for i in mine]}
      known = {'video_id': video.encode(), 'moments': truth.moments[original].astype(np.float32)}
      records.append(record(12, 12, truth.videos[columns[column]].duration, **some, **known))
    monkeypatch.setattr(split_data.recipe, 'open_split', lambda *_: records)
    monkeypatch.setattr(split_data.recipe, 'make_evaluator', lambda *_, **__: lambda params: result)
    monkeypatch.setattr(
      split_data.recipe, 'make_evaluation_options', lambda *_: types.SimpleNamespace(weights=truth.weights)
    )
    data = types.SimpleNamespace(max_frames=128)
    run = types.SimpleNamespace(config=types.SimpleNamespace(data=data), student=None, mesh=None, params=None)
    return split_data.read_split(run, 'test')

  return truth, with_order


def test_the_order_of_captions_and_videos_changes_nothing(read):
  truth, with_order = read
  for seed in (1, 2):
    found = with_order(seed)
    assert (found.caption_ids, found.video_ids, found.texts) == (truth.caption_ids, truth.video_ids, truth.texts)
    np.testing.assert_array_equal(found.own, truth.own)
    np.testing.assert_allclose(found.moments, truth.moments, rtol=1e-6)
    np.testing.assert_allclose(found.durations, truth.durations, rtol=1e-6)
    for name in truth.scores:
      np.testing.assert_array_equal(found.scores[name], truth.scores[name])
      np.testing.assert_array_equal(found.ranks[name], truth.ranks[name])
    assert found.metrics() == truth.metrics()


def test_captions_without_moment_are_not_annotated():
  data = worlds.split()
  data.moments[5] = np.nan
  assert 5 not in data.annotated and len(data.annotated) == len(data.caption_ids) - 1


def test_impossible_moments_of_a_set_that_was_built_before_are_no_misses(read):
  truth, with_order = read
  end = truth.durations[3] + 10
  truth.moments[:4] = [[3, 1], [-2, 1], [end, end + 1], [0.5, end]]
  found = with_order(1)
  assert set(found.annotated) == set(range(3, len(truth.caption_ids)))
  np.testing.assert_allclose(found.moments[3], [0.5, truth.durations[3]], rtol=1e-6)
