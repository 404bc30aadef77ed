"""Weights of scorers: how they are written, and which are allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlkd_jax.errors import UserError


def parse(text: str) -> dict[str, float]:
  """Reads weights as `BRANCH=0.7,teacher=0.3`.

  Raises:
    ValueError: they are not written so.
  """
  weights: dict[str, float] = {}
  for part in text.split(','):
    name, equals, value = part.strip().partition('=')
    try:
      number = float(value)
    except ValueError:
      number = None
    if not name or not equals or number is None or name in weights:
      raise UserError(f'--weights is {text!r}; expected scorers with a number each, as BRANCH=0.7,teacher=0.3')
    weights[name] = number
  return weights


def choose(scorers: Sequence[str], given: Mapping[str, float] | None, default: Mapping[str, float]) -> dict[str, float]:
  """Returns scorer → weight of all scorers: as given, 0 where not named; or the default.

  Raises:
    ValueError: a scorer is unknown, a weight is not a number from 0, or all are 0.
  """
  weights = dict(default if given is None else given)
  if odd := [name for name in weights if name not in scorers]:
    raise UserError(f'there is no scorer {odd[0]!r} in this index; it has {", ".join(scorers)}')
  if any(not 0 <= value < float('inf') for value in weights.values()) or not any(weights.values()):
    raise UserError(f'weights are {weights}; expected numbers from 0, not all 0')
  return {name: float(weights.get(name, 0.0)) for name in scorers}


def among(scorers: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
  """Returns the weights of some scorers, those that a query has vectors for; all alike where these have none."""
  own = {name: weights[name] for name in scorers}
  return own if any(own.values()) else dict.fromkeys(scorers, 1.0)
