import numpy as np

from dlkd_jax.tools.planning.workload import Workload, abstract_batch
from tests import options as made


def test_captions_can_be_chosen():
  lengths = Workload(captions=3.7).lengths(4000)
  assert lengths.captions.sum() == int(3.7 * 4000) == len(lengths.tokens)
  assert set(lengths.captions) == {3, 4}


def test_the_same_lengths_every_time():
  one, two = (Workload('activitynet').lengths(100) for _ in range(2))
  np.testing.assert_array_equal(one.student, two.student)


def test_a_packed_batch_holds_the_content_with_little_room_left():
  options = made.pipeline_options(batch_videos=256, shards=8)
  batch = abstract_batch(Workload(sizes=(32, 16, 8)), options).check()
  rows = batch.student_frames.shape[0]
  assert batch.video_mask.shape == (256,)
  assert batch.caption_mask.shape[0] >= 5 * 256
  assert rows % 8 == 0
  assert 50 * 256 / 128 < rows < 2 * 50 * 256 / 128
  assert batch.student_frames.shape[1:] == (128, 32)
  assert batch.teacher_frames.shape == (rows, 128, 8)


def test_a_padded_batch_has_a_row_a_video():
  options = made.pipeline_options(batch_videos=64, packing=False, teacher=False)
  batch = abstract_batch(Workload('full'), options).check()
  assert batch.student_frames.shape == (64, 128, 3072)
  assert batch.teacher_frames is None and batch.teacher_text is None


def test_features_are_of_the_type_that_training_has():
  """A third of ActivityNet's videos are averaged to 128 frames, in float32."""
  options = made.pipeline_options(batch_videos=64)
  for model, dtype in (('tvr', np.float16), ('activitynet', np.float32)):
    batch = abstract_batch(Workload(model), options)
    assert batch.student_frames.dtype == batch.teacher_frames.dtype == dtype
    assert batch.student_tokens.dtype == batch.teacher_text.dtype == np.float16
