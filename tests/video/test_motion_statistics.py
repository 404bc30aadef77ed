"""Statistics of motion: what moves where, and nothing where nothing does."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dlkd_jax.video.motion_statistics import MotionStatistics

MOTION = MotionStatistics()
FLOW, WHOLE, COURSE = slice(16, 48), slice(48, 52), slice(52, 58)


def picture(x, y, radius=0.2, side=96, bright=True):
  image = Image.new('RGB', (side, side), (60, 90, 60))
  if bright:
    box = [side * (place + sign * radius) for sign in (-1, 1) for place in (x, y)]
    ImageDraw.Draw(image).ellipse(box, fill=(220, 60, 60), outline=(20, 20, 20), width=3)
  return np.asarray(image)


def features(*pictures):
  (row,) = MOTION([pictures])
  assert row.shape == (MOTION.features,) and row.dtype == np.float32 and np.isfinite(row).all()
  return row


def moving(right, down, growth=0.0, side=96):
  return features(*(picture(0.5 + k * right, 0.5 + k * down, 0.2 + k * growth, side) for k in (-1, 0, 1)))


def test_still_pictures_have_no_flow():
  row = features(*[picture(0.5, 0.5)] * 3)
  np.testing.assert_allclose(row[FLOW], 0, atol=1e-6)
  np.testing.assert_allclose(row[WHOLE], 0, atol=1e-6)


@pytest.mark.parametrize(('right', 'down'), [(0.03, 0), (-0.03, 0), (0, 0.03), (0, -0.03)])
def test_signs_tell_the_direction(right, down):
  row = moving(right, down)
  (along, across) = (row[WHOLE][0], row[WHOLE][1]) if right else (row[WHOLE][1], row[WHOLE][0])
  assert np.sign(along) == np.sign(right + down) and abs(along) > 5 * abs(across)
  # The change itself has moved, too, in the same direction.
  assert np.sign(row[COURSE][0 if right else 1]) == np.sign(right + down)


def test_growth_is_told_from_motion():
  grows, shrinks = moving(0, 0, 0.03), moving(0, 0, -0.03)
  assert grows[WHOLE][2] > 0.5 > -0.5 > shrinks[WHOLE][2]
  assert np.abs(grows[WHOLE][:2]).max() < 0.2
  assert grows[COURSE][2] > 0 > shrinks[COURSE][2]


def test_what_appears_changes_more_than_what_went_before():
  row = features(picture(0.5, 0.5, bright=False), picture(0.5, 0.5, bright=False), picture(0.5, 0.5))
  assert row[COURSE][5] > 3


def test_only_cells_with_motion_change():
  still, moved = picture(0.2, 0.2, 0.1), picture(0.24, 0.2, 0.1)
  change = features(still, moved, still)[:16].reshape(4, 4)
  assert change[0, 0] == change.max() and np.ptp(change[2:, 2:]) < 1e-6


def test_a_larger_picture_of_the_same_shows_the_same():
  np.testing.assert_allclose(moving(0.03, 0, side=192), moving(0.03, 0), atol=0.6)


def test_rows_do_not_depend_on_each_other():
  clips = [[picture(0.3 + 0.02 * k * n, 0.5) for k in range(3)] for n in range(3)]
  np.testing.assert_array_equal(MOTION(clips)[1], MOTION(clips[1:2])[0])
