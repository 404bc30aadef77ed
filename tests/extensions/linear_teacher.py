"""A teacher that is one random linear map of the pixels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax.training.online_teacher import OnlineTeacher


def load(spec: Any, dtype: Any) -> OnlineTeacher:
  """Makes the teacher that `config.teacher` asks for: `options` has the size of its pictures and of its features."""
  size, features = spec.options.size, spec.options.features
  kernel = np.random.default_rng(0).standard_normal((size * size * 3, features)).astype(np.float32)

  def encode(params: Any, pictures: jax.Array) -> jax.Array:
    return jnp.tanh(pictures.reshape(len(pictures), -1).astype(dtype) @ params['kernel'].astype(dtype))

  grey = (0.5, 0.5, 0.5)
  return OnlineTeacher('a linear map', encode, {'kernel': kernel}, size, features, mean=grey, std=grey)
