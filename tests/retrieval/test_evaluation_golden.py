"""The whole evaluation, from records on, against the authors' program and a zero-shot teacher at real size."""

import jax
import numpy as np
import pytest

from dlkd_jax.data.evaluation_blocks import EvaluationSplit
from dlkd_jax.models.release_parameters import from_release
from dlkd_jax.models.students import init_parameters
from dlkd_jax.retrieval.evaluate import Evaluator, encoders_of
from tests import options as made
from tests.data.fakes import read_pack
from tests.paths import golden, pack
from tests.retrieval.worlds import in_release_order


@pytest.fixture(scope='module')
def released():
  return dict(np.load(golden('evaluation.npz'), allow_pickle=False))


@pytest.mark.parametrize(('video_block', 'caption_block'), [(3, 5), (7, 22)])
def test_scores_and_metrics_agree(released, video_block, caption_block):
  params = from_release({n.removeprefix('param/'): x for n, x in released.items() if n.startswith('param/')})
  records = read_pack(golden('pack'), 'tvr', 'i3d_resnet', 'test')
  options = made.pipeline_options(max_frames=16, max_words=10, frame_sizes=(8, 16), word_sizes=(10,))
  student = made.student(hidden=32, heads=4, max_frames=16, max_words=10)
  split = EvaluationSplit(records, options, caption_block, video_block, keep=True)
  evaluator = Evaluator(encoders_of(student), split, made.evaluation_options(keep_scores=True))
  result = evaluator(params)
  records[:] = [None] * len(records)  # The second evaluation reads no record, and finds the same to the bit.
  for name, scores in evaluator(params).scores.items():
    np.testing.assert_array_equal(scores, result.scores[name])
  rows = [result.caption_ids.index(name) for name in released['query_ids']]
  columns = [result.video_ids.index(name) for name in released['video_ids']]
  assert sorted(rows) == list(range(len(result.caption_ids)))
  for name in ('inheritance', 'exploration', 'fused'):
    scores = result.scores[name][np.ix_(rows, columns)]
    np.testing.assert_allclose(scores, released[f'scores/{name}'], atol=1e-5)
    expected = released[f'metrics/{name}']
    np.testing.assert_allclose(in_release_order(result.metrics[name]), expected, rtol=1e-12)


def test_the_zero_shot_teacher_on_a_real_test_split():
  records = read_pack(pack('charades'), 'charades', 'i3d_rgb_lgi', 'test')
  options = made.pipeline_options()
  student = made.student(hidden=8, heads=2)
  evaluator = Evaluator(encoders_of(student), EvaluationSplit(records, options, 512, 128), made.evaluation_options())
  result = evaluator(jax.jit(lambda: init_parameters(student, jax.random.key(0), 128, 128))())
  found = result.metrics['teacher']
  rounded = [round(x, 1) for x in (found.r1, found.r5, found.r10, found.r100, found.sum_r)]
  assert rounded == [2.3, 9.5, 16.6, 69.6, 98.0]
