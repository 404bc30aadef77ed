"""Programs lowered for GPUs, on which no test runs: that they can be, and that their products are as asked for."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax import sharding
from dlkd_jax.retrieval.evaluate import encoders_of
from dlkd_jax.training.state import make_train_step
from tests.training import worlds


@functools.cache
def products(devices, dtype):
  """The matrix products of a step on so many devices, as lines of its program for CUDA."""
  world, batch = worlds.world(devices, 0.3, worlds.DRAWN), worlds.packed_batch(devices)
  student = dataclasses.replace(world.student, dtype=dtype)
  arguments = student, world.optimizer, worlds.coefficients, world.rate, world.options, world.mesh
  batch = sharding.shard_batch(batch, world.mesh)
  traced = make_train_step(*arguments).trace(world.state(), batch, jax.random.key(0))
  program = traced.lower(lowering_platforms=('cuda',)).as_text()
  return dots(program)


def dots(program):
  return [line for line in program.splitlines() if re.search(r'stablehlo\.dot(_general)? ', line)]


@pytest.mark.parametrize('devices', [1, 8])
def test_float32_is_float32_on_a_gpu(devices):
  lines = products(devices, jnp.float32)
  assert len(lines) > 20
  assert [line for line in lines if 'precision = [HIGHEST, HIGHEST]' not in line] == []


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_encoders_of_the_evaluation(dtype):
  student = dataclasses.replace(worlds.make_student(), dtype=dtype)
  encoders, mask = encoders_of(student), np.ones((4, 6), bool)
  for encode, width in ((encoders.tokens, worlds.DQ), (encoders.frames, worlds.DV)):
    rows = np.zeros((4, 6, width), np.float16)
    program = encode.trace(worlds.first_parameters(), rows, mask).lower(lowering_platforms=('cuda',)).as_text()
    exact = ['precision = [HIGHEST, HIGHEST]' in line for line in dots(program)]
    assert len(exact) > 8 and set(exact) == {dtype == jnp.float32}


def test_bfloat16_products_stay_what_they_are():
  lines = products(1, jnp.bfloat16)
  assert sum('xbf16>' in line for line in lines) > 20 and not any('HIGHEST' in line for line in lines)
