"""Schedules of the learning rate and of the loss coefficients, as Optax schedules: step → value.

Coefficients change by epoch: all steps of an epoch share one value. Steps count from 0 and may be traced.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dlkd_jax.errors import UserError

_SIGMOID_K = 800.0
_BETA_FLOOR = 0.5


def by_epoch(curve: Callable[[jax.Array], jax.Array], steps_per_epoch: int) -> optax.Schedule:
  """Turns a curve over epochs (0, 1, …) into a schedule over steps.

  Raises:
    ValueError: `steps_per_epoch` is not positive.
  """
  if steps_per_epoch < 1:
    raise ValueError(f'steps_per_epoch is {steps_per_epoch}, expected at least 1.')

  def schedule(step):
    epoch = jnp.asarray(step) // steps_per_epoch
    return jnp.asarray(curve(epoch.astype(jnp.float32)), jnp.float32)

  return schedule


def _sigmoid(epoch):
  return _SIGMOID_K / (_SIGMOID_K + jnp.exp(100.0 * epoch / _SIGMOID_K))


def _exponential(epoch):
  return 0.95**epoch


def _share_of(epochs: int) -> Callable[[jax.Array], jax.Array]:
  # Beyond their end a line would become negative, and a cosine would rise again.
  return lambda epoch: jnp.minimum(epoch, epochs) / epochs


def _choose(curves, kind: str, name: str):
  if kind not in curves:
    raise UserError(f'unknown {name} schedule {kind!r}; expected one of {sorted(curves)}.')
  return curves[kind]


def distillation_weight(kind: str, steps_per_epoch: int) -> optax.Schedule:
  """Schedule of w, the weight of the distillation, from 1 downwards.

  Args:
    kind: 'none' 1; 'exp' 0.95^e; 'linear' max(1 − 0.01e, 0.05); 'sigmoid' 800 / (800 + exp(e / 8)).
    steps_per_epoch: steps of one epoch e.

  Raises:
    ValueError: unknown kind.
  """
  curves = {
    'none': jnp.ones_like,
    'exp': _exponential,
    'linear': lambda e: jnp.maximum(1.0 - 0.01 * e, 0.05),
    'sigmoid': _sigmoid,
  }
  return by_epoch(_choose(curves, kind, 'distillation'), steps_per_epoch)


def alpha(kind: str, steps_per_epoch: int, start: float, epochs: int) -> optax.Schedule:
  """Schedule of alpha, the share of hard labels, from `start` downwards.

  Args:
    kind: 'none', 'exp' (start·0.95^e), 'linear' (to 0 at `epochs`), 'sigmoid' (start·800 / (800 + exp(e / 8))) or
      'cosine' (start/2·(1 + cos(πe / epochs))).
    steps_per_epoch: steps of one epoch e.
    start: value that the curve starts from, in [0, 1].
    epochs: length of the linear and cosine curves, which stay at their end from there on.

  Raises:
    ValueError: unknown kind.
  """
  share = _share_of(epochs)
  curves = {
    'none': jnp.ones_like,
    'exp': _exponential,
    'linear': lambda e: 1.0 - share(e),
    'sigmoid': _sigmoid,
    'cosine': lambda e: 0.5 * (1.0 + jnp.cos(jnp.pi * share(e))),
  }
  curve = _choose(curves, kind, 'alpha')
  return by_epoch(lambda e: start * curve(e), steps_per_epoch)


def beta(kind: str, steps_per_epoch: int, start: float, epochs: int) -> optax.Schedule:
  """Schedule of beta, the weight of the one-hot part of soft labels, from `start` down to a floor.

  The floor is 0.5, and 0 where the start is below 0.5.

  Args:
    kind: 'none', 'exp' (start·0.95^e), 'linear' (to the floor at `epochs`), 'sigmoid' (start·800 / (800 + exp(e / 8)))
      or 'cosine' (half a cosine from the start to the floor).
    steps_per_epoch: steps of one epoch e.
    start: value that the curve starts from, in [0, 1].
    epochs: length of the linear and cosine curves, which stay at their end from there on.

  Raises:
    ValueError: unknown kind.
  """
  floor = _BETA_FLOOR if start >= _BETA_FLOOR else 0.0
  span, share = start - floor, _share_of(epochs)
  curves = {
    'none': lambda e: start * jnp.ones_like(e),
    'exp': lambda e: start * _exponential(e),
    'linear': lambda e: start - span * share(e),
    'sigmoid': lambda e: start * _sigmoid(e),
    'cosine': lambda e: floor + 0.5 * span * (1.0 + jnp.cos(jnp.pi * share(e))),
  }
  curve = _choose(curves, kind, 'beta')
  return by_epoch(lambda e: jnp.maximum(curve(e), floor), steps_per_epoch)


def warmup_linear(peak: float, total_steps: int, warmup: float) -> optax.Schedule:
  """Learning rate: linear from 0 to the peak over the first share of all steps, then linear to 0 at the end.

  Args:
    peak: highest rate.
    total_steps: T; the rate is 0 from step T on.
    warmup: share of T, in [0, 1).

  Raises:
    ValueError: no steps, or a share outside [0, 1).
  """
  if total_steps < 1 or not 0.0 <= warmup < 1.0:
    raise ValueError(f'total_steps {total_steps} and warmup {warmup}: expected at least 1 and a share in [0, 1).')

  def schedule(step):
    progress = jnp.asarray(step, jnp.float32) / total_steps
    rising = progress / warmup if warmup else jnp.ones_like(progress)
    falling = jnp.maximum((1.0 - progress) / (1.0 - warmup), 0.0)
    return peak * jnp.where(progress < warmup, rising, falling)

  return schedule
