"""Schedules of the learning rate and of the loss coefficients, composed of Optax's: step → value.

Coefficients change by epoch: all steps of an epoch share one value. Steps count from 0 and may be traced.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from dlkd_jax.errors import UserError

_SIGMOID_K = 800.0
_BETA_FLOOR = 0.5
KINDS = ('none', 'exp', 'linear', 'sigmoid', 'cosine')


def by_epoch(curve: optax.Schedule, steps_per_epoch: int) -> optax.Schedule:
  """Turns a schedule over epochs (0, 1, …) into one over steps, constant within an epoch.

  Raises:
    ValueError: `steps_per_epoch` is not positive.
  """
  if steps_per_epoch < 1:
    raise ValueError(f'steps_per_epoch is {steps_per_epoch}, expected at least 1.')
  return lambda step: jnp.asarray(curve((jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)), jnp.float32)


def decay(
  kind: str, steps_per_epoch: int, start: float, end: float, epochs: int, from_epoch: int = 0
) -> optax.Schedule:
  """Schedule of a coefficient that falls from `start`, by epoch e, and not below `end`.

  Args:
    kind: 'none' start; 'exp' start·0.95^e; 'linear' and 'cosine' reach `end` after so many epochs and stay there;
      'sigmoid' start·800 / (800 + exp(e / 8)).
    steps_per_epoch: steps of one epoch.
    start: value at epoch 0.
    end: least value.
    epochs: length of the linear and cosine curves.
    from_epoch: 0 before this epoch, at which the curve begins.

  Raises:
    UserError: there is no such kind.
  """
  if kind not in KINDS:
    raise UserError(f'unknown schedule {kind!r}; expected one of {", ".join(KINDS)}.')
  curve = {
    'none': optax.constant_schedule(start),
    'exp': optax.exponential_decay(start, transition_steps=1, decay_rate=0.95, end_value=end),
    'linear': optax.linear_schedule(start, end, epochs),
    'sigmoid': lambda e: jnp.maximum(start * _SIGMOID_K / (_SIGMOID_K + jnp.exp(100.0 * e / _SIGMOID_K)), end),
    'cosine': optax.cosine_decay_schedule(start, epochs, alpha=end / start if start else 0.0),
  }[kind]
  if from_epoch:
    curve = optax.join_schedules([optax.constant_schedule(0.0), curve], [from_epoch])
  return by_epoch(curve, steps_per_epoch)


def distillation_weight(kind: str, steps_per_epoch: int) -> optax.Schedule:
  """Schedule of w, the weight of the distillation, from 1 downwards; linear: max(1 − 0.01e, 0.05)."""
  return decay(kind, steps_per_epoch, 1.0, *((0.05, 95) if kind == 'linear' else (0.0, 120)))


def alpha(kind: str, steps_per_epoch: int, start: float, epochs: int) -> optax.Schedule:
  """Schedule of alpha, the share of hard labels, from `start` down to 0."""
  return decay(kind, steps_per_epoch, start, 0.0, epochs)


def beta(kind: str, steps_per_epoch: int, start: float, epochs: int) -> optax.Schedule:
  """Schedule of beta, the weight of the one-hot part of soft labels: down to 0.5, or to 0 where it starts below."""
  return decay(kind, steps_per_epoch, start, _BETA_FLOOR if start >= _BETA_FLOOR else 0.0, epochs)


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
  rising = warmup * total_steps  # Need not be a whole number.
  falling = optax.linear_schedule(peak, 0.0, total_steps - rising)
  return optax.join_schedules([optax.linear_schedule(0.0, peak, rising), falling], [rising])
