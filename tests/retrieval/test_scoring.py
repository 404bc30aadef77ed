"""Chunks of queries: their size, and that they do not change scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.retrieval.scoring import Placement, query_chunk, score_block
from dlkd_jax.sharding import make_mesh


@pytest.mark.parametrize(('videos', 'frames'), [(64, 128), (63, 127), (1, 1), (1000, 128)])
def test_the_products_fit(videos, frames):
  limit = 64 << 20
  chunk = query_chunk(videos, frames, limit)
  assert chunk * videos * frames * 4 <= limit < 2 * chunk * videos * frames * 4


def test_at_least_one_query_is_scored_at_once():
  assert query_chunk(1000, 128, 1024) == 1


@pytest.mark.parametrize('chunk', [1, 4, 7, 11, 64])
def test_the_chunk_does_not_matter(chunk):
  rng = np.random.default_rng(0)
  queries = rng.standard_normal((11, 8)).astype(np.float32)
  frames = rng.standard_normal((3, 5, 8)).astype(np.float32)
  mask = np.arange(5) < np.array([[5], [2], [1]])
  unit_q = queries / np.linalg.norm(queries, axis=-1, keepdims=True)
  unit_f = frames / np.linalg.norm(frames, axis=-1, keepdims=True)
  expected = [[(unit_f[v][mask[v]] @ q).max() for v in range(3)] for q in unit_q]
  found = score_block(jnp.asarray(queries), frames, mask, chunk=chunk)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_block_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match='12 videos does not divide over 8 devices'):
    Placement(make_mesh()).split(np.zeros((12, 2)), 'videos')


def test_the_products_of_all_queries_never_exist():
  queries, videos, frames, hidden, chunk = 1 << 14, 8, 64, 16, 64
  shapes = [((queries, hidden), 'float32'), ((videos, frames, hidden), 'float32'), ((videos, frames), 'bool')]
  program = score_block.lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes), chunk=chunk).compile()
  whole = queries * videos * frames * 4
  assert program.memory_analysis().temp_size_in_bytes < whole / 8
