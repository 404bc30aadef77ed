"""The tiny pack of golden numbers, through the pipeline, against what the authors' loader makes of it."""

import dataclasses

import jax
import numpy as np
import pytest

from dlkd_jax.data.batch import unit_rows
from dlkd_jax.data.evaluation_blocks import video_blocks
from tests import options as made
from tests.data import fakes
from tests.paths import golden

OPTIONS = made.pipeline_options(
  batch_videos=12, max_frames=16, max_words=10, frame_sizes=(16,), word_sizes=(10,), packing=False
)


@pytest.fixture(scope='module')
def numbers():
  return np.load(golden('pipeline.npz'), allow_pickle=False)


def records(split):
  return fakes.read_pack(golden('pack'), 'tvr', 'i3d_resnet', split)


def test_each_video_of_training(numbers):
  for record in records('train'):
    video = record['video_id']
    batch = fakes.collate([record], OPTIONS)
    student, teacher = (numbers[f'train/{video}/{side}_frames'] for side in ('student', 'teacher'))
    assert batch.frame_layout.mask[0].sum() == len(student)
    np.testing.assert_allclose(unit_rows(batch.student_frames[0, : len(student)]), student, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(batch.teacher_frames[0, : len(teacher)], teacher, rtol=1e-6)
    for row, caption_id in enumerate(record['caption_ids']):
      tokens = numbers[f'train/{video}/query/{caption_id}/tokens']
      assert batch.token_layout.mask[row].sum() == len(tokens)
      np.testing.assert_allclose(unit_rows(batch.student_tokens[row, : len(tokens)]), tokens, rtol=1e-5, atol=1e-7)
      np.testing.assert_array_equal(batch.teacher_text[row], numbers[f'train/{video}/query/{caption_id}/teacher'][0])


@pytest.mark.parametrize('drawn_sorted', [False, True])
def test_the_collated_batch(numbers, drawn_sorted):
  own = records('train')
  ids = list(numbers['train_batch/video_ids'])
  # The authors' batch was collated from the order of the split. Sorting is stable, so drawing the videos in the order
  # that it has afterwards gives the same batch.
  order = np.array([next(i for i, r in enumerate(own) if r['video_id'] == v) for v in ids])
  batch = fakes.collate([own[row] for row in (order if drawn_sorted else np.sort(order))], OPTIONS)
  videos, captions = len(ids), len(numbers['train_batch/text_labels'])
  assert batch.video_mask.sum() == videos and batch.caption_mask.sum() == captions
  for ours, theirs, count in (
    (unit_rows(batch.student_frames), 'student_videos', videos),
    (batch.teacher_frames, 'teacher_videos', videos),
    (batch.frame_layout.mask, 'student_videos_mask', videos),
    (unit_rows(batch.student_tokens), 'student_text', captions),
    (batch.token_layout.mask, 'student_text_mask', captions),
    (batch.teacher_text, 'teacher_text', captions),
    (batch.labels, 'text_labels', captions),
  ):
    expected = numbers[f'train_batch/{theirs}']
    np.testing.assert_allclose(ours[:count], expected, rtol=1e-5, atol=1e-7, err_msg=theirs)


def test_the_packed_batch_holds_the_same_rows(numbers):
  own = records('train')
  padded, packed = (fakes.collate(own, dataclasses.replace(OPTIONS, packing=packing)) for packing in (False, True))
  assert packed.student_frames.shape[0] < len(own) and packed.frame_layout.slots > 1
  jax.tree.map(np.testing.assert_array_equal, fakes.contents(packed, 1), fakes.contents(padded, 1))


@pytest.mark.parametrize('split', ['val', 'test'])
def test_evaluation_frames(numbers, split):
  seen = 0
  for block in video_blocks(records(split), OPTIONS, block=3):
    for row, video in enumerate(block.ids):
      student = numbers[f'{split}/{video}/student_frames']
      assert block.mask[row].sum() == len(student)
      np.testing.assert_allclose(unit_rows(block.features[row, : len(student)]), student, rtol=1e-5, atol=1e-7)
      seen += 1
  assert seen == len([key for key in numbers.files if key.startswith(f'{split}/')])
