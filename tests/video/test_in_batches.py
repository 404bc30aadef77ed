"""Rows in batches: padded, split over devices, and the same as one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.video import in_batches


@pytest.mark.parametrize('count', [1, 3, 8, 13, 21])
def test_rows_are_as_if_alone(count, monkeypatch):
  monkeypatch.setattr(in_batches, 'MOST', 16)
  weights = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
  rows = np.random.default_rng(1).standard_normal((count, 5)).astype(np.float32)
  run = in_batches.InBatches(lambda params, rows: jnp.tanh(rows @ params), weights)
  np.testing.assert_allclose(run(rows), np.tanh(rows @ weights), rtol=1e-5, atol=1e-6)


def test_padding_repeats_the_last_row():
  rows = np.arange(10).reshape(5, 2)
  assert in_batches.padded(rows).tolist() == [*rows.tolist(), [8, 9], [8, 9], [8, 9]]
  assert in_batches.padded(rows[:4]).shape == (4, 2) and in_batches.padded(rows[:1]).shape == (1, 2)
