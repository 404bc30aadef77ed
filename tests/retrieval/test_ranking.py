"""Scores and ranks on the devices: tiles, masks, memory, ties."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.retrieval import metrics, ranking
from dlkd_jax.sharding import make_mesh
from dlkd_jax.similarity.common import product_bytes


@pytest.mark.parametrize('queries', [1, 22, 1000, 1025, 15753])
@pytest.mark.parametrize('product_bytes', [1, 400, 2 << 20, 256 << 20])
def test_queries_are_cut_with_little_padding(queries, product_bytes):
  plan = ranking.plan_queries(queries, 4430, 128, product_bytes)
  assert plan.block % plan.tile == 0 and plan.tile % 8 == 0
  padded = plan.block * plan.blocks
  tiles = padded // plan.tile
  assert queries <= padded < queries + 8 * tiles + plan.blocks
  assert plan.tile * 128 * 4 <= max(product_bytes, 8 * 128 * 4) * 1.1 or plan.tile == 8


@pytest.mark.parametrize('most', [1024, 4096])
def test_a_large_gallery_takes_fewer_queries_at_once(most):
  assert ranking.plan_queries(5000, 2179, 32, 256 << 20, most)[::2] == ((1000, 5) if most == 1024 else (2504, 2))
  plan = ranking.plan_queries(5000, 1_000_000, 32, 256 << 20, most)
  assert plan.block * 1_000_000 * 4 <= 128 << 20


@pytest.mark.parametrize('videos', [1, 7, 64, 96, 1000])
@pytest.mark.parametrize('product_bytes', [1, 2 << 20])
def test_the_products_fit(videos, product_bytes):
  tile = ranking.video_tile(videos, 128, 256, product_bytes)
  assert videos % tile == 0
  assert tile == 1 or tile * 128 * 256 * 4 <= product_bytes


def _problem(queries, videos, frames, hidden=8):
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((queries, hidden)).astype(np.float32)
  some = rng.standard_normal((videos, frames, hidden)).astype(np.float32)
  mask = np.arange(frames) < rng.integers(1, frames + 1, videos)[:, None]
  some[~mask] = 100.0  # A padded frame that would win if it counted.
  return rows, some, mask


@pytest.mark.parametrize(('tile', 'product_bytes'), [(8, 1), (8, 2000), (16, 1 << 20)])
@pytest.mark.parametrize('devices', [1, 4])
def test_scores_agree_with_plain_loops(tile, product_bytes, devices):
  mesh = make_mesh(jax.devices()[:devices])
  queries, frames, mask = _problem(16, 12, 5)
  norm = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
  expected = [[(norm(frames[v][mask[v]]) @ q).max() for v in range(12)] for q in norm(queries)]
  ready = ranking.prepare_frames({'a': frames}, {'a': mask}, mesh=mesh)
  found = ranking.score_segment({'a': queries}, ready, mesh=mesh, query_tile=tile, most_bytes=product_bytes)
  np.testing.assert_allclose(found['a'], expected, rtol=1e-5, atol=1e-6)


def test_zero_vectors_score_zero():
  mesh = make_mesh(jax.devices()[:1])
  zeros = {'a': np.zeros((2, 3, 4), np.float32)}
  ready = ranking.prepare_frames(zeros, {'a': np.ones((2, 3), bool)}, mesh=mesh)
  found = ranking.score_segment({'a': np.ones((8, 4))}, ready, mesh=mesh, query_tile=8, most_bytes=1 << 20)
  np.testing.assert_array_equal(found['a'], np.zeros((8, 2)))


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_frame_that_is_not_finite_makes_all_of_its_video_nan(bad):
  frames, mask = np.ones((3, 4, 5), np.float32), np.ones((3, 4), bool)
  frames[0, 3, 1] = frames[1, 2, 4] = bad
  mask[0, 3] = False  # This one does not count.
  ready = ranking.prepare_frames({'a': frames}, {'a': mask}, mesh=make_mesh(jax.devices()[:1]))['a']
  np.testing.assert_array_equal(np.isnan(ready), np.broadcast_to([[[False]], [[True]], [[False]]], ready.shape))


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_ranks_equal_those_of_numpy(devices):
  mesh = make_mesh(jax.devices()[:devices])
  rng = np.random.default_rng(1)
  # Few different values, so that there are ties; their weighted sums need the rounding of numpy to be equal.
  scores = {name: (rng.integers(0, 7, (50, 16)) / 10).astype(np.float32) for name in ('a', 'b')}
  columns = rng.permutation(np.r_[np.arange(13), [-1] * 3]).astype(np.int32)
  own = rng.integers(0, 13, 50).astype(np.int32)
  weights = (('a', 0.7), ('b', 0.3))
  cut = [{name: jnp.asarray(x[:, :8]) for name, x in scores.items()}]
  cut += [{name: jnp.asarray(x[:, 8:]) for name, x in scores.items()}]
  # A device holds its part of the first segment, then its part of the second.
  places = np.concatenate([part.reshape(devices, -1) for part in (columns[:8], columns[8:])], axis=1).reshape(-1)
  terms = ranking.weigh(cut, weights=weights)
  ranks, bad, _ = ranking.rank_block(cut, terms, places, own, mesh=mesh, fused=('a', 'b'), keep=False)
  in_order = {name: x[:, np.argsort(columns)[3:]] for name, x in scores.items()}
  np.testing.assert_array_equal(ranks['fused'], metrics.rank_fused(in_order, dict(weights), own))
  for name in scores:
    np.testing.assert_array_equal(ranks[name], metrics.rank_own_videos(in_order[name], own))
    assert (np.asarray(bad[name]) > 13).all()


@pytest.mark.parametrize('devices', [1, 8])
def test_the_products_of_all_queries_never_exist(devices):
  mesh = make_mesh(jax.devices()[:devices])
  queries, videos, frames, hidden, limit = 1024, 64 * devices, 64, 16, 1 << 20
  shape = lambda *sizes: {'a': jax.ShapeDtypeStruct(sizes, jnp.float32)}  # noqa: E731
  program = ranking.score_segment.lower(
    shape(queries, hidden), shape(videos, frames, hidden), mesh=mesh, query_tile=128, most_bytes=limit
  ).compile()
  scores = queries * videos // devices * 4
  # The scores before and after they are put in order, the product, and its operands.
  assert program.memory_analysis().temp_size_in_bytes < 2 * scores + 2 * limit < scores * frames / 4


def test_ranking_moves_no_scores():
  mesh = make_mesh()
  sizes = jax.ShapeDtypeStruct
  scores = [{name: sizes((256, 512), jnp.float32) for name in ('a', 'b')}]
  columns, own = sizes((512,), jnp.int32), sizes((256,), jnp.int32)
  program = ranking.rank_block.lower(scores, scores, columns, own, mesh=mesh, fused=('a', 'b'), keep=False).compile()
  text = program.as_text()
  assert 'all-reduce' in text
  assert not any(word in text for word in ('all-gather', 'all-to-all', 'collective-permute'))
  assert program.memory_analysis().output_size_in_bytes < 256 * 4 * 8


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_scoring_lowers_for_cuda_in_the_precision_asked_for(dtype):
  mesh, (queries, videos, frames, hidden) = make_mesh(jax.devices()[:1]), (1024, 64, 128, 384)
  most = product_bytes('gpu')
  plan = ranking.plan_queries(queries, 2179, frames, most)
  shape = jax.ShapeDtypeStruct
  traced = ranking.score_segment.trace(
    {'a': shape((plan.block, hidden), jnp.float32)},
    {'a': shape((videos, frames, hidden), dtype)},
    mesh=mesh,
    query_tile=plan.tile,
    most_bytes=most,
  )
  lines = traced.lower(lowering_platforms=('cuda',)).as_text().splitlines()
  (product,) = (line for line in lines if 'stablehlo.dot_general' in line)
  assert ('HIGHEST' in product) is (dtype == jnp.float32)
  assert f'tensor<{plan.tile}x' in product and plan.tile == queries  # All queries of a block at once.


@pytest.mark.parametrize('devices', [1, 8])
def test_nvidia_gpus_take_the_maxima_of_bfloat16_in_registers(devices):
  mesh, shape = make_mesh(jax.devices()[:devices]), jax.ShapeDtypeStruct
  traced = ranking.score_segment.trace(
    {name: shape((1000, 100), jnp.float32) for name in ('a', 'teacher')},
    {'a': shape((64, 40, 100), jnp.bfloat16), 'teacher': shape((64, 40, 100), jnp.float32)},
    mesh=mesh,
    query_tile=1000,
    most_bytes=product_bytes('gpu'),
    in_registers=True,
  )
  assert [x.shape for x in jax.tree.leaves(traced.out_info)] == [(1000, 64)] * 2
  try:
    text = traced.lower(lowering_platforms=('cuda',)).as_text()
  except RuntimeError as error:
    # JAX 0.11 asks the GPU what it is before it lowers a kernel; that it is traced is all that can be seen without one.
    assert 'No supported GPU devices found' in str(error)
    return
  (product,) = (line for line in text.splitlines() if 'stablehlo.dot_general' in line)
  assert 'HIGHEST' in product and 'bf16' not in product  # That of the teacher, in float32.
  (kernel,) = (line for line in text.splitlines() if 'gpu.triton' in line)
  assert 'tensor<1024x128xbf16>' in kernel  # Whole tiles of queries, whole parts of H.


@pytest.mark.parametrize(
  ('kind', 'capability', 'expected'),
  [
    ('NVIDIA H100 80GB HBM3', '9.0', True),
    ('NVIDIA A100-SXM4-40GB', '8.0', True),
    ('NVIDIA GeForce RTX 5090', '12.0', True),
    ('NVIDIA TITAN V', '7.0', False),
    ('Tesla T4', '7.5', False),
    ('AMD Instinct MI300X', 'gfx942', False),
    ('TPU v6 lite', None, False),
    ('cpu', None, False),
  ],
)
def test_which_devices_take_maxima_in_registers(kind, capability, expected):
  device = types.SimpleNamespace(device_kind=kind, compute_capability=capability)
  assert ranking.takes_maxima_in_registers(types.SimpleNamespace(devices=np.array([device]))) is expected
