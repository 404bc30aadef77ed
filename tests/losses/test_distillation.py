"""The frame-curve divergence against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.losses.total import frame_curve_kl
from tests.losses import problems
from tests.losses.problems import B, Q, make_problem


@jax.jit
def divergence(teacher, student, frame_mask, caption_mask):
  function = lambda s, t: frame_curve_kl(t, s, frame_mask & caption_mask[:, None], temperature=0.2)  # noqa: E731
  return jax.value_and_grad(function)(student, teacher)


def run(problem, **changed):
  curves = {'teacher': problem.teacher_curve, 'student': problem.curve} | changed
  masks = problem.frame_mask[problem.labels], problem.caption_mask
  return divergence(jnp.asarray(curves['teacher']), jnp.asarray(curves['student']), *masks)


@pytest.mark.parametrize(('captions', 'videos'), [(1, 1), (5, 3), (Q, B)])
def test_against_loops(captions, videos):
  problem = make_problem(captions, videos, seed=captions)
  value, gradient = run(problem)
  np.testing.assert_allclose(value, problems.kl(problem), rtol=1e-5, atol=1e-6)
  expected = problems.numerical_gradient(lambda c: problems.kl(problem, curve=c), problem.curve)
  np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_what_stands_at_padding_does_not_matter():
  problem = make_problem(5, 3, seed=1)
  real = problem.frame_mask[problem.labels] & problem.caption_mask[:, None]
  assert not real.all(axis=1)[:5].all()
  value, gradient = run(problem)
  changed, changed_gradient = run(
    problem, student=np.where(real, problem.curve, 9e5), teacher=np.where(real, problem.teacher_curve, -9e5)
  )
  assert value == changed
  np.testing.assert_array_equal(gradient, changed_gradient)


def test_zero_where_student_follows_teacher_or_no_caption_is_real():
  problem = make_problem(Q, B)
  value, gradient = run(problem, student=problem.teacher_curve)
  np.testing.assert_allclose(value, 0.0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
  value, gradient = run(make_problem(0, B))
  assert value == 0.0 and not np.asarray(gradient).any()


@pytest.mark.parametrize('temperatures', [(0.2, None), (0.5, None), (0.2, 0.07)])
def test_temperatures(temperatures):
  problem = make_problem(4, 3, seed=2)
  value = frame_curve_kl(
    problem.teacher_curve,
    problem.curve,
    problem.own_mask,
    temperature=temperatures[0],
    teacher_temperature=temperatures[1],
  )
  expected = problems.kl(problem, temperature=temperatures[0], teacher_temperature=temperatures[1])
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_refuses_shapes_that_disagree():
  problem = make_problem(4, 3)
  with pytest.raises(AssertionError):
    frame_curve_kl(problem.teacher_curve, problem.curve[:, :-1], problem.own_mask, temperature=0.2)


def test_captions_without_an_own_frame_add_nothing():
  """Their videos are on other devices: the parts of a mask add up to the whole."""
  problem = make_problem(Q, B, seed=5)
  own = problem.frame_mask[problem.labels]
  whole, gradient = run(problem)
  values, gradients = [], []
  for here in (problem.labels < 3, problem.labels >= 3):
    value, part = divergence(problem.teacher_curve, problem.curve, own & here[:, None], problem.caption_mask)
    assert not np.asarray(part)[~here].any()
    values.append(value)
    gradients.append(part)
  np.testing.assert_allclose(sum(values), whole, rtol=1e-5)
  np.testing.assert_allclose(sum(gradients), gradient, atol=1e-6)
