"""The training state and the train step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dlkd_jax import sharding
from dlkd_jax.data.batch import Batch, Parcel
from dlkd_jax.models.students import Student
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training.gradients import objective_and_gradients
from dlkd_jax.training.metrics import StepMetrics
from dlkd_jax.training.objective import ObjectiveOptions
from dlkd_jax.training.online_teacher import OnlineTeacher


@flax.struct.dataclass
class TrainState:
  """All that a step changes.

  Attributes:
    step: int32 scalar, updates made. An array, since a Python int would compile the step twice.
    params: parameters of the student.
    opt_state: state of the optimiser.
  """

  step: jax.Array
  params: Any
  opt_state: Any


StepFunction = Callable[[TrainState, Batch | Parcel, jax.Array], tuple[TrainState, StepMetrics]]


def abstract_state(make_params: Callable[[], Any], optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """Returns the shapes, types and shardings of the state on a mesh, as a tree of `jax.ShapeDtypeStruct`."""
  state = jax.eval_shape(lambda: _first_state(make_params, optimizer))
  shardings = sharding.state_shardings(state, mesh)
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def create_state(make_params: Callable[[], Any], optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """Creates the state of step 0 on the mesh, as `sharding.state_shardings` lays it.

  Args:
    make_params: draws the parameters; runs under jit, so that they are born where they belong.
    optimizer: gives the optimiser's first state.
    mesh: the devices.
  """
  shardings = jax.tree.map(lambda x: x.sharding, abstract_state(make_params, optimizer, mesh))
  return jax.jit(lambda: _first_state(make_params, optimizer), out_shardings=shardings)()


def _first_state(make_params, optimizer) -> TrainState:
  params = make_params()
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(
  student: Student,
  optimizer: optax.GradientTransformation,
  coefficients: Callable[[jax.Array], dict[str, jax.Array]],
  learning_rate: optax.Schedule,
  options: ObjectiveOptions,
  mesh: Mesh,
  teacher: OnlineTeacher | None = None,
) -> StepFunction:
  """Builds the jitted step `(state, batch, key) → (state, metrics)`; the old state is donated.

  Scheduled scalars are functions of `state.step` inside the step, so their change never compiles anything. The key is
  that of the run; the step folds its number in.

  Args:
    student: the module.
    optimizer: of the parameters.
    coefficients: step → scheduled scalars of the losses.
    learning_rate: step → rate, to be logged.
    options: of the objective.
    mesh: the devices; the batch is split over them, the state lies as `sharding.state_shardings` says.
    teacher: encodes the pictures of each batch, whose parameters every device holds whole; None where batches have
      the teacher's features, or no teacher.

  Returns:
    The step. Its metrics are every part of the loss, the norms of gradient and parameters, and all scheduled scalars.
  """

  def step(state: TrainState, batch: Batch | Parcel, key: jax.Array):
    batch = batch.unpack() if isinstance(batch, Parcel) else batch
    scheduled = coefficients(state.step)
    # On accelerators, products of float32 are less than that by default.
    with jax.default_matmul_precision('highest' if student.dtype == jnp.float32 else 'default'):
      parts, gradients = objective_and_gradients(
        state.params,
        student,
        batch,
        coefficients=scheduled,
        key=jax.random.fold_in(key, state.step),
        options=options,
        mesh=mesh,
      )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    scalars = {f'loss/{name}': value for name, value in parts.items()}
    scalars |= {'norm/gradient': optax.tree.norm(gradients), 'norm/parameters': optax.tree.norm(params)}
    scalars |= {f'schedule/{name}': value for name, value in scheduled.items()}
    scalars |= {
      'schedule/learning_rate': learning_rate(state.step),
      'batch/videos': jnp.sum(batch.video_mask),
      'batch/captions': jnp.sum(batch.caption_mask),
    }
    new = TrainState(state.step + 1, params, opt_state)
    new = jax.lax.with_sharding_constraint(new, sharding.state_shardings(new, mesh))
    return new, metrics_lib.of_step(scalars)

  whole, split = sharding.replicated(mesh), sharding.rows(mesh)
  # The state's own sharding is taken as it comes; the constraint above gives it back the same.
  if teacher is None:
    return jax.jit(step, in_shardings=(None, split, whole), donate_argnums=0)

  def step_from_pixels(teacher_params: Any, state: TrainState, batch: Batch | Parcel, key: jax.Array):
    batch = batch.unpack() if isinstance(batch, Parcel) else batch
    return step(state, teacher.fill(teacher_params, batch, mesh), key)

  compiled = jax.jit(step_from_pixels, in_shardings=(whole, None, split, whole), donate_argnums=1)
  run = functools.partial(compiled, teacher.params)
  run.lower = functools.partial(compiled.lower, teacher.params)
  return run
