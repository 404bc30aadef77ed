"""The whole objective: weights, options, and independence of padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.errors import UserError
from dlkd_jax.losses.total import BranchView, LossInputs, Term, total_loss
from tests import options as made
from tests.losses import problems
from tests.losses.problems import B, Q, make_problem

ALPHA, BETA, W = 0.6, 0.7, 0.9


def changed(**changes):
  return made.terms(hard_pool=1, **changes)


BASE = changed()


@functools.cache
def value_and_gradient(options, dual=True, teacher=True):
  """Value with parts, and the gradient with respect to all similarities of the branches.

  Not jitted: the options are static, and eight compilations cost more than all the calls.
  """

  def loss(arrays, fixed, key, coefficients):
    pairs, cosine, dot = fixed['pairs'], arrays['cosine_i'], arrays['dot_i']
    branches = {'inheritance': BranchView(cosine, dot, cosine, dot, arrays['curve'], fixed['own_mask'])}
    if dual:
      cosine, dot = arrays['cosine_e'], arrays['dot_e']
      branches['exploration'] = BranchView(cosine, dot, cosine, dot)
    dot = fixed['teacher_dot']
    reference = BranchView(None, dot, None, dot, fixed['teacher_curve']) if teacher else None
    return total_loss(LossInputs(branches, reference, pairs, pairs, coefficients, key), options, key)

  return jax.value_and_grad(loss, has_aux=True)


def run(problem, options=BASE, dual=True, teacher=True, seed=0, **scheduled):
  names = ('pairs', 'own_mask', 'teacher_dot', 'teacher_curve')
  fixed = {name: getattr(problem, name) for name in names}
  arrays = {
    'cosine_i': problem.cosine,
    'dot_i': problem.dot,
    'cosine_e': problem.teacher_cosine,  # Any other matrices of the right kind.
    'dot_e': problem.teacher_dot,
    'curve': problem.curve,
  }
  values = {'alpha': ALPHA, 'beta': BETA, 'distillation': W} | scheduled
  scalars = made.coefficients(**values)
  return value_and_gradient(options, dual, teacher)(arrays, fixed, jax.random.key(seed), scalars)


def expected_terms(problem, teacher=True, alpha=ALPHA, beta=BETA):
  """Terms of the objective from the loops; the other branch's matrices are the teacher's."""
  inheritance, exploration = problem.real(problem.dot), problem.real(problem.teacher_dot)
  hard = set(range(int(alpha * problem.captions))), set(range(int(alpha * problem.videos)))

  def soft(dot, reference):
    return 0.04 * problems.soft_nce(dot, reference, problem.own, *hard, alpha, beta)

  terms = {
    'inheritance/triplet': sum(problems.triplet_hardest(problem.real(problem.cosine), problem.own, 0.1)),
    'exploration/triplet': sum(problems.triplet_hardest(problem.real(problem.teacher_cosine), problem.own, 0.1)),
    'inheritance/nce': soft(inheritance, exploration if teacher else inheritance),
    'exploration/nce': soft(exploration, exploration),
  }
  return terms | ({'inheritance/distillation': 0.1 * W * problems.kl(problem)} if teacher else {})


@pytest.mark.parametrize(('captions', 'videos'), [(1, 1), (7, 4), (Q, B)])
def test_weighted_sum_of_the_parts_whatever_the_padding(captions, videos):
  problem = make_problem(captions, videos, seed=captions)
  (value, parts), gradients = run(problem)
  expected = expected_terms(problem)
  for name, term in expected.items():
    np.testing.assert_allclose(parts[name], term, rtol=2e-5, atol=1e-6, err_msg=name)
  np.testing.assert_allclose(value, sum(expected.values()), rtol=1e-5)
  np.testing.assert_allclose(parts['total'], sum(parts[name] for name in expected), rtol=1e-6)
  padded = ~(problem.caption_mask[:, None] & problem.video_mask)
  for name, gradient in gradients.items():
    assert np.isfinite(gradient).all(), name
    if name != 'curve':
      assert not np.asarray(gradient)[padded].any(), name
  assert not np.asarray(gradients['curve'])[~problem.caption_mask].any()


def test_options_scale_their_terms():
  problem = make_problem(Q, B)
  parts = run(problem)[0][1]
  options = changed(nce_weight=0.4, distillation_weight=1.0)
  scaled = run(problem, options)[0][1]
  for name in ('inheritance/nce', 'exploration/nce', 'inheritance/distillation'):
    np.testing.assert_allclose(scaled[name], 10 * parts[name], rtol=1e-5)
  np.testing.assert_allclose(run(problem, distillation=0.0)[0][1]['inheritance/distillation'], 0.0)
  np.testing.assert_allclose(scaled['inheritance/triplet'], parts['inheritance/triplet'])


def test_without_teacher_both_branches_follow_themselves():
  problem = make_problem(8, 5, seed=1)
  (value, parts), _ = run(problem, teacher=False)
  expected = expected_terms(problem, teacher=False)
  assert 'inheritance/distillation' not in parts
  for name, term in expected.items():
    np.testing.assert_allclose(parts[name], term, rtol=2e-5, atol=1e-6, err_msg=name)
  np.testing.assert_allclose(value, sum(expected.values()), rtol=1e-5)


def test_single_branch_has_the_inheritance_terms_alone():
  problem = make_problem(Q, B)
  both, single = run(problem)[0][1], run(problem, dual=False)[0][1]
  assert not any(name.startswith('exploration') for name in single)
  for name in ('inheritance/nce', 'inheritance/distillation', 'inheritance/triplet'):
    np.testing.assert_allclose(single[name], both[name], rtol=1e-6)


def test_hard_labels_do_not_depend_on_alpha_and_beta():
  problem, options = make_problem(Q, B), changed(soft_labels=False)
  parts, other = run(problem, options)[0][1], run(problem, options, alpha=0.1, beta=0.2)[0][1]
  text, video = problems.hard_nce(problem.real(problem.dot), problem.own)
  np.testing.assert_allclose(parts['inheritance/nce'], 0.04 * (text + video), rtol=1e-5)
  assert parts['total'] == other['total']


def test_random_split_changes_the_contrastive_terms_with_the_key():
  problem, options = make_problem(Q, B), changed(random_split=True)
  values = {float(run(problem, options, seed=seed)[0][1]['inheritance/nce']) for seed in range(5)}
  assert len(values) == 5
  fixed = {float(run(problem, seed=seed)[0][1]['inheritance/nce']) for seed in range(5)}
  assert len(fixed) == 1
  # With no soft row the draw does not matter.
  np.testing.assert_allclose(run(problem, options, alpha=1.0)[0][0], run(problem, alpha=1.0)[0][0], rtol=1e-6)


@pytest.mark.parametrize('captions', [3, 6, Q])
def test_kl_captions_is_the_sum_at_that_many_captions(captions):
  problem, options = make_problem(captions, 4, seed=2), changed(kl_captions=6.0)
  value = run(problem, options)[0][1]['inheritance/distillation']
  np.testing.assert_allclose(value, 0.1 * W * problems.kl(problem) / captions * 6.0, rtol=1e-5)
  if captions == 6:
    np.testing.assert_allclose(value, run(problem)[0][1]['inheritance/distillation'], rtol=1e-6)


def test_kl_captions_does_not_grow_with_the_batch():
  half = make_problem(6, 4, seed=3)
  twice = dataclasses.replace(
    half,
    captions=12,
    caption_mask=np.ones(Q, bool),
    **{n: np.concatenate([getattr(half, n)[:6]] * 2) for n in ('labels', 'curve', 'teacher_curve', 'cosine', 'dot')},
  )
  options = changed(kl_captions=6.0)
  rescaled = [run(p, options)[0][1]['inheritance/distillation'] for p in (half, twice)]
  summed = [run(p)[0][1]['inheritance/distillation'] for p in (half, twice)]
  np.testing.assert_allclose(rescaled[1], rescaled[0], rtol=1e-5)
  np.testing.assert_allclose(summed[1], 2 * summed[0], rtol=1e-5)


def test_stop_target_gradient_changes_only_the_exploration_gradient():
  problem, options = make_problem(Q, B), changed(stop_target_gradient=True)
  (value, _), gradients = run(problem)
  (stopped, _), stopped_gradients = run(problem, options)
  assert value == stopped
  for name in ('cosine_i', 'dot_i', 'cosine_e', 'curve'):
    np.testing.assert_allclose(stopped_gradients[name], gradients[name], atol=1e-7, err_msg=name)
  assert np.abs(stopped_gradients['dot_e'] - gradients['dot_e']).max() > 1e-5
  dot, hard = problem.real(problem.teacher_dot), (set(range(int(ALPHA * Q))), set(range(int(ALPHA * B))))
  oracle = lambda d: 0.04 * problems.soft_nce(d, dot, problem.own, *hard, ALPHA, BETA)  # noqa: E731
  np.testing.assert_allclose(stopped_gradients['dot_e'], problems.numerical_gradient(oracle, dot), atol=1e-6)


def test_teacher_temperature_divides_the_soft_targets_and_the_teacher_curve():
  problem, options = make_problem(9, 5, seed=4), changed(teacher_temperature=0.5)
  parts = run(problem, options)[0][1]
  hard = set(range(int(ALPHA * 9))), set(range(int(ALPHA * 5)))
  dot, reference = problem.real(problem.dot), problem.real(problem.teacher_dot) / 0.5
  expected = 0.04 * problems.soft_nce(dot, reference, problem.own, *hard, ALPHA, BETA)
  np.testing.assert_allclose(parts['inheritance/nce'], expected, rtol=1e-5)
  expected = 0.1 * W * problems.kl(problem, teacher_temperature=0.5)
  np.testing.assert_allclose(parts['inheritance/distillation'], expected, rtol=1e-5)


def test_a_term_is_weighted_scheduled_and_logged_with_its_parts():
  problem, seen = make_problem(Q, B), []

  def spread(inputs, branch, key, *, scale):
    seen.append(branch)
    view, captions = inputs.branches[branch], inputs.text.captions
    return scale * jnp.sum(jnp.where(captions, view.text_dot[:, 0], 0.0)), {'captions': jnp.sum(captions)}

  def table(weight, schedule=None):
    return (*BASE, Term('spread', spread, weight, ('exploration',), schedule, options=(('scale', 2.0),)))

  (value, parts), gradients = run(problem, table(0.5, 'alpha'))
  (without, others), without_gradients = run(problem)
  expected = 0.5 * ALPHA * 2.0 * problem.teacher_dot[:, 0].sum()
  np.testing.assert_allclose(parts['exploration/spread'], expected, rtol=1e-5)
  np.testing.assert_allclose(value, without + expected, rtol=1e-5)
  assert parts['exploration/spread/captions'] == Q and set(parts) - set(others) == {
    'exploration/spread',
    'exploration/spread/captions',
  }
  difference = gradients['dot_e'] - without_gradients['dot_e']
  np.testing.assert_allclose(difference[:, 0], ALPHA, rtol=1e-4)
  assert set(seen) == {'exploration'}
  seen.clear()
  assert run(problem, table(0.0))[0][0] == without and not seen


def test_what_needs_the_teacher_is_left_out_without_one_and_asks_for_a_vector_a_frame():
  problem = make_problem(Q, B)
  narrow = dataclasses.replace(problem, curve=problem.curve[:, :3])
  with pytest.raises(UserError, match="'inheritance' has no vector for each frame"):
    run(narrow)
  assert 'inheritance/distillation' not in run(narrow, teacher=False)[0][1]
