"""Matrix products in bfloat16: what they do to objective, gradients and ranking, and what stays float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import tvr
from dlkd_jax.data.batch import Batch
from dlkd_jax.layout import padded_layout
from dlkd_jax.models.students import init_parameters
from dlkd_jax.similarity.max_over_frames import max_frame_similarity
from dlkd_jax.training import recipe
from dlkd_jax.training.objective import compute_objective
from tests import options as made
from tests.training import worlds

VIDEOS, FRAMES, WORDS, SIZE = 48, 12, 6, 64
STUDENT = made.student(hidden=64, heads=4, max_frames=FRAMES, max_words=WORDS, input_dropout=0.0, dropout=0.0)
HALF = dataclasses.replace(STUDENT, dtype=jnp.bfloat16)


def make_batch():
  """One caption a video: its words, and some of its video's frames, show the same thing."""
  rng = np.random.default_rng(0)
  things = rng.standard_normal((VIDEOS, 1, SIZE))
  noise = lambda length: rng.standard_normal((VIDEOS, length, SIZE))  # noqa: E731
  frames, tokens = noise(FRAMES), 0.5 * noise(WORDS) + things
  frames[:, 3:6] += 2 * things
  teacher = 0.7 * noise(FRAMES)
  teacher[:, 3:6] += things
  unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)  # noqa: E731
  everyone, ordinals = np.ones(VIDEOS, bool), np.arange(VIDEOS, dtype=np.int32)
  return Batch(
    student_frames=unit(frames),
    student_tokens=unit(tokens),
    frame_layout=padded_layout(np.ones((VIDEOS, FRAMES), bool)),
    token_layout=padded_layout(np.ones((VIDEOS, WORDS), bool)),
    labels=ordinals,
    video_mask=everyone,
    caption_mask=everyone,
    video_ordinals=ordinals,
    caption_ordinals=ordinals,
    teacher_frames=teacher.astype(np.float32),
    teacher_text=things[:, 0].astype(np.float32),
  ).check()


@functools.cache
def trained():
  """A batch, and parameters that were fitted to it in float32, so that rankings mean something."""
  batch, optimizer = make_batch(), optax.adam(3e-3)
  params = jax.jit(lambda: init_parameters(STUDENT, jax.random.key(0), SIZE, SIZE))()

  @jax.jit
  def update(params, state, gradients):
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for _ in range(30):
    params, state = update(params, state, objective(STUDENT)(params, batch)[1])
  return batch, params


@functools.cache
def objective(student):
  dtype = student.dtype

  def value(params, batch):
    return compute_objective(
      params,
      student,
      batch,
      coefficients=worlds.coefficients(jnp.asarray(0)),
      key=jax.random.key(1),
      options=made.objective_options(worlds.EXACT, teacher_dtype=dtype),
    )

  return jax.jit(jax.value_and_grad(value, has_aux=True))


@pytest.fixture(scope='module')
def both():
  batch, params = trained()
  return {name: objective(s)(params, batch) for name, s in (('float32', STUDENT), ('bfloat16', HALF))}


def test_loss_parts_differ_by_little(both):
  (_, exact), _ = both['float32']
  (_, half), _ = both['bfloat16']
  for name, value in exact.items():
    assert half[name].dtype == jnp.float32, name
    np.testing.assert_allclose(half[name], value, rtol=0.03, atol=3e-3, err_msg=name)
  assert any(half[name] != value for name, value in exact.items())


def test_gradients_are_float32_and_point_the_same_way(both):
  exact, half = (jax.tree.leaves(both[name][1]) for name in ('float32', 'bfloat16'))
  assert all(x.dtype == jnp.float32 for x in half)
  flat = [np.concatenate([np.ravel(x) for x in leaves]) for leaves in (exact, half)]
  cosine = flat[0] @ flat[1] / np.prod([np.linalg.norm(x) for x in flat])
  assert 0.99 < cosine < 1 - 1e-9


def test_ranking_stays():
  batch, params = trained()

  @functools.partial(jax.jit, static_argnums=0)
  def scores(student):
    arguments = batch.student_frames, batch.frame_layout, batch.student_tokens, batch.token_layout
    frames, queries = student.apply({'params': params}, *arguments)
    name = 'inheritance'
    return max_frame_similarity(queries[name][:, 0], frames[name], batch.frame_layout).cosine

  exact, half = (np.asarray(scores(s), np.float32) for s in (STUDENT, HALF))
  own = lambda s: 1 + np.sum(s > np.diagonal(s)[:, None], axis=1)  # noqa: E731
  assert np.mean(own(exact) == 1) > 0.5  # There is something to lose.
  assert np.mean(own(exact) == own(half)) > 0.85
  assert np.abs(own(exact) - own(half)).max() <= 2
  assert np.abs(exact - half).max() < 0.02


@pytest.mark.parametrize('platform, expected', [('cpu', 'float32'), ('gpu', 'bfloat16'), ('tpu', 'bfloat16')])
def test_auto_precision_and_form_follow_the_platform(platform, expected):
  config = tvr.get_config()
  assert recipe.make_student(config, platform).dtype == jnp.dtype(expected)
  options = recipe.make_objective_options(config, platform)
  assert options.teacher_dtype == jnp.dtype(expected)
  assert options.form == ('pallas' if platform == 'tpu' else 'blocked')
  with config.unlocked():
    config.model.precision, config.similarity.form = 'float32', 'plain'
  assert recipe.make_student(config, platform).dtype == jnp.float32
  assert recipe.make_objective_options(config, platform).form == 'plain'


def test_parameters_and_optimiser_state_stay_float32():
  params = jax.eval_shape(lambda: init_parameters(HALF, jax.random.key(0), SIZE, SIZE))
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
