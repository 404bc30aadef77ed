"""What a run uses besides time: memory, and compilations."""

from __future__ import annotations

import resource
import sys

import jax

_COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'
_MIB = 2.0**20


class Compilations:
  """Counts the programs that JAX compiles in this process; use as a context manager.

  Attributes:
    count: programs compiled, the small ones of single operations too. It stands still in a run that goes well.
    seconds: time that the compiler took.
  """

  def __init__(self):
    """Nothing counted yet."""
    self.count, self.seconds = 0, 0.0

  def __enter__(self) -> Compilations:
    jax.monitoring.register_event_duration_secs_listener(self._note)
    return self

  def __exit__(self, *exception) -> None:
    jax.monitoring.unregister_event_duration_listener(self._note)

  def _note(self, event: str, seconds: float, **_) -> None:
    if event == _COMPILE_EVENT:
      self.count += 1
      self.seconds += seconds

  def scalars(self) -> dict[str, float]:
    """Returns `compile/programs` and `compile/seconds` so far."""
    return {'compile/programs': float(self.count), 'compile/seconds': self.seconds}


def memory() -> dict[str, float]:
  """Returns memory in MiB: of this process at its highest, and of its fullest device where the backend tells.

  `memory/host_peak` is the highest resident size so far; `memory/device` and `memory/device_peak` are bytes in use now
  and at their highest, which the CPU does not tell.
  """
  # Linux counts in KiB, macOS in bytes.
  unit = 1.0 if sys.platform == 'darwin' else 1024.0
  scalars = {'memory/host_peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB}
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  for key, name in (('bytes_in_use', 'device'), ('peak_bytes_in_use', 'device_peak')):
    values = [each[key] for each in stats if key in each]
    if values:
      scalars[f'memory/{name}'] = max(values) / _MIB
  return scalars
