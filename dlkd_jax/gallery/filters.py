"""Filters over what is known of videos, written as `year>=2019` on the command line."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.segments import Entry

Where = Callable[[Entry], bool]

_CONDITION = re.compile(r'\s*(?P<key>[^=<>!~\s]+)\s*(?P<sign>!=|>=|<=|=|>|<|~)\s*(?P<value>.*?)\s*', re.DOTALL)
_ORDER = {'>': operator.gt, '>=': operator.ge, '<': operator.lt, '<=': operator.le}
_OWN = ('video_id', 'title', 'path', 'duration', 'split')


def parse(conditions: Sequence[str]) -> Where:
  """Makes a filter of conditions that all have to hold.

  | | |
  |---|---|
  | `key=value`, `key!=value` | equal, as numbers where both are; of a list any value; an absent key equals nothing |
  | `key>3`, `>=`, `<`, `<=` | numbers only; a video whose value is absent or no number is left out |
  | `key~text` | holds the text, whatever its case |

  Keys are those of the videos' metadata, and video_id, title, path, duration (seconds) and split.

  Raises:
    ValueError: a condition is not written so.
  """
  tests = [_parse(condition) for condition in conditions]
  return lambda entry: all(test(entry) for test in tests)


def as_filter(where: Where | Sequence[str] | Mapping[str, Any] | str | None) -> Where | None:
  """Returns a filter of whatever describes one: a function, conditions, or a mapping of keys to equal values."""
  if where is None or callable(where):
    return where
  if isinstance(where, Mapping):
    return lambda entry: all(_equals(value_of(entry, key), str(value)) for key, value in where.items())
  return parse([where] if isinstance(where, str) else where)


def value_of(entry: Entry, key: str) -> Any:
  """Returns what a video has under a key; None where it is absent. Metadata comes first."""
  if key in entry.metadata:
    return entry.metadata[key]
  return getattr(entry, key) if key in _OWN else None


def _parse(condition: str) -> Where:
  match = _CONDITION.fullmatch(condition)
  if match is None:
    raise UserError(
      f'the filter {condition!r} is not understood; expected key=value, key!=value, key>3, key<3 or key~text'
    )
  key, sign, value = match['key'], match['sign'], match['value']
  if sign == '=':
    return lambda entry: _equals(value_of(entry, key), value)
  if sign == '!=':
    return lambda entry: not _equals(value_of(entry, key), value)
  if sign == '~':
    return lambda entry: any(value.casefold() in str(one).casefold() for one in _each(value_of(entry, key)))
  bound = _number(value)
  if bound is None:
    raise UserError(f'the filter {condition!r} compares with {value!r}; expected a number after {sign}')
  compare = _ORDER[sign]

  def holds(entry: Entry) -> bool:
    return any((number := _number(one)) is not None and compare(number, bound) for one in _each(value_of(entry, key)))

  return holds


def _each(value: Any) -> list[Any]:
  return [] if value is None else value if isinstance(value, list) else [value]


def _equals(value: Any, text: str) -> bool:
  number = _number(text)
  for one in _each(value):
    shown = str(one).lower() if isinstance(one, bool) else str(one)
    if shown == text or (number is not None and not isinstance(one, bool) and _number(one) == number):
      return True
  return False


def _number(value: Any) -> float | None:
  try:
    number = float(value)
  except (TypeError, ValueError):
    return None
  return number if number == number else None  # NaN compares with nothing.
