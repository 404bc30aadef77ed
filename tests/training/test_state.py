"""The train step: compiled once, state donated, padding without influence, keys, graph size."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlkd_jax import sharding
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training.objective import compute_objective
from dlkd_jax.training.state import create_state
from tests import options as made
from tests.training import worlds

LATE = 2 * worlds.STEPS_PER_EPOCH  # Hard negatives are on.


@pytest.fixture(scope='module')
def exact():
  return worlds.world(1, 0.0, worlds.EXACT)


def test_compiles_once_per_batch_shape_while_all_coefficients_change(exact):
  batch = sharding.shard_batch(worlds.make_batch(), exact.mesh)
  state, key, seen, before = exact.state(), jax.random.key(5), [], exact.step._cache_size()
  first = state
  for number in range(5 * worlds.STEPS_PER_EPOCH):
    assert int(state.step) == number
    state, metrics = exact.step(state, batch, key)
    metrics = metrics_lib.fetch(metrics)
    seen.append(tuple(metrics[f'schedule/{n}'] for n in ('alpha', 'beta', 'distillation', 'learning_rate')))
  assert exact.step._cache_size() <= before + 1 and exact.step._cache_size() >= 1
  assert len({s[:3] for s in seen}) == 5 and len(set(seen)) == len(seen)
  np.testing.assert_allclose(seen[4], (0.8 * 0.95**2, 0.8 * 0.95**2, 0.95**2, exact.rate(4)), rtol=1e-6)
  # Of the recorder's first state nothing is read, so there is nothing to donate.
  donated = first.replace(opt_state=first.opt_state[1])
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_first_parameters_of_all_seeds_are_of_one_program():
  drawn = []

  def make(key):
    drawn.append(key)
    return {'kernel': jax.random.normal(key, (3,))}

  keys = jax.random.split(jax.random.key(0))
  found = [create_state(make, optax.adam(1.0), sharding.make_mesh(jax.devices()[:1]), key).params for key in keys]
  np.testing.assert_allclose(*([each['kernel'] for each in own] for own in (found, list(map(make, keys)))), rtol=1e-6)
  assert sum(isinstance(key, jax.core.Tracer) for key in drawn) >= 2, 'a key is a constant of its program'
  assert not np.array_equal(*(each['kernel'] for each in found))


def test_padding_changes_neither_loss_nor_gradients(exact):
  gradients, metrics = exact.run(worlds.make_batch(), LATE)
  size = exact.step._cache_size()
  wide = worlds.make_batch(videos=10, captions=19, frames=8, words=6)
  padded_gradients, padded_metrics = exact.run(wide, LATE)
  assert exact.step._cache_size() == size + 1
  exact.run(wide, LATE + 1)
  assert exact.step._cache_size() == size + 1
  for name, value in metrics.items():
    np.testing.assert_allclose(padded_metrics[name], value, rtol=2e-5, atol=1e-7, err_msg=name)
  assert metrics['batch/videos'] == worlds.VIDEOS and metrics['batch/captions'] == worlds.QUERIES
  padded = flax.traverse_util.flatten_dict(padded_gradients, sep='/')
  for name, gradient in flax.traverse_util.flatten_dict(gradients, sep='/').items():
    scale = max(np.linalg.norm(gradient), 1e-4)  # The key bias has no true gradient, only rounding.
    assert np.linalg.norm(padded[name] - gradient) < 1e-5 * scale, name
    assert np.isfinite(gradient).all() and (np.linalg.norm(gradient) > 0), name


def test_metrics_name_every_part_and_their_sum(exact):
  _, metrics = exact.run(worlds.make_batch(), LATE)
  terms = (
    'inheritance/triplet',
    'exploration/triplet',
    'inheritance/nce',
    'exploration/nce',
    'inheritance/distillation',
  )
  np.testing.assert_allclose(metrics['loss/total'], sum(metrics[f'loss/{t}'] for t in terms), rtol=1e-6)


def test_the_run_key_and_the_step_number_decide_the_draws():
  world, batch = worlds.world(1, 0.3, worlds.DRAWN), worlds.make_batch()
  gradients, metrics = world.run(batch, LATE)
  again, same = world.run(batch, LATE)
  assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (gradients, again)), strict=True))
  assert same == metrics
  later, other_key = world.run(batch, LATE + 1)[1], world.run(batch, LATE, key=6)[1]
  assert later['schedule/alpha'] == metrics['schedule/alpha']  # The same epoch.
  assert len({float(m['loss/total']) for m in (metrics, later, other_key)}) == 3


def equations(jaxpr):
  """Counts the equations of a jaxpr, those of inner ones included."""
  count = 0
  for equation in jaxpr.eqns:
    count += 1
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          count += equations(inner)
  return count


def test_the_graph_does_not_grow_with_the_batch():
  student = worlds.make_student(0.1)

  def size(videos, captions):
    batch = worlds.make_batch(videos, captions)
    step = functools.partial(
      compute_objective,
      student=student,
      coefficients=worlds.coefficients(jnp.asarray(0)),
      options=made.objective_options(),
    )
    gradient = jax.grad(lambda p, b, k: step(p, batch=b, key=k), has_aux=True)
    return equations(jax.make_jaxpr(gradient)(worlds.first_parameters(), batch, jax.random.key(0)).jaxpr)

  assert size(8, 16) == size(40, 300) > 500
