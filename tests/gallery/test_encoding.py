"""Encoding: windows cover every frame once, times are the records', and nothing depends on what is beside it."""

import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.gallery import encoding
from dlkd_jax.gallery.encoding import StudentEncoder
from dlkd_jax.gallery.runs import read_config
from dlkd_jax.training.checkpoints import read_best
from tests import options as made
from tests.gallery import worlds

SCORERS = ('inheritance', 'exploration', 'teacher')


@pytest.fixture(scope='module')
def student(world):
  return StudentEncoder(read_config(world.run), read_best(world.run)[0], world.collection.sizes, 'the run')


@pytest.fixture(scope='module')
def records(world):
  source = sources.open_source(str(world.data), 'custom_prvr', 'test')
  return [source[number] for number in range(len(source))]


@pytest.mark.parametrize('size', [1, 2, 7, 12, 128])
@pytest.mark.parametrize('frames', [1, 5, 12, 13, 19, 100, 1001])
def test_windows_cover_every_frame_once(frames, size):
  found = encoding.windows(frames, size)
  covered = [frame for _, _, first, last in found for frame in range(first, last)]
  assert covered == list(range(frames))
  for number, (start, stop, first, last) in enumerate(found):
    assert 0 <= start <= first < last <= stop <= frames and stop - start == min(size, frames)
    if size >= 7:  # Neighbours on both sides, but at the ends of the video.
      assert number == 0 or first - start >= size // 4 - 1
      assert number == len(found) - 1 or stop - last >= size // 4 - 1


def test_spread():
  rows = np.arange(3)[:, None]
  assert encoding.spread(rows, 7)[:, 0].tolist() == [0, 0, 1, 1, 1, 2, 2]
  assert encoding.spread(rows, 3) is rows


def test_times():
  record = {'times': np.array([0, 1, 2, 3], np.float32), 'duration': 9.0}
  np.testing.assert_array_equal(encoding.frame_times(record, 4), [0, 1, 2, 3])
  np.testing.assert_array_equal(encoding.frame_times(record, 2), [0.5, 2])  # Slots leave the last row out.
  np.testing.assert_array_equal(encoding.frame_times({'duration': 9.0}, 3), [1.5, 4.5, 7.5])
  np.testing.assert_array_equal(encoding.frame_times({'duration': np.nan}, 3), [0, 1, 2])


def test_agrees_with_the_student_itself(oracle, student, records):
  for encoded, record in zip(encoding.encode_videos(records, SCORERS, student, 'windows'), records, strict=True):
    for name in SCORERS:
      np.testing.assert_allclose(encoded.rows[name], oracle.frames[sources.text(record['video_id'])][name], atol=1e-5)


def test_a_video_does_not_depend_on_those_beside_it(student, records):
  together = encoding.encode_videos(records, SCORERS, student, 'windows')
  for number in (0, 5, 11):
    (alone,) = encoding.encode_videos(records[number : number + 1], SCORERS, student, 'windows')
    for name in SCORERS:
      np.testing.assert_allclose(alone.rows[name], together[number].rows[name], atol=1e-5)


def test_resampling_is_the_evaluation(student, records):
  """With long videos resampled, the scores are those of training's evaluation."""
  from dlkd_jax.data.evaluation_blocks import EvaluationSplit
  from dlkd_jax.retrieval.evaluate import Evaluator, encoders_of
  from dlkd_jax.training import recipe

  options = recipe.make_pipeline_options(student.config, 1, True)
  split, encoders = EvaluationSplit(records, options, 8, 4), encoders_of(recipe.make_student(student.config))
  result = Evaluator(encoders, split, made.evaluation_options(keep_scores=True))(student.params)
  videos = encoding.encode_videos(records, SCORERS, student, 'resample')
  captions = encoding.encode_captions(records, SCORERS, student)
  assert max(len(video.times) for video in videos) == worlds.FRAMES
  for name in SCORERS:
    queries = np.concatenate([vectors[name] for vectors in captions])
    own = np.stack([(queries @ video.rows[name].T).max(axis=1) for video in videos], axis=1)
    np.testing.assert_allclose(own, result.scores[name], atol=1e-5)


def test_different_numbers_of_rows(student, records):
  record = {**records[0], 'teacher_frames': records[0]['teacher_frames'][:3]}
  (video,) = encoding.encode_videos([record], SCORERS, student, 'windows')
  (whole,) = encoding.encode_videos([records[0]], SCORERS, student, 'windows')
  assert {len(rows) for rows in video.rows.values()} == {len(video.times)} == {len(record['student_frames'])}
  np.testing.assert_allclose(video.rows['inheritance'], whole.rows['inheritance'], atol=1e-5)
  np.testing.assert_array_equal(np.unique(video.rows['teacher'], axis=0), np.unique(whole.rows['teacher'][:3], axis=0))


def test_captions_without_what_a_scorer_needs(student, records):
  bare = {**records[0], 'teacher_text': records[0]['teacher_text'][:0]}
  none, some = encoding.encode_captions([bare, records[1]], SCORERS, student)
  assert none is None and some['teacher'].shape == (2, 10)
  (only,) = encoding.encode_captions([bare], SCORERS[:2], student)
  assert only['exploration'].shape == (2, worlds.HIDDEN)


def test_bad_frames_are_named(student, records):
  for feature in ('student_frames', 'teacher_frames'):
    bad = records[2][feature].copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match=rf'v002\.mp4.*{feature} hold NaN.*row 1'):
      encoding.encode_videos([{**records[2], feature: bad}], SCORERS, student, 'windows')
    with pytest.raises(ValueError, match=rf'v002\.mp4.* has no {feature}'):
      encoding.encode_videos([{**records[2], feature: bad[:0]}], SCORERS, student, 'windows')


def test_parameters_of_another_data_set_are_refused(world):
  sizes = {**world.collection.sizes, 'Dv': 7}
  with pytest.raises(ValueError, match='the run does not fit'):
    StudentEncoder(read_config(world.run), read_best(world.run)[0], sizes, 'the run')
