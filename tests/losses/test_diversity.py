"""Losses on the captions of one video against plain loops, and the assignment against SciPy's."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from dlkd_jax.losses.diversity import assign, diverse, matching
from dlkd_jax.losses.total import BranchView, LossInputs
from tests.losses import problems
from tests.losses.problems import Q, make_problem

H = 6


def inputs_of(problem, queries, curve, teacher=None):
  """What the terms see of one device's branch, whose captions have these vectors and own curves."""
  pairs, own_mask, teacher = jax.tree.map(jnp.asarray, (problem.pairs, problem.own_mask, teacher))
  view = BranchView(None, None, None, None, curve, own_mask, queries, queries)
  reference = None if teacher is None else BranchView(None, None, None, None, queries=teacher, own_queries=teacher)
  return LossInputs({'e': view}, reference, pairs, pairs, {}, jax.random.key(0))


def vectors(seed=0, size=H):
  return np.random.default_rng(seed).standard_normal((Q, size)).astype(np.float32)


def unit(rows):
  rows = np.asarray(rows, np.float64)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def together(problem):
  own = problem.own
  return [(i, j) for i, j in itertools.permutations(range(problem.captions), 2) if own[i] == own[j]]


@pytest.mark.parametrize(('captions', 'videos'), [(1, 1), (9, 3), (Q, 7)])
def test_diverse(captions, videos):
  problem, queries = make_problem(captions, videos), vectors()

  def oracle(queries):
    cosine = unit(queries) @ unit(queries).T
    terms = [(1 + cosine[p]) * math.log1p(math.exp(8.0 * (cosine[p] + 0.1))) for p in together(problem)]
    return sum(terms) / captions

  def loss(queries):
    return diverse(inputs_of(problem, queries, problem.curve), 'e', None, margin=0.1, sharpness=8.0)

  (value, parts), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(queries)
  np.testing.assert_allclose(value, oracle(queries), rtol=1e-5)
  np.testing.assert_allclose(gradient, problems.numerical_gradient(oracle, queries), atol=1e-5)
  cosine = unit(queries) @ unit(queries).T
  np.testing.assert_allclose(parts['same_video_cosine'], problems.mean(cosine[p] for p in together(problem)), atol=1e-6)


@pytest.mark.parametrize('shape', [(1, 1), (1, 4), (4, 4), (5, 9), (8, 32)])
def test_the_assignment_has_the_least_sum(shape):
  cost = np.random.default_rng(0).standard_normal((20, *shape)).astype(np.float32)
  cost[::3] = np.round(2 * cost[::3])  # Ties.
  found = np.asarray(jax.jit(jax.vmap(assign))(cost))
  for one, columns in zip(cost, found, strict=True):
    assert len(set(columns)) == shape[0]
    rows, best = linear_sum_assignment(one)
    np.testing.assert_allclose(one[np.arange(shape[0]), columns].sum(), one[rows, best].sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('taken', [3, 8])
@pytest.mark.parametrize(('captions', 'videos'), [(3, 3), (Q, 3), (Q, 7), (1, 1)])
def test_matching(captions, videos, taken):
  """Also of videos with more captions than frames, or than are taken."""
  problem = make_problem(captions, videos, seed=1)
  cosines, distinct = [], []
  for video in range(videos):
    mine = [q for q in range(captions) if problem.own[q] == video]
    if len(mine) < 2:
      continue
    mine, frames = mine[:taken], np.flatnonzero(problem.frame_mask[video])
    curves = problem.curve[np.ix_(mine, frames)]
    cosines += [(mine[a], frames[b]) for a, b in zip(*linear_sum_assignment(-curves), strict=True)]
    best = curves.argmax(axis=1)
    distinct += [best[i] not in best[:i] for i in range(len(mine))]

  def loss(curve):
    return matching(inputs_of(problem, vectors(), curve), 'e', None, captions=taken)

  (value, parts), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(problem.curve)
  np.testing.assert_allclose(value, 1 - np.mean([problem.curve[p] for p in cosines]) if cosines else 0.0, atol=1e-5)
  np.testing.assert_allclose(parts['distinct_best'], problems.mean(distinct), atol=1e-6)
  expected = np.zeros_like(problem.curve)
  for place in cosines:
    expected[place] -= 1 / len(cosines)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_no_gradient_flows_through_the_choice():
  problem = make_problem(Q, 3)
  second = jax.jit(jax.hessian(lambda c: matching(inputs_of(problem, vectors(), c), 'e', None, captions=4)[0]))
  assert not np.any(second(jnp.asarray(problem.curve)))
