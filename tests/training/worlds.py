"""A tiny student, batches of one set of real rows under any padding, and compiled train steps to share among tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlkd_jax import sharding
from dlkd_jax.data.batch import Batch
from dlkd_jax.losses.total import Coefficients, LossOptions
from dlkd_jax.models.student import Student, init_parameters
from dlkd_jax.training import schedules
from dlkd_jax.training.optimizer import bert_adam
from dlkd_jax.training.state import TrainState, create_state, make_train_step

DV, DQ, DT = 7, 5, 6
CAPTIONS = (3, 1, 2, 4, 1, 1, 2)  # of each real video
FRAMES = (6, 2, 5, 1, 6, 3, 4)
VIDEOS, QUERIES = len(CAPTIONS), sum(CAPTIONS)
STEPS_PER_EPOCH = 2
EXACT = LossOptions(hard_pool=1)  # No draw decides a value.
# Everything that can be drawn is: the triplet's negatives from a pool, and the hard rows.
DRAWN = LossOptions(hard_pool=3, random_split=True)


def make_student(dropout=0.0):
  return Student(hidden=8, heads=2, max_frames=8, max_words=6, input_dropout=dropout, dropout=dropout)


def make_batch(videos=8, captions=16, frames=6, words=5, teacher=True):
  """The same real rows, padded to the given sizes. On 8 devices the last one holds padding alone."""
  rng = np.random.default_rng(0)

  def padded(shape, *sizes):
    array = np.zeros(sizes, np.float32)
    array[tuple(slice(n) for n in shape)] = rng.standard_normal(shape)
    return array

  frame_mask, token_mask = np.zeros((videos, frames), bool), np.zeros((captions, words), bool)
  for v, n in enumerate(FRAMES):
    frame_mask[v, :n] = True
  for q in range(QUERIES):
    token_mask[q, : 1 + q % 5] = True
  labels = np.zeros(captions, np.int32)
  labels[:QUERIES] = np.repeat(np.arange(VIDEOS), CAPTIONS)
  student_frames = padded((VIDEOS, 6, DV), videos, frames, DV) * frame_mask[..., None]
  student_tokens = padded((QUERIES, 5, DQ), captions, words, DQ) * token_mask[..., None]
  teacher_frames = padded((VIDEOS, 6, DT), videos, frames, DT) * frame_mask[..., None]
  return Batch(
    student_frames=student_frames,
    frame_mask=frame_mask,
    student_tokens=student_tokens,
    token_mask=token_mask,
    labels=labels,
    video_mask=np.arange(videos) < VIDEOS,
    caption_mask=np.arange(captions) < QUERIES,
    teacher_frames=teacher_frames if teacher else None,
    teacher_text=padded((QUERIES, DT), captions, DT) if teacher else None,
  ).check()


def make_parameters():
  return init_parameters(make_student(), jax.random.key(0), DV, DQ)


@functools.cache
def first_parameters():
  return jax.device_get(jax.jit(make_parameters)())


def coefficients(step):
  """Coefficients that differ in every epoch."""
  return Coefficients(
    schedules.alpha('exp', STEPS_PER_EPOCH)(step),
    schedules.beta('exp', STEPS_PER_EPOCH)(step),
    schedules.distillation_weight('exp', STEPS_PER_EPOCH)(step),
    hard_negatives=step >= 2 * STEPS_PER_EPOCH,
  )


def recorder():
  """Passes gradients on and keeps the newest as its state, so that a test sees them."""
  init = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
  return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, updates))


class World:
  """A train step on so many devices."""

  def __init__(self, devices, dropout, options):
    self.mesh = sharding.make_mesh(jax.devices()[:devices])
    self.student = make_student(dropout)
    self.rate = schedules.warmup_linear(1e-2, 100)
    self.optimizer = optax.chain(recorder(), bert_adam(self.rate))
    self.step = make_train_step(self.student, self.optimizer, coefficients, self.rate, options, self.mesh)

  def create(self):
    return create_state(make_parameters, self.optimizer, self.mesh)

  def state(self, step=0):
    """A first state, as number `step`, in buffers of its own: the train step donates them."""
    params = first_parameters()
    state = TrainState(np.asarray(step, np.int32), params, self.optimizer.init(params))
    return jax.device_put(jax.tree.map(np.array, state), sharding.replicated(self.mesh))

  def run(self, batch, step=0, key=5):
    """One update, as number `step`, from the first parameters: (gradients, metrics)."""
    batch = sharding.shard_batch(batch, self.mesh)
    state, metrics = self.step(self.state(step), batch, jax.random.key(key))
    return jax.device_get(state.opt_state[0]), jax.device_get(metrics)


world = functools.cache(World)
