"""The plain and the blocked form against loops over random shapes, packings and ties; memory of the blocked one."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Layout
from dlkd_jax.similarity import blocked
from dlkd_jax.similarity.common import MOST_FRAMES, inverse_norm, product_bytes, slot_table
from dlkd_jax.similarity.max_over_frames import max_frame_similarity
from tests.similarity.worlds import check, random_world, run, unpacked

# Every example compiles: few of them, and no search for a smaller failing one.
few = hypothesis.settings(max_examples=6, deadline=None, derandomize=True, phases=[hypothesis.Phase.generate])
compiled = jax.jit(max_frame_similarity, static_argnames=('form', 'block_rows'))
sizes = st.fixed_dictionaries(
  {
    'seed': st.integers(0, 1000),
    'captions': st.integers(1, 9),
    'rows': st.integers(1, 6),
    'length': st.integers(2, 17),
    'slots': st.integers(1, 4),
    'hidden': st.integers(4, 9),
    'padded': st.integers(0, 3),
    'ties': st.booleans(),
  }
)


@few
@hypothesis.given(sizes, st.booleans())
def test_plain_against_loops(arguments, curves):
  check(random_world(**arguments), 'plain', curves)


@few
@hypothesis.given(sizes, st.booleans(), st.sampled_from([None, 1, 2, 3, 50]))
def test_blocked_against_loops(arguments, curves, block_rows):
  check(random_world(**arguments), 'blocked', curves, block_rows=block_rows)


@pytest.mark.parametrize('form', ['plain', 'blocked'])
def test_ties_go_to_the_first_frame(form):
  frames = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]]], np.float32)
  mask = np.array([[False, True, True, True, True]])

  def objective(frames, name):
    return jnp.sum(getattr(max_frame_similarity(jnp.ones((1, 2)), frames, mask, form=form), name))

  gradient_of = jax.jit(jax.grad(objective), static_argnums=1)
  for name, first in (('cosine', 1), ('dot', 3)):
    gradient = np.asarray(gradient_of(jnp.asarray(frames), name))
    assert np.flatnonzero(np.abs(gradient[0]).sum(axis=-1)).tolist() == [first]


def test_reductions_of_wide_processors_and_of_a_cpu_agree():
  world = random_world(3, rows=5, slots=4)
  table = slot_table(jax.tree.map(jnp.asarray, world.layout))
  part = blocked._all_rows(jnp.asarray(world.frames), table)
  made = jnp.einsum('rlh,qh->rlq', world.frames, world.queries)
  for products in (made, jnp.round(made), made.at[1, 2].set(jnp.nan)):
    one, other = blocked._reduce_running(products, part), blocked._reduce_slots(products, part)
    for x, y in zip(one, other, strict=True):
      np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('form', ['plain', 'blocked'])
def test_a_value_that_is_not_a_number_is_seen(form):
  frames = np.ones((1, 4, 3), np.float32)
  for bad in range(4):
    frames = np.ones((1, 4, 3), np.float32)
    frames[0, bad] = np.nan
    result = compiled(np.ones((2, 3), np.float32), frames, np.ones((1, 4), bool), form=form)
    assert np.isnan(result.cosine).all() and np.isnan(result.dot).all()


@pytest.mark.parametrize('form', ['plain', 'blocked'])
def test_packed_and_unpacked_agree(form):
  world = random_world(5, rows=5, length=16, slots=4)
  frames, mask = unpacked(world)
  packed = run(world, form, curves=False)[0]
  apart = compiled(world.queries, frames, mask, form=form)
  np.testing.assert_allclose(packed.cosine, apart.cosine, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(packed.dot, apart.dot, rtol=1e-6, atol=1e-6)


def test_a_hole_in_a_mask_is_not_a_frame():
  rng = np.random.default_rng(0)
  queries, frames = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal((5, 9, 4)).astype(np.float32)
  mask = rng.random((5, 9)) < 0.5
  mask[2] = False
  plain, other = (compiled(queries, frames, mask, form=form) for form in ('plain', 'blocked'))
  np.testing.assert_allclose(plain.cosine, other.cosine, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(plain.dot, other.dot, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('form', ['plain', 'blocked'])
def test_bfloat16_inputs_are_summed_in_float32(form):
  # In bfloat16 256 + 1 is 256: a sum kept in it would lose every small term.
  frames = jnp.concatenate([jnp.full((1, 1, 1), 256.0), jnp.ones((1, 1, 64))], axis=-1).astype(jnp.bfloat16)
  queries = jnp.ones((1, 65), jnp.bfloat16)
  result = max_frame_similarity(queries, frames, jnp.ones((1, 1), bool), form=form)
  assert result.dot.dtype == result.cosine.dtype == jnp.float32
  np.testing.assert_array_equal(result.dot, [[320.0]])


def test_bfloat16_gradients_are_near_those_of_float32():
  world = random_world(8)
  for x, y in zip(
    run(world, 'blocked', dtype=jnp.bfloat16)[1], run(world, 'plain', dtype=jnp.bfloat16)[1], strict=True
  ):
    assert x.dtype == jnp.bfloat16
    scale = float(jnp.max(jnp.abs(y)))
    np.testing.assert_allclose(np.asarray(x, np.float32), np.asarray(y, np.float32), atol=0.02 * scale)


def test_frames_of_norm_zero_have_finite_gradients():
  world = random_world(1)
  world.frames[:, :2] = 0.0
  for x, y in zip(run(world, 'blocked')[1], run(world, 'plain')[1], strict=True):
    assert np.isfinite(x).all()
    # The gradient at a zero vector is the query times 1e12: compare all to scale.
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_memory_grows_with_videos_and_not_with_frames():
  captions, hidden, rows, length = 128, 16, 64, 64
  products = 4 * captions * rows * length

  def temporary(form, slots):
    world = random_world(0, captions, rows, length, slots, hidden)

    def objective(queries, frames):
      result = max_frame_similarity(queries, frames, world.layout, world.labels, form=form, block_rows=1)
      return sum(jnp.sum(jnp.square(x)) for x in (result.cosine, result.dot, result.own_curve))

    function = jax.jit(jax.value_and_grad(objective, (0, 1)))
    return function.lower(world.queries, world.frames).compile().memory_analysis().temp_size_in_bytes

  assert temporary('plain', 1) > 2 * products
  assert temporary('blocked', 1) < 0.3 * products
  assert temporary('blocked', 4) < 0.75 * products


@pytest.mark.parametrize('check_vma', [True, False])
def test_inside_shard_map(check_vma):
  """Frames split over two devices, queries on both: the same values, and the sum of both devices' gradients."""
  mesh = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
  rng = np.random.default_rng(0)
  queries, frames = rng.standard_normal((6, 4)).astype(np.float32), rng.standard_normal((4, 9, 4)).astype(np.float32)
  mask, labels = rng.random((4, 9)) < 0.8, np.array([0, 1, 2, 3, 1, 2], np.int32)
  queries = np.stack([queries, queries]).reshape(12, 4)  # A copy for each device.

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(P('data'), P('data'), P('data'), P()), out_specs=P('data'), check_vma=check_vma
  )
  def split(queries, frames, mask, labels):
    labels = labels - 2 * jax.lax.axis_index('data')
    labels = jnp.where((labels >= 0) & (labels < 2), labels, -1)
    result = max_frame_similarity(queries, frames, mask, labels, form='blocked', block_rows=1)
    return (jnp.sum(result.cosine) + jnp.sum(jnp.sin(result.dot)) + jnp.sum(result.own_curve))[None]

  def whole(queries, frames):
    result = max_frame_similarity(queries[:6], frames, mask, labels, form='plain')
    return jnp.sum(result.cosine) + jnp.sum(jnp.sin(result.dot)) + jnp.sum(result.own_curve)

  given = jax.jit(jax.value_and_grad(lambda q, f: jnp.sum(split(q, f, mask, labels)), (0, 1)))(queries, frames)
  expected = jax.jit(jax.value_and_grad(whole, (0, 1)))(queries, frames)
  np.testing.assert_allclose(given[0], expected[0], rtol=1e-5)
  np.testing.assert_allclose(given[1][0].reshape(2, 6, 4).sum(axis=0), expected[1][0][:6], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(given[1][1], expected[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('form', ['blocked', 'pallas'])
def test_refuses_rows_too_long_for_its_indices(form):
  frames = jnp.zeros((1, MOST_FRAMES + 1, 1))
  with pytest.raises(UserError, match=r'32767.*config\.data\.max_frames'):
    max_frame_similarity(jnp.zeros((1, 1)), frames, jnp.ones(frames.shape[:2], bool), form=form)


# Captions, rows of frames and their length: a batch of 128 videos of TVR, and one of 2,048.
TVR, LARGE = (640, 56, 128), (10240, 900, 128)


@pytest.mark.parametrize(
  ('platform', 'sizes', 'blocks'), [('gpu', TVR, 1), ('gpu', LARGE, 18), ('cpu', TVR, 19), ('cpu', (640, 3, 128), 1)]
)
def test_blocks_suit_the_platform(platform, sizes, blocks):
  captions, rows, length = sizes
  block = blocked.block_size(rows, 4 * captions * length, None, product_bytes(platform))
  assert -(-rows // block) == blocks


def test_lowers_for_cuda_as_one_block():
  """No loop over blocks is left where the products fit, forward and backward; nor one over the frames."""
  (captions, rows, length), hidden = TVR, 384
  shape = jax.ShapeDtypeStruct
  layout = Layout(*(shape(x, jnp.int32) for x in ((rows, length), (rows, length), (rows, 4), (128,))))
  arguments = shape((captions, hidden), jnp.bfloat16), shape((rows, length, hidden), jnp.bfloat16), layout

  def objective(queries, frames, layout, labels):
    result = max_frame_similarity(queries, frames, layout, labels, form='blocked', most_bytes=product_bytes('gpu'))
    return sum(jnp.sum(jnp.square(x)) for x in (result.cosine, result.dot, result.own_curve))

  step = jax.jit(jax.value_and_grad(objective, (0, 1)))
  text = step.trace(*arguments, shape((captions,), jnp.int32)).lower(lowering_platforms=('cuda',)).as_text()
  assert 'stablehlo.while' not in text
  assert text.count('stablehlo.dot_general') == 3  # The products, and their cotangent times queries and frames.


def test_scales_are_those_of_the_frames():
  world = random_world(2)
  part = blocked._all_rows(jnp.asarray(world.frames), slot_table(jax.tree.map(jnp.asarray, world.layout)))
  np.testing.assert_array_equal(part.scale, inverse_norm(world.frames))
