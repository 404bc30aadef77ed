"""One compiled function over as many rows as there are, on all devices of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dlkd_jax import sharding

MOST = 256  # Rows at once.


class InBatches:
  """Runs a function of parameters and rows.

  Rows are padded to a power of two, so that few programs are compiled, and split over the devices where they divide.
  """

  def __init__(self, function: Callable[[Any, jax.Array], jax.Array], params: Any):
    """Takes a function, (params, [N, …]) → [N, …], of rows that do not depend on each other; puts the parameters."""
    self._mesh = sharding.make_mesh(jax.local_devices())
    self._params = placed(params)
    self._function = jax.jit(function)

  def __call__(self, rows: np.ndarray) -> np.ndarray:
    """Returns the function of rows [N, …], float32; N at least 1."""
    parts = []
    for start in range(0, len(rows), MOST):
      part = rows[start : start + MOST]
      whole = padded(part)
      splits = len(whole) % self._mesh.size == 0
      there = jax.device_put(whole, (sharding.rows if splits else sharding.replicated)(self._mesh))
      parts.append(np.asarray(self._function(self._params, there), np.float32)[: len(part)])
    return np.concatenate(parts)


def placed(params: Any) -> Any:
  """Puts parameters on all devices of this process; what lies there already is not copied."""
  return jax.device_put(params, sharding.replicated(sharding.make_mesh(jax.local_devices())))


def padded(rows: np.ndarray) -> np.ndarray:
  """Repeats the last row of [N, …] until there are a power of two."""
  more = (1 << (len(rows) - 1).bit_length()) - len(rows)
  return np.concatenate([rows, np.repeat(rows[-1:], more, axis=0)]) if more else rows
