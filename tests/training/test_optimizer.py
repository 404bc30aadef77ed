"""The optimiser against float64 loops."""

import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlkd_jax.training.checkpoints import Checkpoints, Progress, read_best
from dlkd_jax.training.optimizer import averaged, bert_adam, decays, warmup_linear
from dlkd_jax.training.state import TrainState

DECAYED = {'position_embedding', 'token_pooling/kernel', 'attention/query/kernel'}
SHAPES = {
  'position_embedding': (4, 3),
  'token_pooling/kernel': (3, 1),
  'attention/query/kernel': (3, 2),
  'attention/query/bias': (2,),
  'attention/norm/scale': (3,),
  'attention/norm/bias': (3,),
  'input_norm/scale': (3,),
  'position_norm/scale': (3,),
}
RATE, TOTAL, WARMUP = 0.05, 20, 0.2


def nest(flat):
  return {'inheritance': flax.traverse_util.unflatten_dict(flat, sep='/')}


def loops(theta, gradients, weight_decay, max_norm):
  """Follows every element on its own; `theta` and each entry of `gradients` are flat lists of one tensor."""
  theta, m, v = list(theta), [0.0] * len(theta), [0.0] * len(theta)
  for t, gradient in enumerate(gradients):
    progress = t / TOTAL
    rate = RATE * (progress / WARMUP if progress < WARMUP else (1 - progress) / (1 - WARMUP))
    factor = min(1.0, max_norm / (math.sqrt(sum(g * g for g in gradient)) + 1e-6))
    for i, g in enumerate(gradient):
      g = g * factor
      m[i] = 0.9 * m[i] + 0.1 * g
      v[i] = 0.999 * v[i] + 0.001 * g * g
      theta[i] -= rate * (m[i] / (math.sqrt(v[i]) + 1e-6) + weight_decay * theta[i])
  return theta


@pytest.mark.parametrize(('scale', 'max_norm'), [(0.01, 1.0), (30.0, 1.0), (30.0, 0.1)])
def test_several_steps_against_loops(scale, max_norm):
  rng = np.random.default_rng(0)
  params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
  gradients = [
    {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(8)
  ]
  optimizer = bert_adam(warmup_linear(RATE, TOTAL, WARMUP), weight_decay=0.3, max_norm=max_norm)

  @jax.jit
  def step(params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  actual = nest(params)
  state = optimizer.init(actual)
  for gradient in gradients:
    actual, state = step(actual, state, nest(gradient))
  actual = flax.traverse_util.flatten_dict(actual['inheritance'], sep='/')
  for name, start in params.items():
    history = [g[name].ravel().astype(np.float64).tolist() for g in gradients]
    decay = 0.3 if name in DECAYED else 0.0
    expected = loops(start.ravel().astype(np.float64).tolist(), history, decay, max_norm)
    np.testing.assert_allclose(np.ravel(actual[name]), expected, rtol=2e-5, atol=2e-6, err_msg=name)


def test_decay_spares_biases_and_norms_alone():
  params = nest({name: np.zeros(shape) for name, shape in SHAPES.items()})
  marked = flax.traverse_util.flatten_dict(decays(params)['inheritance'], sep='/')
  assert {name for name, mark in marked.items() if mark} == DECAYED


def test_zero_gradient_leaves_decay_alone():
  params = nest({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
  optimizer = bert_adam(0.5, weight_decay=0.1, max_norm=1.0)
  updates, _ = optimizer.update(jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
  for name, update in flax.traverse_util.flatten_dict(updates['inheritance'], sep='/').items():
    np.testing.assert_allclose(update, -0.05 if name in DECAYED else 0.0, rtol=1e-6)


def test_averaged_parameters_are_a_weighted_mean_of_those_of_all_steps():
  params = nest({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
  optimizer = bert_adam(0.1, weight_decay=0.1, max_norm=1.0, average=0.75)
  state, seen = optimizer.init(params), []
  for _ in range(5):
    updates, state = optimizer.update(params, state, params)  # Any gradients.
    params = optax.apply_updates(params, updates)
    seen.append(params)
    weights = 0.75 ** np.arange(len(seen))[::-1]
    expected = jax.tree.map(lambda *x, w=weights: sum(a * b for a, b in zip(w, x, strict=True)) / w.sum(), *seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), averaged(state), expected)
  assert averaged(bert_adam(0.1, 0.1, 1.0).init(params)) is None


@pytest.mark.parametrize('better', [True, False])
def test_averaged_parameters_are_the_best_ones_where_they_were_rated_so(tmp_path, better):
  params = {'inheritance': {'kernel': np.ones((2, 3), np.float32)}}
  optimizer = bert_adam(0.1, 0.01, 1.0, average=0.9)
  opt_state = optimizer.init(params)
  _, opt_state = optimizer.update(params, opt_state, jax.tree.map(lambda x: 7 * x, params))
  state, checkpoints = TrainState(jnp.asarray(5), params, opt_state), Checkpoints(tmp_path)
  checkpoints.save(5, state, Progress({'at': 5}))
  checkpoints.mark(5, Progress({'at': 5}, 1, 33.25, 1, 5, better))
  assert_same_values = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)  # noqa: E731
  assert_same_values(read_best(tmp_path)[0], averaged(opt_state) if better else params)
  restored, progress = checkpoints.restore(5, jax.device_put(state, jax.devices()[0]))
  assert progress.best_averaged == better
  assert_same_values(averaged(restored.opt_state), averaged(opt_state))
