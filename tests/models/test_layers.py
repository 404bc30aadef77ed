"""The layer normalisation against Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.models.layers import LAYER_NORM_EPSILON, LayerNorm


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_layer_norm_is_that_of_flax(dtype, tolerance):
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(3.0 + 2.0 * rng.standard_normal((3, 5, 16)), dtype)
  weights = jnp.asarray(rng.standard_normal((3, 5, 16)), jnp.float32)
  params = {name: jnp.asarray(rng.standard_normal(16), jnp.float32) for name in ('scale', 'bias')}

  def of(module):
    objective = lambda params, x: jnp.sum(weights * module.apply({'params': params}, x))  # noqa: E731
    return module.apply({'params': params}, inputs), jax.jit(jax.grad(objective, (0, 1)))(params, inputs)

  found, expected = of(LayerNorm(dtype)), of(nn.LayerNorm(LAYER_NORM_EPSILON, dtype=dtype, use_fast_variance=False))
  chosen = jax.tree.map(lambda x: x.dtype, found)
  assert chosen == jax.tree.map(lambda x: x.dtype, expected)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    np.testing.assert_allclose(x, y, atol=tolerance * np.abs(y).max())
