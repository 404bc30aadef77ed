"""Fields of configuration files of others: read by name and type, and named where they cannot be used."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import whose_kind
from dlkd_jax.files import read_text

# No size, number of words or other quantity of a model comes near.
_MOST = 10**9


class Fields:
  """One object of a JSON file. A field that is null is one that is not there, as the libraries of these files have it.

  Attributes:
    content: the object.
    file: its file.
    name: where it stands in the file, as `text_config`; empty: it is the whole.
  """

  def __init__(self, content: Any, file: pathlib.Path, name: str = ''):
    """Takes an object.

    Raises:
      UserError: it is something else.
    """
    self.content, self.file, self.name = content, file, name
    if not isinstance(content, dict):
      raise UserError(f'{file}: {name or "it"} is {_short(content)}; expected an object, as {{"width": 768}}')

  def has(self, field: str) -> bool:
    """Returns whether a field is there."""
    return self.content.get(field) is not None

  def get(self, field: str, default: Any = None) -> Any:
    """Returns a field's value as it is."""
    return self.content[field] if self.has(field) else default

  def part(self, field: str) -> Fields:
    """Returns an object inside; an empty one where it is not there."""
    return Fields(self.get(field, {}), self.file, self._path(field))

  def whole(self, field: str, default: int | None = None, least: int = 1, most: float = _MOST) -> int:
    """Returns a whole number; without `most` it may be of any size that a model has."""
    value = self._needed(field, default)
    if type(value) is not int or not least <= value <= most:
      self.refuse(field, f'expected a whole number from {least:,} to {most:,}')
    return value

  def number(self, field: str, default: float) -> float:
    """Returns a positive finite number."""
    value = self.get(field, default)
    if type(value) not in (int, float) or not 0 < value < _MOST:
      self.refuse(field, f'expected a positive number below {_MOST:,}')
    return float(value)

  def flag(self, field: str, default: bool) -> bool:
    """Returns true or false."""
    value = self.get(field, default)
    if type(value) is not bool:
      self.refuse(field, 'expected true or false')
    return value

  def side(self, field: str, default: int | None = None) -> int:
    """Returns the side of a square, which may be written as a number or as a list of one or two."""
    value = self._needed(field, default)
    if isinstance(value, list) and 1 <= len(value) <= 2 and len(set(map(str, value))) == 1:
      value = value[0]
    if type(value) is not int or not 1 <= value <= _MOST:
      self.refuse(field, 'expected the side of a square in pixels, as 224 or [224, 224]')
    return value

  def colours(self, field: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Returns a number for each of red, green and blue, which may be written as one for all."""
    value = self.get(field, default)
    values = [value] * 3 if type(value) in (int, float) else value
    if not isinstance(values, list | tuple) or len(values) != 3 or any(type(x) not in (int, float) for x in values):
      self.refuse(field, 'expected a number for each of red, green and blue')
    if not all(abs(x) < _MOST for x in values):
      self.refuse(field, 'expected finite numbers')
    return tuple(float(x) for x in values)

  def only(self, field: str, *accepted: Any) -> None:
    """Refuses a field that is there with a value other than these: it asks for another computation."""
    value = self.get(field)
    if value is not None and not any(type(value) is type(x) and value == x for x in accepted):
      self.refuse(field, f'supported: {" or ".join(json.dumps(x) for x in (*accepted, None))}')

  def known(self, names: Iterable[str]) -> None:
    """Refuses fields that have other names than these."""
    if unknown := sorted(name for name in set(self.content) - set(names) if self.has(name)):
      self.refuse(unknown[0], 'this field is not known here, and may ask for another computation')

  def refuse(self, field: str, why: str) -> None:
    """Raises the UserError that names file, field and value."""
    raise UserError(f'{self.file}: {self._path(field)} is {_short(self.get(field))}; {why}')

  def _path(self, field: str) -> str:
    return f'{self.name}.{field}' if self.name else field

  def _needed(self, field: str, default: Any) -> Any:
    if default is None and not self.has(field):
      raise UserError(f'{self.file}: {self._path(field)} is missing')
    return self.get(field, default)


def read_fields(path: pathlib.Path) -> Fields:
  """Reads a JSON file that holds one object.

  Raises:
    UserError: it holds something else; a file of the wrong kind is named.
    OSError: it cannot be read.
  """
  try:
    content = json.loads(read_text(path))
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is no JSON: {whose_kind(path, str(error))}') from error
  return Fields(content, path)


def _short(value: Any) -> str:
  text = json.dumps(value, ensure_ascii=False, default=repr)
  return text if len(text) <= 80 else text[:77] + '…'
