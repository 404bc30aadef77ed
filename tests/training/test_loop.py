"""One epoch of the loop on a step that is none; whole runs are in `test_whole_path` and `test_reliability`."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tvr
from dlkd_jax import sharding
from dlkd_jax.multihost import StopRequest
from dlkd_jax.training import loop
from dlkd_jax.training.checkpoints import Progress
from dlkd_jax.training.profiling import StepTracer
from dlkd_jax.training.usage import Compilations
from dlkd_jax.training.writers import NoWriter


def train_epoch(tmp_path, devices, step_key):
  """Runs two steps on so many devices; returns the state behind them."""
  mesh = sharding.make_mesh(jax.devices()[:devices])
  whole, rows = sharding.replicated(mesh), sharding.rows(mesh)

  def step(state, batch, key):
    return state + 1, {'loss/total': jnp.sum(batch.features[0]) + jax.random.uniform(key)}

  run = object.__new__(loop._Run)
  run.config, run.workdir, run.stop, run.progress = tvr.get_config(), tmp_path, StopRequest(), Progress({})
  compiled = jax.jit(step, in_shardings=(None, rows, whole))
  run.parts = types.SimpleNamespace(mesh=mesh, steps_per_epoch=2, train_step=compiled, step_key=step_key(mesh))
  run.state = jax.device_put(jnp.zeros((), jnp.int32), whole)
  run.iterator = iter([{'features': np.ones((devices, 3), np.float32), 'labels': np.zeros(devices, np.int32)}] * 2)
  with StepTracer(tmp_path, ()) as tracer, Compilations() as compilations:
    assert run._train_epoch(0, NoWriter(), tracer, compilations) == 2
  return run.state


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_what_is_placed_is_trained_on(tmp_path, devices):
  state = train_epoch(tmp_path, devices, lambda mesh: jax.device_put(jax.random.key(0), sharding.replicated(mesh)))
  assert state == 2


def test_what_would_be_moved_in_every_step_is_refused(tmp_path):
  with pytest.raises(Exception, match='Disallowed device-to-device transfer'):
    train_epoch(tmp_path, 2, lambda mesh: jax.random.key(0))
