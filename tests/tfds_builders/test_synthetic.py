"""The generated world: the same bits for the same config, and a teacher that knows part of it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfds_builders import BuildOptions, SyntheticPrvr, build, errors
from tfds_builders.synthetic_prvr import config as config_lib
from tfds_builders.synthetic_prvr import vocabulary, world


def _same(first: dict, second: dict) -> bool:
  return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def _all(config: config_lib.SyntheticConfig, split: str) -> list[dict]:
  source = world.World(config)
  return [source.record(split, video) for video in source.videos()[split]]


def _recall(scores: np.ndarray, own: np.ndarray, within: int) -> float:
  """Returns the share of queries that rank their own video within the first; ties count against."""
  rank = (scores >= scores[np.arange(len(own)), own][:, None]).sum(axis=1)
  return float((rank <= within).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _best_frame(queries: np.ndarray, videos: list[np.ndarray]) -> np.ndarray:
  """Returns the cosine of each query with its best frame of each video, `[Q, B]`."""
  return np.stack([(_unit(queries) @ _unit(frames).T).max(axis=1) for frames in videos], axis=1)


def _own_video(records: list[dict]) -> np.ndarray:
  return np.repeat(np.arange(len(records)), [len(record['captions']) for record in records])


def test_same_bits_whatever_is_asked_first():
  forward, backward = world.World(config_lib.SMALL), world.World(config_lib.SMALL)
  names = [(split, video) for split, videos in forward.videos().items() for video in videos[:3]]
  first = [forward.record(*name) for name in names]
  second = [backward.record(*name) for name in reversed(names)][::-1]
  assert all(_same(one, other) for one, other in zip(first, second, strict=True))
  other = world.World(config_lib.SMALL.changed(seed=1))
  assert not _same(first[0], other.record(*names[0]))
  assert not np.array_equal(first[0]['student_frames'][:5], first[3]['student_frames'][:5])


def test_global_random_state_is_left_alone():
  np.random.seed(0)
  before = np.random.get_state()[1].copy()
  _all(config_lib.SMALL, 'val')
  np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_more_videos_keep_those_there_were():
  more = config_lib.SMALL.changed(num_test=40)
  assert _same(_all(config_lib.SMALL, 'test')[5], _all(more, 'test')[5])


def test_records_agree_with_themselves():
  config = config_lib.SMALL
  for record in _all(config, 'train'):
    frames = len(record['student_frames'])
    assert config.min_frames <= frames <= config.max_frames
    assert record['student_frames'].shape[1] == config.student_dims
    assert len(record['teacher_frames']) == round(frames * config.teacher_frame_ratio)
    assert len(record['captions']) == config.captions_per_video == len(record['teacher_text'])
    assert len(record['student_tokens']) == record['token_lengths'].sum()
    lengths = [len(text.rstrip('.').split()) for text in record['captions']]
    assert record['token_lengths'].tolist() == lengths
    assert (record['moments'][:, 0] < record['moments'][:, 1]).all()
    assert record['moments'].min() >= 0
    assert record['moments'].max() <= record['duration'] == frames * config.seconds_per_frame
    for name in ('student_frames', 'student_tokens', 'teacher_frames', 'teacher_text'):
      assert np.isfinite(record[name]).all()


def test_words_are_unambiguous():
  words = [word for concepts in vocabulary.CONCEPTS.values() for pair in concepts for word in pair]
  assert len(set(words)) == len(words)
  assert not set(words) & set(vocabulary.PLAIN_WORDS)
  assert len(set(vocabulary.PLAIN_WORDS)) == len(vocabulary.PLAIN_WORDS)


def test_teacher_knows_part():
  records = _all(config_lib.DEMO.changed(num_test=128), 'test')
  own = _own_video(records)
  text = np.concatenate([record['teacher_text'] for record in records])
  scores = _best_frame(text, [record['teacher_frames'] for record in records])
  assert 0.04 < _recall(scores, own, 1) < 0.35  # Chance is 0.008.
  assert _recall(scores, own, 10) > 0.3  # Chance is 0.08.


def test_learning_beats_the_teacher_and_is_not_trivial():
  """A ridge regression from mean token to mean frame of the moment, which training is not told."""
  config = config_lib.DEMO.changed(num_train=500, num_test=128)
  train, test = _all(config, 'train'), _all(config, 'test')

  def sentences(records: list[dict]) -> np.ndarray:
    borders = [np.cumsum(record['token_lengths'])[:-1] for record in records]
    parts = [np.split(record['student_tokens'], each) for record, each in zip(records, borders, strict=True)]
    return np.stack([tokens.mean(axis=0) for each in parts for tokens in each])

  def moments(record: dict) -> list[np.ndarray]:
    spans = np.rint(record['moments'] / config.seconds_per_frame).astype(int)
    return [record['student_frames'][start:end].mean(axis=0) for start, end in spans]

  inputs, targets = sentences(train), np.stack([row for record in train for row in moments(record)])
  center = targets.mean(axis=0)
  design = inputs - inputs.mean(axis=0)
  weights = np.linalg.solve(design.T @ design + 10 * np.eye(design.shape[1]), design.T @ (targets - center))
  own = _own_video(test)
  videos = [record['student_frames'] - center for record in test]
  learned = _best_frame((sentences(test) - inputs.mean(axis=0)) @ weights, videos)
  text = np.concatenate([record['teacher_text'] for record in test])
  teacher = _best_frame(text, [record['teacher_frames'] for record in test])
  assert 1.3 * _recall(teacher, own, 1) < _recall(learned, own, 1) < 0.85
  untrained = np.random.default_rng(0).normal(0, 1, (design.shape[1], config.student_dims))
  assert _recall(_best_frame(sentences(test) @ untrained, videos), own, 1) < 0.05


def test_build_and_reuse(tmp_path, capsys):
  assert build.main(['synthetic', f'--data_dir={tmp_path}']) == 0
  assert build.main(['synthetic', f'--data_dir={tmp_path}']) == 0
  assert 'already built' in capsys.readouterr().out
  builder = tfds.builder('synthetic_prvr/small', data_dir=tmp_path)
  assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
    'train': 64,
    'val': 24,
    'test': 32,
  }
  expected = {record['video_id']: record for record in _all(config_lib.SMALL, 'val')}
  for record in builder.as_data_source('val'):
    wanted = expected.pop(record['video_id'].decode())
    np.testing.assert_array_equal(record['student_frames'], wanted['student_frames'].astype(np.float16))
    np.testing.assert_array_equal(record['teacher_text'], wanted['teacher_text'].astype(np.float16))
    np.testing.assert_array_equal(record['moments'], wanted['moments'])
  assert not expected
  assert build.main(['synthetic', f'--data_dir={tmp_path}', '--no_teacher']) == 1


def test_changed_numbers_make_a_folder_of_their_own(tmp_path):
  flags = ['synthetic', f'--data_dir={tmp_path}', '--num_train=5', '--num_val=2', '--num_test=2', '--no_teacher']
  assert build.main(flags) == 0
  folder = tmp_path / 'synthetic_prvr' / 'small_num_test-2_num_train-5_num_val-2' / '1.0.0'
  builder = tfds.builder_from_directory(folder)
  assert builder.info.splits['train'].num_examples == 5
  assert 'teacher_frames' not in builder.as_data_source('train')[0]


@pytest.mark.parametrize(
  'changes',
  [
    {'num_val': 0},
    {'student_noise': -1.0},
    {'max_moments': 1},
    {'min_frames': 4},
    {'max_frames': 3},
    {'token_dims': 0},
  ],
)
def test_impossible_configs(changes, tmp_path):
  config = config_lib.SMALL.changed(**changes)
  with pytest.raises(errors.PackError, match=r'expected|below'):
    SyntheticPrvr(data_dir=tmp_path, config=config, options=BuildOptions()).download_and_prepare()
