import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from dlkd_jax.tools.planning import products
from tests.tools.planning.compiled import product_in_a_loop, trace


def count(function, *shapes, dtype=jnp.float32):
  return products.count(jax.jit(function).trace(*(jax.ShapeDtypeStruct(s, dtype) for s in shapes)).jaxpr)


def test_a_product_is_two_operations_an_element_and_term():
  assert count(lambda x, y: x @ y, (3, 5), (5, 7)) == {'float32': 2 * 3 * 5 * 7}


def test_a_batched_product_of_narrow_types():
  assert count(lambda x, y: jnp.einsum('bij,bkj->bik', x, y), (4, 3, 5), (4, 7, 5), dtype=jnp.bfloat16) == {
    'bfloat16': 2 * 4 * 3 * 5 * 7
  }


def test_a_gradient_has_two_products_more():
  forward = lambda x, y: jnp.sum(jnp.tanh(x @ y))  # noqa: E731
  assert count(jax.grad(forward, (0, 1)), (3, 5), (5, 7)) == {'float32': 3 * 2 * 3 * 5 * 7}


def test_loops_count_as_often_as_they_run_and_devices_together():
  assert products.count(product_in_a_loop(jax.devices()[:4]).jaxpr) == {'float32': 4 * 7 * 2 * 32 * 64 * 64}


def test_the_dearest_branch_counts():
  def branches(x, y):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ y @ y, lambda: x @ y)

  assert count(branches, (3, 5), (5, 5)) == {'float32': 2 * 2 * 3 * 5 * 5}


def test_a_kernel_counts_once_a_tile():
  def kernel(x, out):
    out[...] = jnp.dot(x[...], x[...])

  def program(x):
    spec = pl.BlockSpec((8, 8), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct((32, 8), jnp.float32)
    return pl.pallas_call(kernel, shape, grid=(4,), in_specs=[spec], out_specs=spec, interpret=True)(x)

  assert count(program, (32, 8)) == {'float32': 4 * 2 * 8 * 8 * 8}


def test_without_loops_the_compiler_agrees():
  traced = trace(lambda x, y: jnp.tanh(x @ y) @ y.T, jax.devices()[:1], (256, 512), (512, 128))
  flops = traced.lower().compile().cost_analysis()['flops']
  assert sum(products.count(traced.jaxpr).values()) == pytest.approx(flops, rel=0.01)
