"""The kernels: numerics by the interpreter, and what the real TPU compiler makes of them, without a TPU."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from dlkd_jax.layout import Layout
from dlkd_jax.similarity import pallas_tpu
from dlkd_jax.similarity.common import slot_table
from dlkd_jax.similarity.max_over_frames import max_frame_similarity
from tests.similarity.worlds import check, random_world, run


@pytest.mark.parametrize(
  'arguments',
  [
    {'seed': 0, 'captions': 5, 'rows': 3, 'length': 21, 'slots': 2},
    {'seed': 1, 'captions': 5, 'rows': 2, 'length': 16, 'slots': 3, 'ties': True},
    {'seed': 3, 'captions': 1, 'rows': 1, 'length': 3, 'slots': 1, 'padded': 0},
  ],
  ids=['padded to tiles', 'ties', 'one'],
)
def test_against_loops(arguments):
  check(random_world(**arguments), 'pallas')


def test_without_curves():
  check(random_world(4, rows=2, slots=2), 'pallas', curves=False)


def test_several_tiles_both_ways(monkeypatch):
  """Sums over tiles of rows and of queries: small tiles, and more captions than one of them takes."""
  monkeypatch.setattr(pallas_tpu, '_MOST_ROWS', 2)
  monkeypatch.setattr(pallas_tpu, '_MOST_QUERIES', 128)
  world = random_world(6, captions=150, rows=5, length=10, slots=2, hidden=4)
  plain, kernel = run(world, 'plain'), run(world, 'pallas')
  for x, y in zip(jax.tree.leaves(kernel), jax.tree.leaves(plain), strict=True):
    if x.shape == world.weights[2].shape:
      continue  # The curve, which says nothing outside the own video; its gradient is compared.
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-4)


def test_bfloat16_inputs_are_summed_in_float32():
  frames = jnp.concatenate([jnp.full((1, 1, 1), 256.0), jnp.ones((1, 1, 64))], axis=-1).astype(jnp.bfloat16)
  mask = jnp.ones((1, 1), bool)

  @jax.jit
  @jax.value_and_grad
  def graded(frames):
    return jnp.sum(max_frame_similarity(jnp.ones((1, 65), jnp.bfloat16), frames, mask, form='pallas').dot)

  result, gradient = graded(frames)
  assert (float(result), result.dtype, gradient.dtype) == (320.0, jnp.float32, jnp.bfloat16)
  np.testing.assert_array_equal(gradient.astype(jnp.float32), 1.0)


def test_a_hole_in_a_mask_is_not_a_frame():
  rng = np.random.default_rng(0)
  queries, frames = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal((2, 20, 4)).astype(np.float32)
  mask = rng.random((2, 20)) < 0.5
  similarity = jax.jit(max_frame_similarity, static_argnames='form')
  plain, other = (similarity(queries, frames, mask, form=form) for form in ('plain', 'pallas'))
  np.testing.assert_allclose(plain.cosine, other.cosine, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(plain.dot, other.dot, rtol=1e-6, atol=1e-6)


def test_tiles_fit_their_share_of_fast_memory():
  for hidden in (384, 768, 2048):
    for captions, rows, length in ((640, 50, 128), (40960, 13, 128), (10, 2, 1024)):
      queries = jax.ShapeDtypeStruct((captions, hidden), jnp.float32)
      tile = pallas_tpu._tile(queries, jax.ShapeDtypeStruct((rows, length, hidden), jnp.float32), 8, True)
      assert tile.rows == 1 or 4 * tile.frames * (5 * hidden + 2 * tile.queries) <= pallas_tpu._TILE_BYTES
      assert tile.length % 16 == 0 and tile.queries % 128 == 0 and tile.queries <= 512


# ---- compiled for real TPUs -----------------------------------------------------------------------------------------

Q, R, L, H, S, B = 4096, 64, 128, 384, 2, 128
PRODUCTS = 4 * Q * R * L


@pytest.fixture
def tpu(monkeypatch):
  """Returns the devices of a topology that is not there, for the compiler that libtpu brings."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed; install the extra `tpu` to compile for TPUs')
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  monkeypatch.setenv('TPU_ACCELERATOR_TYPE', 'v5litepod-16')
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'localhost')
  return lambda name: topologies.get_topology_desc(platform='tpu', topology_name=name).devices


def shapes(sharding, dtype, slots):
  def array(shape, kind=jnp.int32):
    return jax.ShapeDtypeStruct(shape, kind, sharding=sharding)

  layout = Layout(array((R, L)), array((R, L)), array((R, slots)), array((B,)))
  return array((Q, H), dtype), array((R, L, H), dtype), layout, array((Q,))


def results(queries, frames, layout, labels, form):
  result = max_frame_similarity(queries, frames, layout, labels, form=form)
  return result.cosine, result.dot, result.own_curve


def objective(queries, frames, layout, labels, form):
  return sum(jnp.sum(jnp.square(x)) for x in results(queries, frames, layout, labels, form))


def compiled(function, form, arguments):
  """Returns how many kernels the program calls, and the bytes of its temporaries."""
  lowered = jax.jit(functools.partial(function, form=form)).lower(*arguments)
  # Counted before it is compiled: this jaxlib cannot print every program of this libtpu.
  return lowered.as_text().count('@tpu_custom_call'), lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('topology', ['v5e:2x2', 'v5p:2x2x1'])
def test_nothing_of_the_size_of_the_products_is_kept(tpu, topology, dtype):
  arguments = shapes(SingleDeviceSharding(tpu(topology)[0]), dtype, S)
  for function, kernels in ((results, 1), (jax.value_and_grad(objective, (0, 1)), 3)):
    called, temporary = compiled(function, 'pallas', arguments)
    assert called == kernels
    assert temporary < 0.25 * PRODUCTS


@pytest.mark.slow
@pytest.mark.parametrize('topology', ['v5e:2x2', 'v5p:2x2x1'])
def test_the_plain_form_does_keep_them(tpu, topology):
  arguments = shapes(SingleDeviceSharding(tpu(topology)[0]), jnp.bfloat16, 1)
  for function in (results, jax.value_and_grad(objective, (0, 1))):
    called, temporary = compiled(function, 'plain', arguments)
    assert called == 0
    assert temporary > PRODUCTS


@pytest.mark.slow
def test_compiles_inside_shard_map(tpu):
  mesh = Mesh(np.array(tpu('v5e:2x2')), ('data',), axis_types=(AxisType.Auto,))

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P('data'),) * 4, out_specs=P())
  def split(queries, frames, layout, labels):
    queries, labels = (jax.lax.all_gather(x, 'data', tiled=True) for x in (queries, labels))
    return jax.lax.psum(objective(queries, frames, layout, labels, 'pallas'), 'data')

  arguments = shapes(NamedSharding(mesh, P('data')), jnp.bfloat16, S)
  called, temporary = compiled(lambda *x, form: jax.value_and_grad(split, (0, 1))(*x), 'pallas', arguments)
  assert called == 3
  assert temporary < 0.25 * PRODUCTS / 4


def test_slots_that_no_column_names_get_none():
  """A padded video names slot 0 of row 0 too; the real one keeps it."""
  layout = Layout(*(jnp.asarray(x, jnp.int32) for x in ([[0, 0, 1]], [[0, 1, 0]], [[0, 1]], [1, 0, 0])))
  table = slot_table(layout)
  assert table.column.tolist() == [[1, 0]]
  assert table.present.tolist() == [True, True, False]
