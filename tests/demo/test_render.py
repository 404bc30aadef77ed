"""Pictures show what the world says: the same bytes again, colours, places, sizes and motions."""

import dataclasses

import numpy as np
import pytest

from dlkd_jax.demo import render, words, world
from dlkd_jax.demo.world import Segment, Thing

NIGHT = 5
RED = 0


def one(motion, size=1, shape=0, x=0.5, y=0.5):
  thing = Thing(shape, RED, size, motion, x, y, 0.0, (0.0, 0.0, 0.0))
  return Segment(0.0, 4.0, NIGHT, 0, (thing,))


def where(picture):
  """Mean place (x, y) and number of the red pixels."""
  values = picture.astype(int)
  red = (values[..., 0] > 150) & (values[..., 1] < 90)
  y, x = np.nonzero(red)
  return (x.mean() if x.size else np.nan), (y.mean() if y.size else np.nan), x.size


def test_the_same_bytes():
  film = world.film(0, 'val', 3)
  first = np.stack(list(render.film_pictures(film, 4, 64)))
  render._background.cache_clear()
  assert np.array_equal(first, np.stack(list(render.film_pictures(film, 4, 64))))
  assert first.dtype == np.uint8 and first.shape == (round(film.seconds * 4), 64, 64, 3)


@pytest.mark.parametrize(
  ('motion', 'axis', 'sign'), [('moves left', 0, -1), ('moves right', 0, 1), ('rises', 1, -1), ('falls', 1, 1)]
)
def test_things_move_as_they_are_said_to(motion, axis, sign):
  number = [concept[0] for concept in words.MOTIONS].index(motion)
  places = [where(render.picture(one(number), time, 64)) for time in (0.5, 2.0, 3.5)]
  steps = np.diff([place[axis] for place in places])
  assert (steps * sign > 5).all()
  assert (np.abs(np.diff([place[1 - axis] for place in places])) < 1).all()


@pytest.mark.parametrize(('motion', 'sign'), [('grows', 1), ('shrinks', -1)])
def test_things_grow_and_shrink(motion, sign):
  number = [concept[0] for concept in words.MOTIONS].index(motion)
  areas = [where(render.picture(one(number), time, 64))[2] for time in (0.5, 2.0, 3.5)]
  assert (np.diff(areas) * sign > 20).all()


def test_things_blink_and_rest():
  number = [concept[0] for concept in words.MOTIONS].index('blinks')
  shown = [where(render.picture(one(number), time, 64))[2] > 0 for time in np.arange(0, 2.8, 0.2)]
  assert 0.3 < np.mean(shown) < 0.7
  rest = one(len(words.MOTIONS) - 1)
  assert where(render.picture(rest, 0.0, 64)) == where(render.picture(rest, 3.0, 64))


def test_sizes_and_shapes_differ():
  rest = len(words.MOTIONS) - 1
  assert where(render.picture(one(rest, 1), 0, 64))[2] > 2 * where(render.picture(one(rest, 0), 0, 64))[2]
  shapes = [render.picture(one(rest, 1, shape), 0, 64) for shape in range(len(words.SHAPES))]
  for number, picture in enumerate(shapes):
    assert where(picture)[2] > 40
    assert not any(np.array_equal(picture, other) for other in shapes[:number])


def test_backgrounds_differ_and_light_is_a_factor():
  rest = one(len(words.MOTIONS) - 1)
  grounds = [
    render.picture(dataclasses.replace(rest, background=kind), 0, 64).astype(float)
    for kind in range(len(words.BACKGROUNDS))
  ]
  for number, ground in enumerate(grounds):
    assert all(np.abs(ground - other).mean() > 5 for other in grounds[:number])
  assert render.picture(rest, 0, 64, light=0.5).mean() < 0.6 * render.picture(rest, 0, 64).mean()
