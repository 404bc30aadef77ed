"""Random rows of packed videos, and maxima over frames with their gradients by plain loops in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.layout import Layout
from dlkd_jax.similarity.max_over_frames import max_frame_similarity, own_mask

PADDED = -1e10


@dataclasses.dataclass(frozen=True)
class World:
  """Queries, frames and places of videos; `weights` make one number of all results that count."""

  queries: np.ndarray
  frames: np.ndarray
  layout: Layout
  labels: np.ndarray
  real: int  # Columns that have a video; the others are padded.
  weights: tuple


def random_world(seed, captions=7, rows=4, length=12, slots=3, hidden=6, padded=2, ties=False):
  """Packs videos of random lengths. With `ties` many products are equal, and exactly so: all norms are 2."""
  rng = np.random.default_rng(seed)
  slot = np.full((rows, length), -1, np.int32)
  position = np.zeros((rows, length), np.int32)
  where = []
  for row in range(rows):
    at = 0
    for s in range(slots):
      count = int(rng.integers(1, max(2, 2 * length // slots)))
      if at + count > length or rng.random() < 0.1:
        break
      slot[row, at : at + count], position[row, at : at + count] = s, np.arange(count)
      where.append(row * slots + s)
      at += count
  where = rng.permutation(where).astype(np.int32)
  real = len(where)
  padded = padded if real else max(padded, 1)
  where = np.concatenate([where, np.zeros(padded, np.int32)])
  if ties:
    frames = np.zeros((rows, length, hidden), np.float32)
    for index in np.ndindex(rows, length):
      frames[index][rng.choice(hidden, 4, replace=False)] = rng.choice([-1.0, 1.0], 4)
    queries = rng.integers(-1, 2, (captions, hidden)).astype(np.float32)
  else:
    frames = rng.standard_normal((rows, length, hidden)) * rng.uniform(0.2, 5.0, (rows, length, 1))
    frames, queries = frames.astype(np.float32), rng.standard_normal((captions, hidden)).astype(np.float32)
  labels = rng.integers(-1, real, captions) if real else np.full(captions, -1)
  sizes = ((captions, real + padded),) * 2 + ((captions, length),)
  weights = tuple(rng.standard_normal(size).astype(np.float32) for size in sizes)
  layout = Layout(slot, position, np.zeros((rows, slots), np.int32), where)
  return World(queries, frames, layout, labels.astype(np.int32), real, weights)


def run(world, form, curves=True, dtype=jnp.float32, **options):
  """Returns the similarities and the gradients of their weighted sum over what is real."""

  def objective(queries, frames):
    result = max_frame_similarity(queries, frames, world.layout, labels, form=form, **options)
    columns = jnp.arange(len(world.layout.where))[None] < world.real
    total = jnp.sum(jnp.where(columns, world.weights[0] * result.cosine + world.weights[1] * result.dot, 0.0))
    if curves:
      total += jnp.sum(jnp.where(own_mask(world.layout, world.labels), world.weights[2] * result.own_curve, 0.0))
    return total, result

  labels = world.labels if curves else None
  arrays = jnp.asarray(world.queries, dtype), jnp.asarray(world.frames, dtype)
  (_, result), gradients = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(*arrays)
  return result, gradients


def loops(world, curves=True):
  """The same in float64, frame by frame: (cosine, dot, own curve where it is meaningful), (gradients)."""
  queries, frames = (x.astype(np.float64) for x in (world.queries, world.frames))
  captions, columns, length = len(queries), len(world.layout.where), frames.shape[1]
  cosine, dot = np.full((captions, columns), PADDED), np.full((captions, columns), PADDED)
  curve = np.zeros((captions, length))
  gradients = np.zeros_like(queries), np.zeros_like(frames)

  def cosine_of(q, frame):
    norms = np.linalg.norm(queries[q]) * np.linalg.norm(frames[frame])
    return queries[q] @ frames[frame] / norms if norms else 0.0

  def add_cosine(q, frame, weight):
    x, f = queries[q], frames[frame]
    size_x, size_f = np.linalg.norm(x), np.linalg.norm(f)
    if size_x and size_f:
      value = x @ f / (size_x * size_f)
      gradients[0][q] += weight * (f / (size_x * size_f) - value * x / size_x**2)
      gradients[1][frame] += weight * (x / (size_x * size_f) - value * f / size_f**2)

  for q in range(captions):
    for column in range(world.real):
      row, slot = divmod(int(world.layout.where[column]), world.layout.slots)
      places = [(row, l) for l in range(length) if world.layout.slot[row, l] == slot]
      # `max` keeps the first of equal ones.
      best = max(places, key=lambda place: queries[q] @ frames[place])
      dot[q, column] = queries[q] @ frames[best]
      gradients[0][q] += world.weights[1][q, column] * frames[best]
      gradients[1][best] += world.weights[1][q, column] * queries[q]
      best = max(places, key=lambda place: cosine_of(q, place))
      cosine[q, column] = cosine_of(q, best)
      add_cosine(q, best, world.weights[0][q, column])
      if curves and world.labels[q] == column:
        for place in places:
          curve[q, place[1]] = cosine_of(q, place)
          add_cosine(q, place, world.weights[2][q, place[1]])
  return (cosine, dot, curve), gradients


def check(world, form, curves=True, **options):
  """Compares a form with the loops, in values and gradients."""
  result, gradients = run(world, form, curves, **options)
  (cosine, dot, curve), expected = loops(world, curves)
  np.testing.assert_allclose(result.cosine, cosine, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(result.dot, dot, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(result.cosine[:, world.real :], np.float32(PADDED))
  np.testing.assert_array_equal(result.dot[:, world.real :], np.float32(PADDED))
  if curves:
    mask = own_mask(world.layout, world.labels)
    np.testing.assert_allclose(np.where(mask, result.own_curve, 0.0), curve, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(result.own_curve)[world.labels < 0], 0.0)
  else:
    assert result.own_curve is None
  for given, loop in zip(gradients, expected, strict=True):
    np.testing.assert_allclose(given, loop, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(loop).max()))
  assert not np.asarray(gradients[1])[world.layout.slot < 0].any()


def unpacked(world):
  """The same videos one a row, with columns in the same order; the last rows are empty."""
  columns, (_, length, hidden) = len(world.layout.where), world.frames.shape
  frames, mask = np.zeros((columns, length, hidden), np.float32), np.zeros((columns, length), bool)
  for column in range(world.real):
    row, slot = divmod(int(world.layout.where[column]), world.layout.slots)
    own = world.frames[row][world.layout.slot[row] == slot]
    frames[column, : len(own)], mask[column, : len(own)] = own, True
  return frames, mask
