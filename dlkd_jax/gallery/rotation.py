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


@functools.cache
def _parts(hidden: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the signs `[H]` and the matrix `[r, r]` of a size, float32; the matrix is symmetric and its own inverse."""
  run = min(hidden & -hidden, _LARGEST_RUN)
  matrix = np.ones((1, 1), np.float32)
  while len(matrix) < run:
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  matrix = matrix / np.float32(np.sqrt(run))
  # The raw numbers of a bit generator stay the same from one NumPy to the next.
  bits = np.random.PCG64(_SEED).random_raw(hidden) >> np.uint64(63)
  signs = (1 - 2 * bits.astype(np.float32)).astype(np.float32)
  return signs, matrix


def rotate(rows: np.ndarray) -> np.ndarray:
  """Returns `[n, H]` float32 vectors rotated; their norms and products stay."""
  signs, matrix = _parts(rows.shape[1])
  return _mix(rows * signs, matrix)


def rotate_back(rows: np.ndarray) -> np.ndarray:
  """Returns `[n, H]` float32 vectors as they were before `rotate`."""
  signs, matrix = _parts(rows.shape[1])
  return _mix(rows, matrix) * signs


def _mix(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  return (rows.reshape(-1, len(matrix)) @ matrix).reshape(rows.shape)
