"""Relational distillation against plain loops."""

import itertools

import jax
import numpy as np
import pytest

from dlkd_jax.losses.relational import text_angle, text_distance
from tests.losses import problems
from tests.losses.problems import Q, make_problem
from tests.losses.test_diversity import inputs_of, unit, vectors


def smooth(x):
  return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def scaled(rows):
  rows = unit(rows)
  distances = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
  return distances / distances[~np.eye(len(rows), dtype=bool)].mean()


@pytest.mark.parametrize('captions', [2, 7, Q])
def test_distances(captions):
  problem, queries, teacher = make_problem(captions, 5), vectors(), vectors(1, 4)

  def oracle(queries):
    gaps = scaled(queries[:captions]) - scaled(teacher[:captions])
    return problems.mean(smooth(x) for x in gaps.ravel())

  def loss(queries):
    return text_distance(inputs_of(problem, queries, problem.curve, teacher), 'e', None)

  (value, parts), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(queries)
  np.testing.assert_allclose(value, oracle(queries), rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(gradient, problems.numerical_gradient(oracle, queries), atol=1e-4)
  if captions > 2:
    others = ~np.eye(captions, dtype=bool)
    expected = np.corrcoef(scaled(queries[:captions])[others], scaled(teacher[:captions])[others])[0, 1]
    np.testing.assert_allclose(parts['correlation'], expected, atol=1e-5)


@pytest.mark.parametrize('captions', [3, 7])
def test_angles(captions):
  problem, queries, teacher = make_problem(captions, 5), vectors(), vectors(1, 4)

  def angle(rows, i, j, k):
    edges = [rows[x] - rows[i] for x in (j, k)]
    lengths = [np.linalg.norm(x) for x in edges]
    return float(edges[0] @ edges[1] / (lengths[0] * lengths[1])) if min(lengths) > 0 else 0.0

  def oracle(queries):
    student, reference = unit(queries), unit(teacher)
    triples = itertools.product(range(captions), repeat=3)
    return problems.mean(smooth(angle(student, *t) - angle(reference, *t)) for t in triples)

  def loss(queries, most=Q):
    return text_angle(inputs_of(problem, queries, problem.curve, teacher), 'e', jax.random.key(0), captions=most)[0]

  value, gradient = jax.jit(jax.value_and_grad(loss))(queries)
  np.testing.assert_allclose(value, oracle(queries), rtol=1e-4)
  np.testing.assert_allclose(gradient, problems.numerical_gradient(oracle, queries), atol=1e-4)
  fewer = jax.jit(jax.grad(loss), static_argnums=1)(queries, 3)
  assert np.isfinite(fewer).all() and (np.abs(fewer).max(axis=1) > 0).sum() == 3


def test_alike_captions_have_no_gradient_that_is_not_finite():
  problem, queries, teacher = make_problem(7, 5), vectors(), vectors(1, 4)
  queries[1] = queries[0]

  def loss(queries):
    inputs = inputs_of(problem, queries, problem.curve, teacher)
    return text_distance(inputs, 'e', None)[0] + text_angle(inputs, 'e', jax.random.key(0), captions=Q)[0]

  assert np.isfinite(jax.jit(jax.grad(loss))(queries)).all()
