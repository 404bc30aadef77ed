"""The kernel for NVIDIA GPUs against an einsum, by the interpreter; where it is used is in `retrieval.test_ranking`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.similarity import pallas_gpu


# Frames fewer than a product has, as many, more than a chunk, several chunks; queries of one tile and of several.
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
  ('videos', 'frames', 'queries', 'hidden'),
  [
    (3, 1, 1, 5),
    (2, 16, 16, 64),
    (3, 17, 33, 100),
    (2, 40, 130, 128),
    (1, 128, 128, 192),
    (2, 129, 7, 1),
    (1, 300, 257, 65),
  ],
)
def test_against_an_einsum(videos, frames, queries, hidden, dtype):
  rng = np.random.default_rng(frames)
  # Whole numbers, so that sums are exact in any order. All products of a video are negative where frames are few.
  some = jnp.asarray(rng.integers(-8, 9, (videos, frames, hidden)), dtype)
  rows = jnp.asarray(rng.integers(-8, 9, (queries, hidden)), dtype)
  expected = jnp.einsum('nlh,qh->nlq', some, rows, preferred_element_type=jnp.float32).max(axis=1)
  found = jax.jit(functools.partial(pallas_gpu.max_products, interpret=True))(rows, some)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, expected, strict=True)


def test_padding_never_wins():
  frames, queries = -jnp.ones((1, 17, 3), jnp.bfloat16), jnp.ones((5, 3), jnp.bfloat16)
  np.testing.assert_array_equal(pallas_gpu.max_products(queries, frames, interpret=True), np.full((1, 5), -3.0))


def test_what_is_not_a_number_is_not_finite():
  frames = jnp.zeros((2, 40, 64), jnp.bfloat16).at[1].set(jnp.nan)
  found = pallas_gpu.max_products(jnp.ones((5, 64), jnp.bfloat16), frames, interpret=True)
  np.testing.assert_array_equal(np.isfinite(found), [[True] * 5, [False] * 5])
