"""The keys of a run, whatever the environment says."""

import os
import subprocess
import sys

import jax
import numpy as np

from dlkd_jax.training.setup import keys_of_run
from tests.paths import repository

DRAWS = """
import jax
from dlkd_jax.losses.pairs import random_bits
from dlkd_jax.training.setup import keys_of_run
keys = keys_of_run(7)
bits = [random_bits(keys[1], jax.numpy.arange(first, 5)).tolist()[-2:] for first in (0, 3)]
print([str(jax.random.key_impl(key)) for key in keys], [jax.random.key_data(key).tolist() for key in keys], bits)
"""


def test_draws_are_those_of_one_generator_and_depend_on_no_layout():
  printed = set()
  for changed in ({}, {'JAX_DEFAULT_PRNG_IMPL': 'rbg'}, {'JAX_DEFAULT_PRNG_IMPL': 'unsafe_rbg'}):
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_THREEFRY_PARTITIONABLE': str(int(not changed))} | changed
    done = subprocess.run(
      [sys.executable, '-c', DRAWS], env=environment, cwd=repository(), capture_output=True, text=True, check=True
    )
    printed.add(done.stdout)
  (line,) = printed
  assert line.count('threefry2x32') == 2 and 'rbg' not in line
  bits = line.strip().rsplit('[[', 1)[1].rstrip(']').split('], [')
  assert bits[0] == bits[1]


def test_seeds_give_different_keys():
  keys = [jax.random.key_data(key) for seed in (0, 1, 2**32 - 1) for key in keys_of_run(seed)]
  assert len({np.asarray(key).tobytes() for key in keys}) == 6
