"""Maxima over frames against float64 loops, their gradients against finite differences, and padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.layout import Layout
from dlkd_jax.similarity.common import inverse_norm
from dlkd_jax.similarity.max_over_frames import choose_form, max_frame_similarity, own_mask

Q, B, L, H = 5, 4, 6, 3
similarity = jax.jit(max_frame_similarity)


class World:
  """Random queries and frames; the third video is cut short, the last is all padding."""

  def __init__(self, seed=0):
    rng = np.random.default_rng(seed)
    self.queries = rng.standard_normal((Q, H)).astype(np.float32)
    self.frames = (rng.standard_normal((B, L, H)) * rng.uniform(0.1, 9.0, (B, L, 1))).astype(np.float32)
    self.mask = np.ones((B, L), bool)
    self.mask[2, 2:] = False
    self.mask[1, [0, 4]] = False  # Nothing relies on padding coming last.
    self.mask[3] = False
    self.labels = rng.integers(0, 3, Q).astype(np.int32)
    self.weights = rng.standard_normal((3, Q, max(B, L)))

  @functools.cached_property
  def result(self):
    return similarity(self.queries, self.frames, self.mask, self.labels)


def loops(world, queries, frames):
  """Cosine, dot and own curve in float64."""
  cosine, dot, curve = np.full((Q, B), -1e10), np.full((Q, B), -1e10), np.zeros((Q, L))
  for q in range(Q):
    for v in range(B):
      for l in range(L):
        product = sum(float(queries[q, h]) * float(frames[v, l, h]) for h in range(H))
        norms = np.sqrt(np.sum(np.square(queries[q], dtype=np.float64)))
        norms = norms * np.sqrt(np.sum(np.square(frames[v, l], dtype=np.float64)))
        if world.mask[v, l]:
          cosine[q, v], dot[q, v] = max(cosine[q, v], product / norms), max(dot[q, v], product)
        if world.labels[q] == v:
          curve[q, l] = product / norms
  return cosine, dot, curve


@pytest.fixture(scope='module', params=[0, 1])
def world(request):
  return World(request.param)


def test_against_loops(world):
  cosine, dot, curve = loops(world, world.queries, world.frames)
  np.testing.assert_allclose(world.result.cosine[:, :3], cosine[:, :3], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(world.result.dot[:, :3], dot[:, :3], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(world.result.own_curve, curve, rtol=1e-5, atol=1e-6)


def test_the_two_maxima_may_sit_on_different_frames():
  frames = np.array([[[0.1, 0.0], [5.0, 5.0]]], np.float32)
  result = similarity(np.array([[2.0, 0.0]], np.float32), frames, np.ones((1, 2), bool))
  np.testing.assert_allclose(result.cosine, [[1.0]], rtol=1e-6)
  np.testing.assert_allclose(result.dot, [[10.0]], rtol=1e-6)
  assert result.own_curve is None


def test_a_video_without_frames_is_below_every_real_one(world):
  np.testing.assert_array_equal(world.result.cosine[:, 3], np.float32(-1e10))
  np.testing.assert_array_equal(world.result.dot[:, 3], np.float32(-1e10))


def test_what_stands_at_padded_frames_does_not_matter(world):
  for filler in (0.0, 1e6):
    frames = np.where(world.mask[..., None], world.frames, np.float32(filler))
    result = similarity(world.queries, frames, world.mask, world.labels)
    np.testing.assert_array_equal(result.cosine, world.result.cosine)
    np.testing.assert_array_equal(result.dot, world.result.dot)


def objective(world, result):
  """A random linear function of all results at real frames."""
  real = world.mask[world.labels]
  parts = (result.cosine[:, :3], result.dot[:, :3], jnp.where(real, result.own_curve, 0.0))
  return sum(jnp.sum(w[:, : x.shape[1]] * x) for w, x in zip(world.weights, parts, strict=True))


@functools.cache
def gradients(seed, zero_padding=False):
  world = World(seed)
  frames = np.where(world.mask[..., None], world.frames, 0.0) if zero_padding else world.frames

  def function(queries, frames):
    return objective(world, max_frame_similarity(queries, frames, world.mask, world.labels))

  return world, jax.jit(jax.grad(function, argnums=(0, 1)))(world.queries, frames)


def test_gradients_against_finite_differences():
  world, (queries, frames) = gradients(0)

  def function(q, f):
    cosine, dot, curve = loops(world, q, f)
    parts = (cosine[:, :3], dot[:, :3], np.where(world.mask[world.labels], curve, 0.0))
    return sum(np.sum(w[:, : x.shape[1]] * x) for w, x in zip(world.weights, parts, strict=True))

  point = [world.queries.astype(np.float64), world.frames.astype(np.float64)]
  for x, gradient in zip(point, (queries, frames), strict=True):
    for index in np.ndindex(x.shape):
      saved, values = x[index], []
      for step in (1e-5, -1e-5):
        x[index] = saved + step
        values.append(function(*point))
      x[index] = saved
      np.testing.assert_allclose(gradient[index], (values[0] - values[1]) / 2e-5, rtol=1e-3, atol=1e-4)


def test_zero_rows_have_finite_gradients():
  world, given = gradients(0, zero_padding=True)
  _, expected = gradients(0)
  for gradient, other in zip(given, expected, strict=True):
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=1e-6)
  assert not np.asarray(given[1])[~world.mask].any()


def test_inverse_norm_and_its_gradient_at_zero():
  vectors = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(inverse_norm(vectors), [0.2, 1e12], rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(inverse_norm(x)))(vectors)
  np.testing.assert_allclose(gradient, [[-3 / 125, -4 / 125], [0.0, 0.0]], rtol=1e-5)


def test_refuses_sizes_that_disagree(world):
  with pytest.raises(AssertionError):
    max_frame_similarity(world.queries[:, :2], world.frames, world.mask)
  with pytest.raises(AssertionError):
    max_frame_similarity(world.queries, world.frames, world.mask[:, :3])


def test_chooses_the_form_by_platform():
  assert [choose_form('auto', platform) for platform in ('tpu', 'gpu', 'cpu', None)] == ['pallas'] + ['blocked'] * 3
  assert choose_form('plain', 'tpu') == 'plain'


def test_refuses_a_form_that_is_not_there(world):
  with pytest.raises(ValueError, match="'fast'"):
    max_frame_similarity(world.queries, world.frames, world.mask, form='fast')


def test_own_mask_names_the_frames_of_the_own_video():
  slot = np.array([[0, 0, 1, -1], [0, 1, 1, 1]], np.int32)
  layout = Layout(slot, np.zeros_like(slot), np.zeros((2, 2), np.int32), np.array([3, 0, 1], np.int32))
  expected = [[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(own_mask(layout, np.array([0, 1, 2, -1], np.int32)), np.array(expected, bool))
  np.testing.assert_array_equal(own_mask(slot >= 0, np.array([0, -1], np.int32)), [slot[0] >= 0, [False] * 4])
