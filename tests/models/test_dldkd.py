"""The student: agreement with plain loops, sizes, initialisation, padding, errors."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax.models.release_parameters import from_release
from dlkd_jax.models.students import init_parameters
from tests import options as made
from tests.models import plain_student

B, L, W, DV, DQ, H, HEADS = 3, 6, 5, 7, 9, 8, 2
LENGTHS, WORDS = (6, 2, 0), (5, 1, 3)
PREFIXES = {'inheritance': '', 'exploration': 'exp_'}
STUDENT = made.student(hidden=H, heads=HEADS, max_frames=L + 1, max_words=W + 1)
apply = jax.jit(STUDENT.apply)


class World:
  """Random release parameters and padded inputs; what stands at padding is not zero."""

  def __init__(self):
    rng = np.random.default_rng(0)
    self.arrays = plain_student.random_release(rng, H, DV, DQ, L + 1, W + 1)
    self.params = from_release(self.arrays)
    self.frames = rng.standard_normal((B, L, DV)).astype(np.float32)
    self.tokens = rng.standard_normal((B, W, DQ)).astype(np.float32)
    self.frame_mask = np.arange(L) < np.array(LENGTHS)[:, None]
    self.token_mask = np.arange(W) < np.array(WORDS)[:, None]

  @functools.cached_property
  def encoded(self):
    return self.encode(self.frames, self.tokens)

  def encode(self, frames, tokens):
    return apply({'params': self.params}, frames, self.frame_mask, tokens, self.token_mask)


@pytest.fixture(scope='module')
def world():
  return World()


@pytest.mark.parametrize('branch', PREFIXES)
def test_against_plain_loops(world, branch):
  frames, queries = world.encoded
  for i in range(B):
    if LENGTHS[i]:
      expected = plain_student.encode_frames(world.arrays, PREFIXES[branch], world.frames[i, : LENGTHS[i]], HEADS)
      np.testing.assert_allclose(frames[branch][i, : LENGTHS[i]], expected, rtol=1e-4, atol=1e-5)
    expected = plain_student.encode_tokens(world.arrays, PREFIXES[branch], world.tokens[i, : WORDS[i]], HEADS)
    np.testing.assert_allclose(queries[branch][i], expected, rtol=1e-4, atol=1e-5)


def test_what_stands_at_padding_does_not_matter(world):
  frames = np.where(world.frame_mask[..., None], world.frames, 30.0)
  tokens = np.where(world.token_mask[..., None], world.tokens, -30.0)
  changed_frames, changed_queries = world.encode(frames, tokens)
  for branch in PREFIXES:
    np.testing.assert_array_equal(
      np.asarray(changed_frames[branch])[world.frame_mask], np.asarray(world.encoded[0][branch])[world.frame_mask]
    )
    np.testing.assert_array_equal(changed_queries[branch], world.encoded[1][branch])
    assert np.isfinite(changed_frames[branch]).all()


def test_one_side_alone_gives_the_same(world):
  # Padded to another length, too.
  frames = np.pad(world.frames, ((0, 0), (0, 1), (0, 0)), constant_values=4.0)
  mask = np.pad(world.frame_mask, ((0, 0), (0, 1)))
  encode = jax.jit(functools.partial(STUDENT.apply, method='encode_frames'))
  for branch, encoded in encode({'params': world.params}, frames, mask).items():
    np.testing.assert_allclose(
      np.asarray(encoded)[mask], np.asarray(world.encoded[0][branch])[world.frame_mask], rtol=1e-5, atol=1e-5
    )


def count(student, frame_features, token_features):
  init = functools.partial(init_parameters, student, frame_features=frame_features, token_features=token_features)
  return sum(x.size for x in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))


def test_number_of_parameters():
  def expected(dv, dq, h=384, frames=128, words=30):
    def encoder(d, positions):
      return 2 * d + d * h + h + positions * h + 2 * h + 4 * (h * h + h) + 2 * h

    return 2 * (encoder(dv, frames) + encoder(dq, words) + h * h + h + h)

  assert count(made.student(), 3072, 768) == expected(3072, 768)
  assert count(made.student(), 1024, 1024) == expected(1024, 1024)
  assert count(made.student(branches=('inheritance',)), 1024, 1024) * 2 == expected(1024, 1024)
  assert round(count(made.student(), 3072, 768) / 1e6, 1) == 5.8
  assert round(count(made.student(), 1024, 1024) / 1e6, 1) == 4.4


def test_initialisation():
  student = made.student(hidden=64, max_frames=256, max_words=256)
  params = jax.jit(lambda: init_parameters(student, jax.random.key(0), 200, 160))()
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  for name, value in flat.items():
    assert value.dtype == jnp.float32
    if name.endswith('norm/scale'):
      np.testing.assert_array_equal(value, 1.0)
    elif name.endswith('bias'):
      np.testing.assert_array_equal(value, 0.0)
    else:
      tolerance = 5 / np.sqrt(value.size)
      assert abs(np.mean(value)) < 0.02 * tolerance, name
      assert abs(np.std(value) / 0.02 - 1.0) < tolerance, name
  # The two branches start apart.
  for name in (n for n in flat if n.startswith('inheritance') and n.endswith('kernel')):
    assert not np.array_equal(flat[name], flat[name.replace('inheritance', 'exploration')])


def test_single_branch(world):
  student = made.student(hidden=H, heads=HEADS, max_frames=L + 1, max_words=W + 1, branches=('inheritance',))
  assert student.branches == ('inheritance',)
  params = {'inheritance': world.params['inheritance']}
  encode = jax.jit(functools.partial(student.apply, method='encode_tokens'))
  queries = encode({'params': params}, world.tokens, world.token_mask)
  assert set(queries) == {'inheritance'}
  np.testing.assert_allclose(queries['inheritance'], world.encoded[1]['inheritance'], rtol=1e-5, atol=1e-6)


def test_too_long_a_sequence_is_refused(world):
  frames, mask = np.zeros((1, L + 2, DV), np.float32), np.ones((1, L + 2), bool)
  with pytest.raises(ValueError, match=r'frame_encoder.*8 positions.*has 7'):
    jax.eval_shape(lambda: STUDENT.apply({'params': world.params}, frames, mask, method='encode_frames'))


def test_heads_must_divide_the_hidden_size():
  with pytest.raises(ValueError, match=r'30 is not divisible by 4'):
    count(made.student(hidden=30), 8, 8)
