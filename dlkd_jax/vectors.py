"""Vectors as rows of arrays, in NumPy; `similarity.common` has the same for JAX."""

from __future__ import annotations

from typing import Any

import numpy as np


def unit(rows: Any) -> np.ndarray:
  """Returns rows `[..., H]` of length 1, float64 where they are and else float32; rows of zeros stay."""
  rows = np.asarray(rows)
  rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
  return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
