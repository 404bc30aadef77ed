"""Schedules against golden numbers of the authors' program and against plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax import config_defaults
from dlkd_jax.training import optimizer, recipe
from tests.paths import golden

EPOCHS, STEPS = 120, 7


def sigmoid(epoch):
  return 800 / (800 + math.exp(100 * epoch / 800))


ALPHA = {
  'none': lambda e, start, n: start,
  'exp': lambda e, start, n: start * 0.95**e,
  'linear': lambda e, start, n: start - start * e / n,
  'sigmoid': lambda e, start, n: start * sigmoid(e),
  'cosine': lambda e, start, n: start / 2 * (1 + math.cos(math.pi * e / n)),
}
DISTILLATION = {
  'none': lambda e: 1.0,
  'exp': lambda e: 0.95**e,
  'linear': lambda e: max(1 - 0.01 * e, 0.05),
  'sigmoid': sigmoid,
}


def beta(kind, epoch, start, epochs):
  floor = 0.5 if start >= 0.5 else 0.0
  value = ALPHA[kind](epoch, start, epochs)
  if kind == 'linear':
    value = start - (start - floor) * epoch / epochs
  if kind == 'cosine':
    value = floor + (start - floor) / 2 * (1 + math.cos(math.pi * epoch / epochs))
  return max(value, floor)


def coefficient(name, kind, start=0.8, epochs=EPOCHS):
  """The schedule of a coefficient as the recipe makes it."""
  config = config_defaults.base('')
  config.schedules.update({name: kind, 'epochs': epochs} | ({} if name == 'distillation' else {f'{name}_start': start}))
  coefficients = recipe.make_coefficients(config, STEPS)
  return lambda step: coefficients(step)[name]


def over_epochs(schedule, epochs=EPOCHS):
  return np.asarray(jax.vmap(schedule)(STEPS * jnp.arange(epochs)))


def test_every_golden_curve():
  file = np.load(golden('schedules.npz'))
  names = {'distill': 'distillation', 'alpha': 'alpha', 'beta': 'beta'}
  seen = 0
  for name in file.files:
    group, kind = name.split('/')
    if group in names:
      found = over_epochs(coefficient(names[group], kind))
      np.testing.assert_allclose(found, file[name], rtol=2e-6, atol=1e-7, err_msg=name)
      seen += 1
  assert seen == 13
  multiplier = jax.vmap(optimizer.warmup_linear(1.0, 1000, 0.01))(jnp.arange(1000))
  np.testing.assert_allclose(multiplier, file['lr_multiplier/warmup_linear_t1000_w0.01'], atol=1e-6)


@pytest.mark.parametrize('kind', DISTILLATION)
def test_distillation_weight(kind):
  expected = [DISTILLATION[kind](e) for e in range(EPOCHS)]
  np.testing.assert_allclose(over_epochs(coefficient('distillation', kind)), expected, rtol=2e-6)


@pytest.mark.parametrize('kind', ALPHA)
@pytest.mark.parametrize(('start', 'epochs'), [(0.8, 120), (0.4, 30), (1.0, 60)])
def test_alpha_and_beta(kind, start, epochs):
  alpha = over_epochs(coefficient('alpha', kind, start, epochs), epochs)
  np.testing.assert_allclose(alpha, [ALPHA[kind](e, start, epochs) for e in range(epochs)], rtol=3e-6, atol=1e-7)
  curve = over_epochs(coefficient('beta', kind, start, epochs), epochs)
  np.testing.assert_allclose(curve, [beta(kind, e, start, epochs) for e in range(epochs)], rtol=3e-6, atol=1e-7)
  assert np.all(curve >= (0.5 if start >= 0.5 else 0.0)) and np.all((alpha >= 0) & (alpha <= start))


@pytest.mark.parametrize('kind', ALPHA)
def test_coefficients_stay_at_their_end(kind):
  for name, least in (('alpha', 0.0), ('beta', 0.5)):
    values = over_epochs(coefficient(name, kind, 0.8, 20), 300)
    assert np.all((values >= least) & (values <= 1.0)) and np.all(np.diff(values) <= 0)
    if kind in ('linear', 'cosine'):
      np.testing.assert_allclose(values[20:], least, atol=1e-7)


def test_all_steps_of_an_epoch_share_one_value():
  schedule = jax.jit(jax.vmap(coefficient('alpha', 'exp')))
  values = np.asarray(schedule(jnp.arange(5 * STEPS, dtype=jnp.int32))).reshape(5, STEPS)
  np.testing.assert_array_equal(values, np.repeat(values[:, :1], STEPS, axis=1))
  assert len(np.unique(values[:, 0])) == 5 and values.dtype == np.float32


@pytest.mark.parametrize(('total', 'warmup'), [(1000, 0.01), (50, 0.0), (37, 0.3), (1, 0.0)])
def test_learning_rate(total, warmup):
  def expected(step):
    progress = step / total
    return progress / warmup if progress < warmup else max((1 - progress) / (1 - warmup), 0.0)

  rate = jax.vmap(optimizer.warmup_linear(3e-4, total, warmup))(jnp.arange(total + 5))
  np.testing.assert_allclose(rate, [3e-4 * expected(s) for s in range(total + 5)], rtol=1e-5, atol=1e-10)
  assert np.abs(rate[total:]).max() < 1e-10
