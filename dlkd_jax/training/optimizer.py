"""The optimiser of the recipe, "BertAdam", and the schedules of its rate and of the losses' coefficients, by Optax.

Schedules are step → value; steps count from 0 and may be traced. All steps of an epoch share one coefficient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from dlkd_jax.models.anchored import FROZEN

_SIGMOID_K = 800.0


def _sums_of_squares(tree: chex.ArrayTree) -> chex.ArrayTree:
  """Returns the sum of squares of each tensor.

  A GPU takes longer to start a program for a small tensor than to run it: there, one serves all tensors of a shape.
  """
  leaves, structure = jax.tree.flatten(tree)

  def one_by_one(*leaves):
    return [jnp.sum(jnp.square(x)) for x in leaves]

  def by_shape(*leaves):
    sums = {}
    for shape in {x.shape for x in leaves}:
      alike = [number for number, x in enumerate(leaves) if x.shape == shape]
      squares = jnp.square(jnp.stack([leaves[number] for number in alike]))
      sums |= zip(alike, jnp.sum(squares, axis=range(1, squares.ndim)), strict=True)
    return [sums[number] for number in range(len(leaves))]

  sums = jax.lax.platform_dependent(*leaves, cpu=one_by_one, tpu=one_by_one, default=by_shape)
  return jax.tree.unflatten(structure, sums)


def norm(tree: chex.ArrayTree) -> jax.Array:
  """Returns the norm of all tensors together."""
  return jnp.sqrt(sum(jax.tree.leaves(_sums_of_squares(tree))))


def clip_each_by_norm(max_norm: float) -> optax.GradientTransformation:
  """Scales each tensor's gradient by min(1, max_norm / (‖g‖ + 1e-6)), each tensor on its own."""

  def clip(updates, params=None):
    del params
    factor = lambda squares: jnp.minimum(1.0, max_norm / (jnp.sqrt(squares) + 1e-6))  # noqa: E731
    return jax.tree.map(lambda g, squares: g * factor(squares), updates, _sums_of_squares(updates))

  return optax.stateless(clip)


class UncorrectedAdamState(NamedTuple):
  """Running means of the gradient and of its square."""

  mu: optax.Updates
  nu: optax.Updates


def scale_by_uncorrected_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> optax.GradientTransformation:
  """Computes m / (√v + eps) of the running means m and v, without bias correction."""

  def init(params):
    # Two trees of separate buffers: the train step donates its state, and a buffer can be donated only once.
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    return UncorrectedAdamState(zeros(), zeros())

  def update(updates, state, params=None):
    del params
    mu = jax.tree.map(lambda m, g: b1 * m + (1.0 - b1) * g, state.mu, updates)
    nu = jax.tree.map(lambda v, g: b2 * v + (1.0 - b2) * jnp.square(g), state.nu, updates)
    updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
    return updates, UncorrectedAdamState(mu, nu)

  return optax.GradientTransformation(init, update)


def decays(params: chex.ArrayTree) -> chex.ArrayTree:
  """Marks the parameters that weight decay applies to: all but biases, LayerNorm parameters and anchors."""

  def marked(path, _):
    names = [str(entry.key) for entry in path]
    return names[-1] != 'bias' and not names[-2:][0].endswith(('norm', FROZEN))

  return jax.tree_util.tree_map_with_path(marked, params)


class AverageState(NamedTuple):
  """A running sum of parameters, and the sum of the weights that went into it, which comes to 1."""

  total: optax.Params
  weight: jax.Array


def average_parameters(decay: float) -> optax.GradientTransformation:
  """Passes updates on and keeps a mean of what they lead to, each weighing 1/decay of the parameters before."""

  def init(params):
    return AverageState(jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))

  def update(updates, state, params):
    mean = lambda total, p, u: decay * total + (1.0 - decay) * (p + u)  # noqa: E731
    total = jax.tree.map(mean, state.total, params, updates)
    return updates, AverageState(total, decay * state.weight + (1.0 - decay))

  return optax.GradientTransformation(init, update)


def averaged(opt_state: Any) -> Any | None:
  """Returns the mean that `average_parameters` keeps in a state of an optimiser; None where it is no part of it."""
  found = [x for x in opt_state if isinstance(x, AverageState)]
  return _divided(*found[0]) if found else None


@jax.jit
def _divided(total, weight):
  # Behind the first steps the sum of weights is below 1.
  return jax.tree.map(lambda x: x / weight, total)


def bert_adam(
  learning_rate: optax.ScalarOrSchedule, weight_decay: float, max_norm: float, average: float = 0.0
) -> optax.GradientTransformation:
  """Builds the optimiser: clip each tensor, uncorrected Adam, + decay·θ, times −rate(update number from 0).

  `max_norm` is the largest of one tensor; `average` the decay of a mean of the parameters that is kept, 0: none is.
  """
  return optax.chain(
    clip_each_by_norm(max_norm),
    scale_by_uncorrected_adam(),
    optax.add_decayed_weights(weight_decay, mask=decays),
    optax.scale_by_learning_rate(learning_rate),
    *([average_parameters(average)] if average else []),
  )


def decay(
  kind: str, steps_per_epoch: int, start: float, end: float, epochs: int, from_epoch: int = 0
) -> optax.Schedule:
  """Schedule of a coefficient that falls from `start`, by epoch e, and not below `end`.

  By kind it is: 'none' start; 'exp' start·0.95^e; 'sigmoid' start·800 / (800 + exp(e / 8)); 'linear' and 'cosine' reach
  `end` after so many epochs and stay there. Before `from_epoch`, at which the curve begins, it is 0.
  """
  curve = {
    'none': optax.constant_schedule(start),
    'exp': optax.exponential_decay(start, transition_steps=1, decay_rate=0.95, end_value=end),
    'linear': optax.linear_schedule(start, end, epochs),
    'sigmoid': lambda e: jnp.maximum(start * _SIGMOID_K / (_SIGMOID_K + jnp.exp(100.0 * e / _SIGMOID_K)), end),
    'cosine': optax.cosine_decay_schedule(start, epochs, alpha=end / start if start else 0.0),
  }[kind]
  if from_epoch:
    curve = optax.join_schedules([optax.constant_schedule(0.0), curve], [from_epoch])
  return lambda step: jnp.asarray(curve((jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)), jnp.float32)


def warmup_linear(peak: float, total_steps: int, warmup: float) -> optax.Schedule:
  """Learning rate: linear from 0 to the peak over the share `warmup` of all steps, then linear to 0 at the end."""
  rising = warmup * total_steps  # Need not be a whole number.
  falling = optax.linear_schedule(peak, 0.0, total_steps - rising)
  return optax.join_schedules([optax.linear_schedule(0.0, peak, rising), falling], [rising])
