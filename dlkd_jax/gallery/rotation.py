"""A fixed rotation of vectors, after which no component is much larger than the others.

The components of CLIP vectors differ a lot: one of 512 can hold more than half of a vector's length, and a scale that
fits it leaves few integers for the rest. Here signs are flipped by a fixed pattern and runs of 2^k components are
mixed by a Hadamard matrix, which spreads each component evenly over its run. Products of two rotated vectors are those
of the vectors themselves, nothing has to be learned or stored, and the rotation of a size is the same everywhere.
"""

from __future__ import annotations

import functools

import numpy as np

# Components mixed at most. Sizes such as 384 are mixed in runs of the largest power of two that divides them, 128.
_LARGEST_RUN = 512
_SEED = 2021
# Rows mixed at once: they stay in the cache.
_BLOCK_ROWS = 256


@functools.cache
def _signs(hidden: int) -> np.ndarray:
  """Returns the signs `[H]` of a size, float32."""
  # The raw numbers of a bit generator stay the same from one NumPy to the next.
  bits = np.random.PCG64(_SEED).random_raw(hidden) >> np.uint64(63)
  return (1 - 2 * bits.astype(np.float32)).astype(np.float32)


def rotate(rows: np.ndarray) -> np.ndarray:
  """Returns `[n, H]` float32 vectors rotated; their norms and products stay.

  A row becomes the same bits whatever rows are beside it, on every processor.
  """
  return _mix(rows * _signs(rows.shape[1]))


def rotate_back(rows: np.ndarray) -> np.ndarray:
  """Returns `[n, H]` float32 vectors as they were before `rotate`; of the bits holds the same."""
  return _mix(rows) * _signs(rows.shape[1])


def _mix(rows: np.ndarray) -> np.ndarray:
  """Multiplies runs of components by a Hadamard matrix, which is symmetric and its own inverse.

  By sums and differences, and no product with the matrix: its bits would depend on the number of rows, and on the
  processor. Each step halves the components of a run into sums of neighbours, and behind them their differences.
  """
  hidden = rows.shape[1]
  run = min(hidden & -hidden, _LARGEST_RUN)
  mixed = np.empty(rows.shape, np.float32)
  for start in range(0, len(rows), _BLOCK_ROWS):
    now = rows[start : start + _BLOCK_ROWS].reshape(-1, run)
    for _ in range(run.bit_length() - 1):
      halves = np.empty_like(now)
      np.add(now[:, ::2], now[:, 1::2], out=halves[:, : run // 2])
      np.subtract(now[:, ::2], now[:, 1::2], out=halves[:, run // 2 :])
      now = halves
    mixed[start : start + _BLOCK_ROWS] = (now * np.float32(run**-0.5)).reshape(-1, hidden)
  return mixed
