"""Conversion of parameters between the release's names and ours."""

import functools

import flax.traverse_util
import jax
import numpy as np
import pytest

from dlkd_jax.models.release_parameters import BRANCHES, from_release, to_release
from dlkd_jax.models.students import init_parameters
from tests import options as made
from tests.models.plain_student import random_release


def arrays(dual=True):
  return random_release(np.random.default_rng(1), 8, 7, 9, 6, 5, dual)


def shapes(tree):
  return {name: x.shape for name, x in flax.traverse_util.flatten_dict(tree, sep='/').items()}


@pytest.mark.parametrize('dual', [True, False])
def test_there_and_back(dual):
  original = arrays(dual)
  params = from_release(original)
  student = made.student(hidden=8, heads=2, max_frames=6, max_words=5, branches=BRANCHES if dual else BRANCHES[:1])
  init = functools.partial(init_parameters, student, frame_features=7, token_features=9)
  assert shapes(params) == shapes(jax.eval_shape(init, jax.random.key(0)))
  back = to_release(params)
  assert set(back) == set(original)
  for name, array in original.items():
    np.testing.assert_array_equal(back[name], array)


def test_layout_is_turned_around():
  original = arrays()
  params = from_release(original)
  kernel = params['exploration']['frame_encoder']['input_projection']['kernel']
  np.testing.assert_array_equal(kernel, original['exp_visual_input_proj.net.1.weight'].T)
  pooling = params['inheritance']['token_pooling']['kernel']
  np.testing.assert_array_equal(pooling, original['modular_vector_mapping.weight'].T)


def test_missing_and_unknown_names_are_listed():
  broken = arrays()
  del broken['exp_out_mapping_linear.bias'], broken['query_encoder.self.key.weight']
  broken['surplus.weight'] = np.zeros(3)
  with pytest.raises(ValueError, match='dual-branch') as error:
    from_release(broken)
  for name in ('exp_out_mapping_linear.bias', 'query_encoder.self.key.weight', 'surplus.weight'):
    assert name in str(error.value)
  with pytest.raises(ValueError, match='single-branch'):
    from_release({})


def test_pytree_that_is_not_a_student_is_refused():
  params = from_release(arrays())
  del params['exploration']['token_pooling']
  params['other'] = {'kernel': np.zeros(2)}
  with pytest.raises(ValueError) as error:
    to_release(params)
  assert 'exploration/token_pooling/kernel' in str(error.value) and 'other/kernel' in str(error.value)
