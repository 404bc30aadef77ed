"""Rows of length 1, against their definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax import vectors


@pytest.mark.parametrize(('given', 'returned'), [('float16', 'float32'), ('float32',) * 2, ('float64',) * 2])
def test_rows_have_length_1(given, returned):
  rows = np.array([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, -1.0]]], given)
  expected = [[[0.6, 0.8], [0.0, 0.0]], [[1.0, 0.0], [0.5**0.5, -(0.5**0.5)]]]
  found = vectors.unit(rows)
  assert found.dtype == returned
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert isinstance(vectors.unit(jnp.ones((2, 3))), np.ndarray)
