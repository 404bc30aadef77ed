"""A tiny student, batches of one set of videos laid out in many ways, and compiled train steps to share among tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlkd_jax import sharding
from dlkd_jax.data.batch import Batch
from dlkd_jax.layout import Layout
from dlkd_jax.models.students import init_parameters
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training import optimizer
from dlkd_jax.training.optimizer import bert_adam
from dlkd_jax.training.state import TrainState, create_state, make_train_step
from tests import options as made

DV, DQ, DT = 7, 5, 6
CAPTIONS = (3, 1, 2, 4, 1, 1, 2)  # of each real video
FRAMES = (6, 2, 5, 1, 6, 3, 4)
VIDEOS, QUERIES = len(CAPTIONS), sum(CAPTIONS)
STEPS_PER_EPOCH = 2
EXACT = made.terms(hard_pool=1)  # No draw decides a value.
# Everything that can be drawn is: the triplet's negatives from a pool, and the hard rows.
DRAWN = made.terms(hard_pool=3, random_split=True)


def make_student(dropout=0.0):
  return made.student(hidden=8, heads=2, max_frames=8, max_words=6, input_dropout=dropout, dropout=dropout)


@functools.cache
def videos():
  """The real videos: frames `[n, DV]`, teacher frames `[n, DT]`, and captions as pairs of tokens and teacher text."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  made, q = [], 0
  for frames, captions in zip(FRAMES, CAPTIONS, strict=True):
    texts = [(normal(1 + (q + k) % 5, DQ), normal(DT)) for k in range(captions)]
    made.append((normal(frames, DV), normal(frames, DT), texts))
    q += captions
  return made


class _Side:
  """Rows of one shard, filled from the left: a sequence goes into the first row with room."""

  def __init__(self, rows, length, slots, places, *widths):
    self.arrays = [np.full((rows, length, d), 9.0, np.float32) for d in widths]  # Padding must not matter.
    self.slot, self.position = np.full((rows, length), -1, np.int32), np.zeros((rows, length), np.int32)
    self.ordinals, self.where = np.full((rows, slots), -1, np.int32), np.zeros(places, np.int32)
    self.filled, self.used, self.count = np.zeros(rows, int), np.zeros(rows, int), 0

  def add(self, ordinal, *sequences):
    n, (rows, length), slots = len(sequences[0]), self.slot.shape, self.ordinals.shape[1]
    row = next(r for r in range(rows) if self.filled[r] + n <= length and self.used[r] < slots)
    span = slice(self.filled[row], self.filled[row] + n)
    for array, sequence in zip(self.arrays, sequences, strict=True):
      array[row, span] = sequence
    self.slot[row, span], self.position[row, span] = self.used[row], np.arange(n)
    self.ordinals[row, self.used[row]] = ordinal
    self.where[self.count] = row * slots + self.used[row]
    self.filled[row] += n
    self.used[row] += 1
    self.count += 1

  @property
  def layout(self):
    return Layout(self.slot, self.position, self.ordinals, self.where)


def make_batch(videos=8, captions=16, frames=6, words=5, teacher=True, shards=1):
  """One video a row and one caption a row, padded to the given sizes; in shards of equal numbers of videos."""
  places = videos // shards
  shares = [range(d * places, min((d + 1) * places, VIDEOS)) for d in range(shards)]
  if shards > 1:
    captions = max(sum(CAPTIONS[v] for v in share) for share in shares)
  return lay_out(shares, (places, frames, 1, places), (captions, words, 1, captions), teacher)


def packed_batch(shards=1, teacher=True):
  """The videos packed, shared unevenly by shards: the first has most of them, the last nothing but padding."""
  shares = [[] for _ in range(shards)]
  for place, v in enumerate(reversed(range(VIDEOS))):
    shares[max(0, place - 2) % max(1, shards - 1)].append(v)
  most = max(map(len, shares))
  queries = max(sum(CAPTIONS[v] for v in share) for share in shares) + 1
  return lay_out(shares, (most + 1, 9, 3, most + 1), (queries, 8, 4, queries), teacher)


def lay_out(shares, frame_sizes, token_sizes, teacher=True):
  """Lays the videos `shares[d]` out in shard d; sizes are rows, positions a row, slots a row, and sequences a shard."""
  first = np.cumsum((0, *CAPTIONS))
  parts = []
  for shard, share in enumerate(shares):
    frames, tokens = _Side(*frame_sizes, DV, DT), _Side(*token_sizes, DQ)
    places, queries = frame_sizes[3], token_sizes[3]
    text, labels = np.zeros((queries, DT), np.float32), np.zeros(queries, np.int32)
    video_ordinals, caption_ordinals = np.full(places, -1, np.int32), np.full(queries, -1, np.int32)
    for column, v in enumerate(share):
      student, teacher_rows, texts = videos()[v]
      frames.add(v, student, teacher_rows)
      video_ordinals[column] = v
      for k, (words, vector) in enumerate(texts):
        q = tokens.count
        caption_ordinals[q], labels[q], text[q] = first[v] + k, shard * places + column, vector
        tokens.add(first[v] + k, words)
    parts.append(
      Batch(
        student_frames=frames.arrays[0],
        student_tokens=tokens.arrays[0],
        frame_layout=frames.layout,
        token_layout=tokens.layout,
        labels=labels,
        video_mask=video_ordinals >= 0,
        caption_mask=caption_ordinals >= 0,
        video_ordinals=video_ordinals,
        caption_ordinals=caption_ordinals,
        teacher_frames=frames.arrays[1] if teacher else None,
        teacher_text=text if teacher else None,
      )
    )
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts).check()


def make_parameters(student=None):
  return init_parameters(student or make_student(), jax.random.key(0), DV, DQ)


@functools.cache
def first_parameters(student=None):
  return jax.device_get(jax.jit(lambda: make_parameters(student))())


def coefficients(step):
  """Coefficients that differ in every epoch."""
  return made.coefficients(
    optimizer.decay('exp', STEPS_PER_EPOCH, 0.8, 0.0, 120)(step),
    optimizer.decay('exp', STEPS_PER_EPOCH, 0.8, 0.5, 120)(step),
    optimizer.decay('exp', STEPS_PER_EPOCH, 1.0, 0.0, 120)(step),
    hard_negatives=step >= 2 * STEPS_PER_EPOCH,
  )


def recorder():
  """Passes gradients on and keeps the newest as its state, so that a test sees them."""
  init = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
  return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, updates))


class World:
  """A train step on so many devices, of the small student or of another."""

  def __init__(self, devices, dropout, loss, model=1, teacher=None, student=None, **options):
    self.mesh = sharding.make_mesh(jax.devices()[:devices], model)
    self.student, self.first_parameters = student or make_student(dropout), first_parameters(student)
    self.options = made.objective_options(loss, **options)
    self.rate = optimizer.warmup_linear(1e-2, 100, 0.01)
    self.optimizer = optax.chain(recorder(), bert_adam(self.rate, 0.01, 1.0))
    arguments = self.student, self.optimizer, coefficients, self.rate, self.options, self.mesh
    self.step = make_train_step(*arguments, teacher)

  def create(self):
    return create_state(make_parameters, self.optimizer, self.mesh)

  def state(self, step=0):
    """A first state, as number `step`, in buffers of its own: the train step donates them."""
    params = self.first_parameters
    state = TrainState(np.asarray(step, np.int32), params, self.optimizer.init(params))
    state = jax.tree.map(np.array, state)
    return jax.device_put(state, sharding.state_shardings(state, self.mesh))

  def run(self, batch, step=0, key=5):
    """One update, as number `step`, from the first parameters: (gradients, metrics)."""
    batch = sharding.shard_batch(batch, self.mesh)
    state, metrics = self.step(self.state(step), batch, jax.random.key(key))
    return jax.device_get(state.opt_state[0]), metrics_lib.fetch(metrics)


world = functools.cache(World)
