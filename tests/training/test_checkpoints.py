"""Checkpoints: what comes back, which are kept, and onto which devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlkd_jax import sharding
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from dlkd_jax.training.optimizer import bert_adam
from dlkd_jax.training.state import TrainState


def make_state(devices=1, width=3, value=1.0, name='kernel'):
  """A small state of the real kind, replicated over a mesh of the first devices."""
  params = {'inheritance': {name: value * np.arange(2 * width, dtype=np.float32).reshape(2, width)}}
  state = TrainState(jnp.asarray(int(value), jnp.int32), params, bert_adam(optax.constant_schedule(1e-3)).init(params))
  return jax.device_put(state, sharding.replicated(sharding.make_mesh(jax.devices()[:devices])))


def steps_kept(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())


def save(checkpoints, step, best_step, best=1.0):
  checkpoints.save(step, make_state(value=step), Progress({'at': step}, best_sum_r=best, best_step=best_step))


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype and a.sharding == b.sharding
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(('written', 'read'), [(1, 1), (8, 1), (1, 8), (8, 2)])
def test_state_and_progress_come_back_on_other_devices(tmp_path, written, read):
  progress = Progress({'next': [1, 2], 'nested': {'seed': 3}, 'name': 'x'}, 4, 51.25, 2, 20)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(40, make_state(written, value=7.0), progress)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step == 40
    state, restored = checkpoints.restore(40, make_state(read, value=0.0))
  assert restored == progress
  assert_same(state, make_state(read, value=7.0))


def test_nothing_saved(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step is None and checkpoints.best_step is None


def test_newest_two_and_the_best_are_kept(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 5, best_step=0, best=-1.0)  # Within the first epoch: not rated.
    assert checkpoints.best_step is None
    save(checkpoints, 10, best_step=10, best=30.0)
    save(checkpoints, 20, best_step=20, best=40.0)
    for step in (30, 40, 50):
      save(checkpoints, step, best_step=20, best=40.0)
    assert checkpoints.best_step == 20 and checkpoints.latest_step == 50
  assert steps_kept(tmp_path) == [20, 40, 50]
  with Checkpoints(tmp_path) as checkpoints:  # The rating survives reopening.
    assert checkpoints.best_step == 20
    assert checkpoints.restore(20, make_state())[0].params['inheritance']['kernel'][0, 1] == 20
    save(checkpoints, 60, best_step=60, best=41.0)
    save(checkpoints, 70, best_step=60, best=41.0)
    save(checkpoints, 80, best_step=60, best=41.0)
    assert checkpoints.best_step == 60
  assert steps_kept(tmp_path) == [60, 70, 80]


def test_of_equal_ratings_the_newer_is_best(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 10, best_step=10, best=30.0)
    save(checkpoints, 20, best_step=20, best=30.0)
    assert checkpoints.best_step == 20


def test_the_same_step_is_overwritten(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 10, best_step=0)
    save(checkpoints, 10, best_step=10, best=9.0)
    assert checkpoints.best_step == 10
    assert checkpoints.restore(10, make_state())[1].best_sum_r == 9.0


@pytest.mark.parametrize('other', [{'width': 5}, {'width': 2}, {'name': 'weights'}])
def test_another_model_is_refused(tmp_path, other):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 10, best_step=10)
    with pytest.raises(ValueError, match=r'checkpoints.10 does not fit this configuration'):
      checkpoints.restore(10, make_state(**other))


def test_another_number_of_parameters_is_refused(tmp_path):
  more = make_state()
  more = more.replace(params=more.params | {'exploration': more.params['inheritance']})
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(10, more, Progress({}))
    with pytest.raises(ValueError, match='does not fit'):
      checkpoints.restore(10, make_state())
    save(checkpoints, 20, best_step=0)
    with pytest.raises(ValueError, match='does not fit'):
      checkpoints.restore(20, more)
