"""What a filter says, as a tree, and the condition of SQL that says the same of the table `videos` of a catalog."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
import sqlite3
import threading
import unicodedata
from collections.abc import Iterator
from typing import Any

# Signs that compare numbers or dates.
ORDER = ('<', '<=', '>', '>=')
_DATE = re.compile(r'\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?', re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Fields that are columns: type and value. `folder` is what stands before the last / of the id.
_COLUMNS = {
  'id': ("'text'", 'videos.id'),
  'video_id': ("'text'", 'videos.id'),
  'title': ("'text'", 'videos.title'),
  'path': ("'text'", 'videos.path'),
  'split': ("'text'", 'videos.split'),
  'duration': ("'real'", 'videos.duration'),
  'length': ("'real'", 'videos.duration'),
  'size': ("'integer'", 'videos.size'),
  'date': ("'text'", "strftime('%Y-%m-%dT%H:%M:%SZ', videos.written / 1000000000, 'unixepoch')"),
  'folder': ("'text'", "rtrim(rtrim(videos.id, replace(videos.id, '/', '')), '/')"),
}


@dataclasses.dataclass(frozen=True)
class Literal:
  """A value that a filter compares with.

  Attributes:
    written: as it was written, without quotes.
    text: the text that it equals; None where it is none.
    number, truth: what else it equals.
    instant: first microsecond since 1970 of a date, and the one behind its last; None where it is none.
    is_date: whether it equals texts that are dates then; one in quotes is only compared by <, <=, >, >=.
  """

  written: str
  text: str | None = None
  number: int | float | None = None
  truth: bool | None = None
  instant: tuple[int, int] | None = None
  is_date: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
  """`field sign literal`; the sign is =, ~ or one of `ORDER`. One of several literals of = has to hold."""

  field: str
  sign: str
  literals: tuple[Literal, ...]


@dataclasses.dataclass(frozen=True)
class Not:
  """What must not hold."""

  node: Node


@dataclasses.dataclass(frozen=True)
class And:
  """All of which have to hold; of none it is true."""

  nodes: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class Or:
  """One of which has to hold."""

  nodes: tuple[Node, ...]


Node = Comparison | Not | And | Or


def comparisons(node: Node) -> Iterator[Comparison]:
  """Yields the comparisons of a tree."""
  if isinstance(node, Comparison):
    yield node
  else:
    for part in (node.node,) if isinstance(node, Not) else node.nodes:
      yield from comparisons(part)


def condition(node: Node) -> tuple[str, tuple[Any, ...]]:
  """Returns a condition over `videos`, which is true or false and never NULL, and the values of its ?."""
  if isinstance(node, Comparison):
    return _compared(node)
  if isinstance(node, Not):
    sql, values = condition(node.node)
    return f'NOT ({sql})', values
  if not node.nodes:
    return '1', ()
  parts = [condition(part) for part in node.nodes]
  sign = ' AND ' if isinstance(node, And) else ' OR '
  return sign.join(f'({sql})' for sql, _ in parts), tuple(value for _, values in parts for value in values)


def _compared(comparison: Comparison) -> tuple[str, tuple[Any, ...]]:
  """Compares what metadata have of that name, and where they have nothing, the column."""
  one, values = _value_condition(comparison, 'f.type', 'f.atom')
  each, _ = _value_condition(comparison, 'e.type', 'e.atom')
  field = (comparison.field,)
  said = (
    "EXISTS (SELECT 1 FROM json_each(videos.metadata) f WHERE f.key IN ({}) AND ({} OR f.type = 'array' AND EXISTS "
    "(SELECT 1 FROM json_each(CASE f.type WHEN 'array' THEN f.value ELSE '[]' END) e WHERE {})))"
  )
  names = _forms(comparison.field)
  said = said.format(_marks(names), one, each)
  values = (*names, *values, *values)
  if comparison.field not in _COLUMNS:
    return said, values
  column, own = _value_condition(comparison, *_COLUMNS[comparison.field])
  if comparison.field == 'folder' and comparison.sign == '=':
    column, own = _below(comparison)
  return (
    'CASE WHEN EXISTS (SELECT 1 FROM json_each(videos.metadata) f WHERE f.key = ?) '
    f'THEN {said} ELSE coalesce({column}, 0) END',
    (*field, *values, *own),
  )


def _value_condition(comparison: Comparison, kind: str, value: str) -> tuple[str, tuple[Any, ...]]:
  """Returns what has to hold of one value, and of its type as SQLite names those of JSON."""
  literals = comparison.literals
  is_number = f"{kind} IN ('integer', 'real')"
  if comparison.sign == '~':
    return f"({kind} = 'text' AND holds({value}, ?))", (_folded(literals[0].written),)
  if comparison.sign in ORDER:
    (literal,) = literals
    if literal.number is not None:
      return f'({is_number} AND {value} {comparison.sign} ?)', (literal.number,)
    # Before the first microsecond or not, behind the last or not.
    sign = '<' if comparison.sign in ('<', '<=') else '>='
    begin, end = literal.instant
    return (
      f"({kind} = 'text' AND instant({value}) {sign} ?)",
      (begin if comparison.sign in ('<', '>=') else end,),
    )
  parts: list[tuple[str, tuple[Any, ...]]] = []
  if texts := tuple(form for one in literals if one.text is not None for form in _forms(one.text)):
    parts.append((f"{kind} = 'text' AND {value} IN ({_marks(texts)})", texts))
  if numbers := tuple(one.number for one in literals if one.number is not None):
    parts.append((f'{is_number} AND {value} IN ({_marks(numbers)})', numbers))
  if truths := tuple(str(one.truth).lower() for one in literals if one.truth is not None):
    parts.append((f'{kind} IN ({_marks(truths)})', truths))
  for one in literals:
    if one.is_date:
      parts.append((f"{kind} = 'text' AND instant({value}) >= ? AND instant({value}) < ?", one.instant))
  sql = ' OR '.join(sql for sql, _ in parts)
  return f'({sql})' if parts else '0', tuple(value for _, values in parts for value in values)


def _below(comparison: Comparison) -> tuple[str, tuple[Any, ...]]:
  """Returns whether a folder is one of some, or lies in one."""
  folder = _COLUMNS['folder'][1]
  names = tuple(form for one in comparison.literals if one.text is not None for form in _forms(one.text.rstrip('/')))
  inside = ' OR '.join([f'substr({folder}, 1, length(?)) = ?'] * sum(map(bool, names)))
  return (
    f'({folder} IN ({_marks(names)}){f" OR {inside}" if inside else ""})',
    (*names, *(f'{name}/' for name in names if name for _ in range(2))),
  )


def _marks(values: tuple[Any, ...]) -> str:
  return ', '.join('?' * len(values))


def _forms(text: str) -> tuple[str, ...]:
  """Returns a text, and the same with composed and with decomposed characters, each once."""
  return tuple(dict.fromkeys([text, unicodedata.normalize('NFC', text), unicodedata.normalize('NFD', text)]))


def _folded(text: str) -> str:
  return unicodedata.normalize('NFC', text).casefold()


def instant(text: Any) -> int | None:
  """Returns the microseconds since 1970 of a text that is a date; None where it is none. A day is its beginning."""
  if not isinstance(text, str) or not _DATE.fullmatch(text):
    return None
  try:
    moment = datetime.datetime.fromisoformat(text)
  except ValueError:  # As 2019-02-30.
    return None
  return ((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)) - _EPOCH) // datetime.timedelta(
    microseconds=1
  )


def add_functions(connection: sqlite3.Connection) -> None:
  """Gives a connection the functions that conditions call: instant(text) and holds(text, folded text)."""
  connection.create_function('instant', 1, instant, deterministic=True)
  connection.create_function('holds', 2, _holds, deterministic=True)


def _holds(text: Any, part: str) -> bool:
  return isinstance(text, str) and part in _folded(text)


_local = threading.local()


def passes(filtered: Any, entry: Any) -> bool:
  """Returns whether a filter (`sql`, `parameters`) holds for one entry, by a table of that row alone."""
  if not hasattr(_local, 'connection'):
    _local.connection = sqlite3.connect(':memory:', isolation_level=None)
    add_functions(_local.connection)
    _local.connection.execute(
      'CREATE TABLE videos (id TEXT, title, path, split, duration REAL, size, written, metadata TEXT)'
    )
  row = (entry.video_id, entry.title, entry.path, entry.split, entry.duration, entry.size, entry.written)
  _local.connection.execute('DELETE FROM videos')
  _local.connection.execute(
    'INSERT INTO videos VALUES (?, ?, ?, ?, ?, ?, ?, ?)', (*row, json.dumps(_plain(entry.metadata)))
  )
  found = _local.connection.execute(f'SELECT 1 FROM videos WHERE {filtered.sql}', filtered.parameters)
  return found.fetchone() is not None


def _plain(value: Any) -> Any:
  """Returns a value without numbers that JSON has not."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, dict):
    return {key: _plain(one) for key, one in value.items()}
  return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
