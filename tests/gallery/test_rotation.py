"""The rotation of vectors: orthogonal, its own way back, the same everywhere, and spreading."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
from numpy._core import _multiarray_umath

from dlkd_jax.gallery import quantization, rotation
from tests.paths import repository


@pytest.mark.parametrize('hidden', [1, 3, 48, 128, 384, 512, 768, 1024])
def test_norms_and_products_stay(hidden):
  random = np.random.default_rng(0)
  first, second = random.standard_normal((2, 5, hidden)).astype(np.float32)
  np.testing.assert_allclose(rotation.rotate(first) @ rotation.rotate(second).T, first @ second.T, atol=2e-3)
  np.testing.assert_allclose(rotation.rotate_back(rotation.rotate(first)), first, atol=1e-5)
  assert rotation.rotate(first).dtype == rotation.rotate_back(first).dtype == np.float32


def test_it_is_signs_and_then_hadamard_matrices():
  matrix = rotation.rotate(np.eye(384, dtype=np.float32))
  blocks = scipy.linalg.block_diag(*[scipy.linalg.hadamard(128) / np.sqrt(128)] * 3)
  signs = np.sign(matrix[:, ::128].sum(axis=1))  # The first column of a Hadamard matrix is of ones.
  np.testing.assert_allclose(matrix, signs[:, None] * blocks, atol=1e-6)
  assert 150 < (signs > 0).sum() < 234


def test_it_is_the_same_everywhere():
  """An index written by another version must stay readable; these are the first signs of a size."""
  signs = np.sign(rotation.rotate(np.eye(16, dtype=np.float32))[:, 0]).astype(int)
  assert signs.tolist() == [-1, -1, -1, 1, -1, 1, 1, 1, 1, -1, -1, -1, 1, 1, -1, 1]


@pytest.mark.parametrize(('hidden', 'run'), [(512, 512), (384, 128), (1024, 512), (7, 1)])
def test_one_component_is_spread_over_its_run(hidden, run):
  single = np.zeros((1, hidden), np.float32)
  single[0, hidden // 2] = 1
  assert np.abs(rotation.rotate(single)).max() == pytest.approx(run**-0.5)


def test_no_rows():
  assert rotation.rotate(np.zeros((0, 96), np.float32)).shape == (0, 96)


_HASHED = """
import hashlib
import numpy as np
from dlkd_jax.gallery import quantization
rows = np.random.default_rng(0).standard_normal((333, 384)).astype(np.float32)
stored = quantization.encode(rows, 'int8')
print(hashlib.sha256(stored.values.tobytes() + stored.scales.tobytes() + stored.decode().tobytes()).hexdigest())
"""


@pytest.mark.parametrize('setting', ['OPENBLAS_CORETYPE', 'OPENBLAS_NUM_THREADS', 'NPY_DISABLE_CPU_FEATURES'])
def test_stored_rows_are_the_same_bits_on_every_processor(setting):
  value = {
    'OPENBLAS_CORETYPE': 'Nehalem',
    'OPENBLAS_NUM_THREADS': '1',
    'NPY_DISABLE_CPU_FEATURES': ' '.join(
      name for name in _multiarray_umath.__cpu_dispatch__ if name.startswith(('AVX', 'X86_V', 'FMA'))
    ),
  }[setting]
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', _HASHED],
    cwd=repository(),
    env={**os.environ, setting: value},
    capture_output=True,
    text=True,
    check=True,
  )
  rows = np.random.default_rng(0).standard_normal((333, 384)).astype(np.float32)
  stored = quantization.encode(rows, 'int8')
  here = stored.values.tobytes() + stored.scales.tobytes() + stored.decode().tobytes()
  assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


@pytest.mark.parametrize('hidden', [6, 128, 384, 512])
def test_a_row_is_rotated_the_same_whatever_is_beside_it(hidden, monkeypatch):
  rows = np.random.default_rng(0).standard_normal((40, hidden)).astype(np.float32)
  for turn in (rotation.rotate, rotation.rotate_back):
    whole = turn(rows)
    for part in (slice(0, 1), slice(3, 10), slice(39, 40), slice(7, 40)):
      np.testing.assert_array_equal(turn(rows[part]), whole[part])
    np.testing.assert_array_equal(turn(np.asfortranarray(rows)), whole)
    monkeypatch.setattr(rotation, '_BLOCK_ROWS', 3)
    np.testing.assert_array_equal(turn(rows), whole)
    monkeypatch.undo()
