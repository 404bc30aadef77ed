"""Pictures of the teacher: from records on disk into the places of its features in a batch."""

import itertools

import numpy as np
import pytest

from dlkd_jax.data import sources, transforms
from dlkd_jax.data.sources import open_lengths
from dlkd_jax.data.train_pipeline import train_pipeline
from tests.data import fakes, pixel_sets
from tests.data.test_collation import assert_padding

SIZE = 2


def middle_by_hand(rows, count):
  """The middle row of each slot, by the definition of the slots."""
  if len(rows) <= count:
    return rows
  borders = [min(int(np.round(i / count * len(rows))), len(rows) - 1) for i in range(count + 1)]
  chosen = []
  for first, end in itertools.pairwise(borders):
    slot = range(first, max(end, first + 1))
    chosen.append(rows[slot[(len(slot) - 1) // 2]])
  return np.stack(chosen)


@pytest.mark.parametrize('count', [1, 4, 12])
def test_the_middle_row_of_each_slot(count):
  for rows in range(1, 40):
    chosen = transforms.middle_rows(rows, count)
    assert chosen.tolist() == middle_by_hand(np.arange(rows), count).tolist()
    assert len(set(chosen)) == min(rows, count)


@pytest.mark.parametrize('packing', [True, False])
@pytest.mark.parametrize('shards', [1, 4])
def test_pictures_lie_where_features_would(packing, shards):
  records = fakes.source(7, pixels=SIZE)
  pixels = fakes.collate(records, fakes.options(packing=packing, shards=shards, pixels=True))
  features = fakes.collate(records, fakes.options(packing=packing, shards=shards))
  assert pixels.teacher_frames is None and features.teacher_pixels is None
  assert pixels.teacher_pixels.dtype == np.uint8 and pixels.teacher_pixels.shape[-1] == SIZE * SIZE * 3
  assert not pixels.teacher_pixels[~pixels.frame_layout.mask].any()
  assert_padding(pixels, shards)
  np.testing.assert_array_equal(pixels.student_frames, features.student_frames)
  np.testing.assert_array_equal(pixels.teacher_text, features.teacher_text)
  np.testing.assert_array_equal(pixels.frame_layout.slot, features.frame_layout.slot)
  found = fakes.contents(pixels, shards)
  order = sorted(range(7), key=lambda row: -len(records[row]['token_lengths']))
  for ordinal, row in enumerate(order):
    pictures = records[row]['teacher_pixels']
    common = min(len(pictures), len(records[row]['student_frames']))
    expected = middle_by_hand(middle_by_hand(pictures, common), 12)
    np.testing.assert_array_equal(found[ordinal]['teacher'].reshape(expected.shape), expected)


def test_records_without_pictures_are_named():
  records = fakes.source(3, pixels=SIZE)
  del records[1]['teacher_pixels']
  with pytest.raises(ValueError, match=r"'v001' has \d+ teacher frames and pixels of 0; expected those of each; train"):
    fakes.collate(records, fakes.options(pixels=True))
  fakes.collate(records, fakes.options())


def test_pictures_of_two_sizes_are_named():
  records = fakes.source(3, pixels=SIZE)
  records[2]['teacher_pixels'] = np.zeros((len(records[2]['teacher_frames']), 3, 3, 3), np.uint8)
  with pytest.raises(ValueError, match="'v002' has teacher_pixels of 27"):
    fakes.collate(records, fakes.options(pixels=True))


def test_a_built_set_holds_them(tmp_path):
  name = pixel_sets.write(tmp_path, SIZE, lambda pictures: pictures.reshape(len(pictures), -1)[:, :4] / 255, 4)
  source = sources.open_source(tmp_path, name, 'train')
  assert len(source) == pixel_sets.SPLITS['train']
  expected = pixel_sets.PixelPrvr(SIZE, lambda pictures: pictures[:, 0, 0], 3, data_dir=str(tmp_path)).record
  for record in source:
    pictures = expected('train', sources.text(record['video_id']))['teacher_pixels']
    np.testing.assert_array_equal(record['teacher_pixels'], pictures, strict=True)
  lengths = open_lengths(tmp_path, name, 'train')
  batch = next(iter(train_pipeline(source, fakes.options(pixels=True), 0, lengths=lengths))).check()
  assert batch.teacher_pixels.any() and batch.teacher_frames is None
