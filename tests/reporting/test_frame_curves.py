"""Frame curves against the exact evaluation and against encoding each video and caption by itself."""

import jax
import numpy as np
import pytest

from configs import common
from dlkd_jax import sharding
from dlkd_jax.data import transforms
from dlkd_jax.models.students import init_parameters
from dlkd_jax.reporting import frame_curves, split_data
from dlkd_jax.reporting.trained_run import TrainedRun
from dlkd_jax.training import recipe
from tests.data import fakes

VIDEOS = 7


@pytest.fixture(scope='module')
def world():
  """A student with random parameters over records in memory, whose videos are longer and shorter than the limit."""
  config = common.base('made_up')
  config.data.update({'max_frames': 12, 'frame_sizes': (6, 12), 'max_words': 5, 'word_sizes': (5,)})
  config.model.update({'hidden': 8, 'heads': 2})
  student, mesh = recipe.make_student(config), sharding.make_mesh(jax.devices()[:1])
  params = jax.jit(lambda: init_parameters(student, jax.random.key(0), fakes.STUDENT, fakes.TOKEN))()
  records = fakes.source(VIDEOS, seed=3)
  run = TrainedRun('a', None, config, student, params, mesh, 1, 1, 1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(recipe, 'open_split', lambda *_: records)
    patch.setattr(recipe, 'open_lengths', lambda *_: None)
    data = split_data.read_split(run, 'test')
    pairs = [(row, column) for row in range(len(data.caption_ids)) for column in range(VIDEOS)]
    yield run, records, data, frame_curves.pair_curves(run, data, pairs), pairs


def test_peaks_are_the_scores(world):
  _, _, data, curves, pairs = world
  for name in ('inheritance', 'exploration', 'teacher'):
    for row, column in pairs:
      assert curves[name][row, column].max() == pytest.approx(data.scores[name][row, column], abs=1e-5)


def test_there_is_a_time_for_each_frame(world):
  _, _, data, curves, pairs = world
  for name, some in curves.items():
    for pair in pairs:
      video = data.videos[pair[1]]
      times = video.teacher_times if name == 'teacher' else video.student_times
      assert some[pair].shape == times.shape and len(times) <= 12


def test_curves_are_those_of_each_video_by_itself(world):
  run, records, data, curves, _ = world

  apply = jax.jit(run.student.apply)

  def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

  for record in records[:3]:
    column = data.video_ids.index(record['video_id'].decode())
    frames = transforms.normalize_rows(transforms.resample_frames(record['student_frames'], 12))
    length = int(record['token_lengths'][0])
    tokens = transforms.normalize_rows(record['student_tokens'][:length].astype(np.float32))[:5]
    row = data.caption_ids.index(record['caption_ids'][0].decode())
    ones = lambda rows: np.ones((1, len(rows)), bool)  # noqa: E731
    encoded = apply({'params': run.params}, frames[None], ones(frames), tokens[None], ones(tokens))
    plain = {name: unit(encoded[0][name][0]) @ unit(encoded[1][name][0]) for name in encoded[0]}
    plain['fused'] = 0.7 * plain['inheritance'] + 0.3 * plain['exploration']
    teacher = unit(transforms.resample_frames(record['teacher_frames'], 12))
    plain['teacher'] = teacher @ unit(record['teacher_text'][0].astype(np.float32))
    for name, curve in plain.items():
      np.testing.assert_allclose(curves[name][row, column], curve, atol=2e-5)


def test_only_the_pairs_asked_for_are_made(world):
  run, records, data, every, _ = world
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(frame_curves.recipe, 'open_split', lambda *_: records)
    some = frame_curves.pair_curves(run, data, [(2, 3), (0, 1), (2, 3)])
  for name, found in some.items():
    assert found.keys() == {(2, 3), (0, 1)}
    for pair, curve in found.items():
      np.testing.assert_allclose(curve, every[name][pair], atol=1e-6)
