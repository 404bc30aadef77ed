"""The training state, the train step and its gradients: in one piece, or of a batch that is encoded in parts.

Encoding in parts ("gradient caching", Gao et al. 2021) keeps the activations of one part at a time. The batch is
encoded part by part without keeping anything but the embeddings; losses and their gradients with respect to the
embeddings are computed over the whole batch; then each part is encoded again and its embeddings' gradients are carried
back to the parameters. The result is the gradient of the whole batch, dropout included, for one encoding more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dlkd_jax import sharding
from dlkd_jax.data.batch import Batch, Parcel
from dlkd_jax.errors import UserError
from dlkd_jax.models.students import Student
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training.metrics import StepMetrics
from dlkd_jax.training.objective import (
  Embeddings,
  ObjectiveOptions,
  compute_objective,
  contrast,
  encode_frames,
  encode_tokens,
)
from dlkd_jax.training.optimizer import norm


@flax.struct.dataclass
class TrainState:
  """All that a step changes."""

  step: jax.Array  # int32 scalar, updates made. A Python int would compile the step twice.
  params: Any
  opt_state: Any


class Filler(Protocol):
  """What puts into a batch, within the step, what it travels without; its parameters are an argument of the step."""

  params: Any

  def fill(self, params: Any, batch: Batch, mesh: Mesh | None) -> Batch: ...


StepFunction = Callable[[TrainState, Batch | Parcel, jax.Array], tuple[TrainState, StepMetrics]]


def abstract_state(make_params: Callable[[], Any], optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """Returns the shapes, types and shardings of `create_state` as a tree of `jax.ShapeDtypeStruct`."""
  return _abstract(_first_state(make_params, optimizer), mesh, ())


def create_state(
  make_params: Callable[..., Any], optimizer: optax.GradientTransformation, mesh: Mesh, *arguments: Any
) -> TrainState:
  """Creates the state of step 0, under jit, so that it is born where `sharding.state_shardings` lays it.

  `make_params` is given the arguments, as the key: other values of them, another seed, compile nothing.
  """
  first = _first_state(make_params, optimizer)
  shardings = jax.tree.map(lambda x: x.sharding, _abstract(first, mesh, arguments))
  return jax.jit(first, out_shardings=shardings)(*arguments)


def _first_state(make_params: Callable[..., Any], optimizer: optax.GradientTransformation) -> Callable[..., TrainState]:
  def first(*arguments: Any) -> TrainState:
    params = make_params(*arguments)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  return first


def _abstract(first: Callable[..., TrainState], mesh: Mesh, arguments: Sequence[Any]) -> TrainState:
  state = jax.eval_shape(first, *arguments)
  return jax.tree.map(lambda x, s: x.update(sharding=s), state, sharding.state_shardings(state, mesh))


def make_train_step(
  student: Student,
  optimizer: optax.GradientTransformation,
  coefficients: Callable[[jax.Array], dict[str, jax.Array]],
  learning_rate: optax.Schedule,
  options: ObjectiveOptions,
  mesh: Mesh,
  filler: Filler | None = None,
) -> StepFunction:
  """Builds the jitted step `(state, batch, key) → (state, metrics)`; the old state is donated.

  Coefficients are step → scheduled scalars of the losses, functions of `state.step` inside the step, so that their
  change compiles nothing. The key is that of the run; the step folds its number in. The batch is split over the mesh;
  what it lacks, the filler puts in. Metrics are every part of the loss, the norms of gradient and
  parameters, and all scheduled scalars.
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
    scalars |= {'norm/gradient': norm(gradients), 'norm/parameters': norm(params)}
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
  if filler is None:
    return jax.jit(step, in_shardings=(None, split, whole), donate_argnums=0)

  def filled_step(params: Any, state: TrainState, batch: Batch | Parcel, key: jax.Array):
    batch = batch.unpack() if isinstance(batch, Parcel) else batch
    return step(state, filler.fill(params, batch, mesh), key)

  compiled = jax.jit(filled_step, in_shardings=(whole, None, split, whole), donate_argnums=1)
  # The filler's parameters may be shapes alone until the first step.
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), filler.params)
  run = lambda *arguments: compiled(filler.params, *arguments)  # noqa: E731
  run.lower, run.compiled = functools.partial(compiled.lower, abstract), compiled
  return run


def objective_and_gradients(
  params: Any, student: Student, batch: Batch, *, key: jax.Array, **contrasted: Any
) -> tuple[dict[str, jax.Array], Any]:
  """Computes the objective of a batch and its gradient with respect to the parameters.

  Arguments are those of `compute_objective`. Returns every part of the objective by name, and the gradients.

  Raises:
    UserError: the rows of a device do not divide by the number of parts.
  """
  parts, mesh = contrasted['options'].micro_batches, contrasted['mesh']
  if parts == 1:
    objective = jax.value_and_grad(compute_objective, has_aux=True)
    (_, found), gradients = objective(params, student, batch, key=key, **contrasted)
    return found, gradients

  dropout_key, loss_key = jax.random.split(key)
  rows = Batch(**dict.fromkeys(Batch.__dataclass_fields__)).replace(
    student_frames=batch.student_frames,
    student_tokens=batch.student_tokens,
    frame_layout=batch.frame_layout.replace(where=None),
    token_layout=batch.token_layout.replace(where=None),
    query_anchors=batch.query_anchors,
  )
  rows = _interleave(rows, parts, mesh)

  def encode(params: Any, part: jax.Array) -> Embeddings:
    own = _part(rows, part)
    frames = encode_frames(params, student, own, dropout_key)
    return Embeddings(frames, encode_tokens(params, student, own, dropout_key))

  def add(total: Any, part: jax.Array):
    _, carry_back = jax.vjp(lambda p: encode(p, part), params)
    return jax.tree.map(jnp.add, total, carry_back(_part(cotangents, part))[0]), None

  numbers = jnp.arange(parts)
  embeddings = jax.lax.map(functools.partial(encode, params), numbers)
  embeddings = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), embeddings)
  loss = jax.value_and_grad(contrast, has_aux=True)
  (_, found), cotangents = loss(embeddings, batch, student, key=loss_key, **contrasted)
  cotangents = _interleave(cotangents, parts, mesh)
  return found, jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), numbers)[0]


def _interleave(tree: Any, parts: int, mesh: Mesh | None) -> Any:
  """`[R, …]` → `[R / parts, parts, …]`: part k has every parts-th row, so that each device has rows of each part."""
  devices = 1 if mesh is None else mesh.size
  for array in jax.tree.leaves(tree):
    if len(array) % (parts * devices):
      raise UserError(
        f'a batch has {len(array)} rows on {devices} device(s), which config.training.micro_batches = {parts} parts do '
        'not divide; choose a number of parts that divides the rows of a device.'
      )
  return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), tree)


def _part(tree: Any, part: jax.Array) -> Any:
  return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, part, axis=1, keepdims=False), tree)
