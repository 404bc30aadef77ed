"""Memory and compilations."""

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.training import usage


def test_compilations_are_counted_once_a_shape():
  triple = jax.jit(lambda x: 3 * x)
  small, large = np.ones(3, np.float32), np.ones(4, np.float32)
  with usage.Compilations() as compilations:
    triple(small)
    assert compilations.count == 1 and compilations.seconds > 0
    triple(small)
    assert compilations.count == 1
    triple(large)
    assert compilations.scalars() == {'compile/programs': 2.0, 'compile/seconds': compilations.seconds}
  jax.jit(lambda x: 5 * x)(jnp.asarray(small))
  assert compilations.count == 2  # It listens no more.


def test_memory_is_that_of_this_process():
  before = usage.memory()['memory/host_peak']
  assert 50 < before < 1e6
  block = np.ones(300 << 20, np.uint8)
  assert usage.memory()['memory/host_peak'] >= max(before, block.nbytes / 2**20)


def test_memory_of_the_fullest_device(monkeypatch):
  class Device:
    def __init__(self, **stats):
      self.stats = stats

    def memory_stats(self):
      return self.stats or None

  devices = [Device(bytes_in_use=1 << 20, peak_bytes_in_use=8 << 20), Device(bytes_in_use=2 << 20), Device()]
  monkeypatch.setattr(usage.jax, 'local_devices', lambda: devices)
  scalars = usage.memory()
  assert (scalars['memory/device'], scalars['memory/device_peak']) == (2.0, 8.0)
