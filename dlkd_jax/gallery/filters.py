"""Filters over what is known of videos: which of them count, as `year >= 2019 and (tag = lake or not split = test)`.

| | |
|---|---|
| `field = value`, `field != value` | equal; `!=` is `not field = value` |
| `field < 3`, `<=`, `>`, `>=` | of numbers or of dates |
| `field ~ text` | a text that holds this one, whatever its case |
| `field in (a, b)`, `field not in (a, b)` | equal to one of them |
| `and`, `or`, `not`, `( )` | `not` binds most closely, then `and` |

Fields are those of the videos' metadata, and id, title, split, path, length (seconds; also duration), size and date of
the file (bytes; when it was written to last), and folder: that of the video below the folder of all videos;
`folder = a` has those of a/b, too. What metadata name so comes first. A name with
spaces or signs is quoted.

Values have types, and none is read as one of another type:

| written | equals |
|---|---|
| `2019`, `-0.5`, `1e3` (as JSON writes numbers) | that number, and the very text that was written |
| `true`, `false` | that truth value, and the very text |
| `2019-05-01`, `2019-05-01T12:30:00+02:00` | a text that is a date then, and the very text |
| other words, as `lake` or `at the lake` | that text |
| `'2019'`, `"it is"` | that text alone; a quote in it is doubled |

So `007` and `2021_04` are texts, `year = 2019` holds for 2019, 2019.0 and "2019", and `year > 2018` for numbers alone.
A text is a date if it is written as ISO 8601 has it, year-month-day, with a time and a zone if wanted; without a zone
it is in UTC. A date without a time is the whole day where a filter says it, and its beginning where a video has it.
Of a list, any value may do. A video without the field, or with a value of another type, fails every comparison but
those with `!=` and `not`. Texts are the same in each way to compose their characters (é).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import filter_sql
from dlkd_jax.gallery.filter_sql import And, Comparison, Literal, Node, Not, Or

_NUMBER = re.compile(r'-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?', re.ASCII)
_FIELD = re.compile(r'[^\s=<>!~(),\'"][^\s=<>!~(),]*')
_SIGN = re.compile(r'!=|>=|<=|=|>|<|~')
_SPACE = re.compile(r'\s*')
_DAY = 24 * 60 * 60 * 10**6
# What SQLite parses, and nobody types more.
_DEPTH, _COMPARISONS, _LITERALS = 10, 200, 1000


@dataclasses.dataclass(frozen=True)
class Filter:
  """A filter that was understood.

  Attributes:
    text: as it was written.
    tree: what it says.
  """

  text: str
  tree: Node

  @functools.cached_property
  def _compiled(self) -> tuple[str, tuple[Any, ...]]:
    return filter_sql.condition(self.tree)

  @property
  def sql(self) -> str:
    """The condition, behind WHERE, over the table `videos` of a catalog; it holds no value, only ?."""
    return self._compiled[0]

  @property
  def parameters(self) -> tuple[Any, ...]:
    """The values of the ?, in their order."""
    return self._compiled[1]

  @property
  def fields(self) -> frozenset[str]:
    """Names of all fields that it compares."""
    return frozenset(comparison.field for comparison in filter_sql.comparisons(self.tree))

  def __call__(self, entry: Any) -> bool:
    """Returns whether one video passes, an entry of an index; of many, a catalog says it faster."""
    return filter_sql.passes(self, entry)


def parse(where: str | Sequence[str] | Mapping[str, Any]) -> Filter:
  """Reads a filter.

  Args:
    where: a filter, several that all have to hold, or field → value, or list of values one of which it has to equal;
      the types of these are those of Python.

  Raises:
    UserError: it is not written so; the message names the place.
  """
  if isinstance(where, str):
    where = [where]
  if isinstance(where, Mapping):
    nodes: list[Node] = [_equal(str(field), value) for field, value in where.items()]
    text = ' and '.join(f'{field} = {value!r}' for field, value in where.items())
  else:
    nodes, text = [_Parser(one).read() for one in where], ' and '.join(where)
  tree = nodes[0] if len(nodes) == 1 else And(tuple(nodes))
  comparisons = list(filter_sql.comparisons(tree))
  if len(comparisons) > _COMPARISONS or sum(len(each.literals) for each in comparisons) > _LITERALS:
    raise UserError(
      f'the filter {_short(text)} has {len(comparisons):,} comparisons with '
      f'{sum(len(each.literals) for each in comparisons):,} values; at most {_COMPARISONS} with {_LITERALS:,} are taken'
    )
  return Filter(text, tree)


def _equal(field: str, value: Any) -> Comparison:
  values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
  for one in values:
    if not isinstance(one, str | bool | int | float) or (isinstance(one, float) and not math.isfinite(one)):
      raise UserError(f'the filter of {field!r} has the value {one!r}; expected a text, a number, true or false')
  return Comparison(field, '=', tuple(_typed(one) for one in values))


def _typed(value: str | bool | int | float) -> Literal:
  if isinstance(value, str):
    files.check_characters(value, 'a value of a filter')
    return Literal(value, text=value)
  if isinstance(value, bool):
    return Literal(str(value), truth=value)
  return Literal(str(value), number=_storable(value))


def _storable(number: int | float) -> int | float:
  """Returns a number as SQLite has it: whole ones beyond 64 bits are floating."""
  return number if isinstance(number, float) or -(2**63) <= number < 2**63 else float(number)


def _short(text: str) -> str:
  return repr(text) if len(text) <= 80 else f'{text[:80]!r}…'


class _Parser:
  """Reads one filter from left to right; each method reads one rule of the grammar from where it stands."""

  def __init__(self, text: str):
    files.check_characters(text, 'a filter')
    self._text, self._at, self._depth = text, 0, 0

  def read(self) -> Node:
    """filter = any"""
    if not self._text.strip():
      raise UserError('a filter is empty; expected one as year>=2019')
    node = self._any()
    if self._at < len(self._text):
      self._fail("'and', 'or' or the end")
    return node

  def _any(self) -> Node:
    """any = all {'or' all}"""
    parts = [self._all()]
    while self._word('or'):
      parts.append(self._all())
    return parts[0] if len(parts) == 1 else Or(tuple(parts))

  def _all(self) -> Node:
    """all = one {'and' one}"""
    parts = [self._one()]
    while self._word('and'):
      parts.append(self._one())
    return parts[0] if len(parts) == 1 else And(tuple(parts))

  def _one(self) -> Node:
    """one = 'not' one | '(' any ')' | comparison"""
    self._skip()
    begun = self._at
    is_not = self._word('not')
    if not is_not and not self._take('('):
      node: Node = self._comparison()
    else:
      self._depth += 1
      if self._depth > _DEPTH:
        self._fail(f'at most {_DEPTH} brackets and nots within each other')
      node = Not(self._one()) if is_not else self._any()
      if not is_not and not self._take(')'):
        self._fail(f"'and', 'or', or ')' for the '(' at character {begun + 1}")
      self._depth -= 1
    self._skip()
    return node

  def _comparison(self) -> Node:
    """comparison = field sign value | field ['not'] 'in' '(' value {',' value} ')'"""
    self._skip()
    field = self._quoted() if self._next() in ('"', "'") else self._match(_FIELD)
    if not field:
      self._fail('the name of a field')
    is_not = self._word('not')
    if self._word('in'):
      if not self._take('('):
        self._fail("'(' and values with commas between them, as in (lake, 'at sea')")
      values = [self._value(',)')]
      while self._take(','):
        values.append(self._value(',)'))
      if not self._take(')'):
        self._fail("',' or ')'")
      node: Node = Comparison(field, '=', tuple(values))
      return Not(node) if is_not else node
    self._skip()
    sign = '' if is_not else self._match(_SIGN)
    if not sign:
      self._fail(
        "'in'" if is_not else "=, !=, <, <=, >, >=, ~ or 'in' (a name with spaces is quoted, and a value with 'and')"
      )
    self._skip()
    place, value = self._at, self._value(')')
    if sign in filter_sql.ORDER and value.number is None and value.instant is None:
      self._at = place
      self._fail(f'a number as 2019, or a date as 2019-05-01, after {sign}')
    return Not(Comparison(field, '=', (value,))) if sign == '!=' else Comparison(field, sign, (value,))

  def _value(self, ends: str) -> Literal:
    """value = quoted | words up to 'and', 'or' or one of `ends`"""
    self._skip()
    if self._next() in ('"', "'"):
      text = self._quoted()
      return Literal(text, text=text, instant=_span(text))
    begun = self._at
    end = self._words(ends)
    text = self._text[begun:end]
    if not text:
      self._fail("a value (an empty text is written '')")
    number = self._number(text, begun) if _NUMBER.fullmatch(text) else None
    truth = {'true': True, 'false': False}.get(text.lower())
    day = _span(text)
    return Literal(text, text=text, number=number, truth=truth, instant=day, is_date=day is not None)

  def _words(self, ends: str) -> int:
    """Steps over the words of a value without quotes; returns where the last one ends."""
    begun = end = self._at
    brackets: list[int] = []  # Places of those that are open.
    while self._at < len(self._text):
      character = self._text[self._at]
      if not brackets and (character in ends or self._is_word('and') or self._is_word('or')):
        break
      if _SIGN.match(self._text, self._at) and (self._at == begun or ' ' in self._text[begun : self._at]):
        self._fail("'and', 'or' or the end" if end > begun else 'a value', ' (a text with signs is quoted)')
      if character == '(':
        if self._at == begun:
          self._fail('a value', " (a text with brackets is quoted; several values are written in (lake, 'at sea'))")
        brackets.append(self._at)
      elif character == ')':
        brackets.pop()
      self._at += 1
      end = end if character.isspace() else self._at
    if brackets:
      self._at = brackets[-1]
      self._fail("a ')' for this '('", ' (a text with brackets is quoted)')
    return end

  def _number(self, text: str, place: int) -> int | float:
    number = int(text) if re.fullmatch(r'-?\d{1,300}', text, re.ASCII) else float(text)
    if not math.isfinite(number):
      self._at = place
      self._fail('a smaller number')
    return _storable(number)

  def _quoted(self) -> str:
    """Reads a text in quotes, in which those quotes are doubled."""
    begun, quote = self._at, self._text[self._at]
    match = re.compile(f'{quote}((?:[^{quote}]|{quote}{quote})*){quote}').match(self._text, begun)
    if match is None:
      self._fail(f'another {quote} behind this one')
    self._at = match.end()
    return match[1].replace(2 * quote, quote)

  def _next(self) -> str:
    return self._text[self._at : self._at + 1]

  def _skip(self) -> None:
    self._match(_SPACE)

  def _match(self, pattern: re.Pattern[str]) -> str:
    match = pattern.match(self._text, self._at)
    self._at = match.end() if match else self._at
    return match[0] if match else ''

  def _take(self, sign: str) -> bool:
    self._skip()
    found = self._text.startswith(sign, self._at)
    self._at += len(sign) if found else 0
    return found

  def _is_word(self, word: str) -> bool:
    """Whether a keyword begins here: no part of a longer word, and not the field of a comparison."""
    before = self._text[self._at - 1 : self._at]
    is_begun = not before or before.isspace() or before in '()\'"'
    return is_begun and re.compile(rf'{word}(?=[\s(\'")]|$)', re.IGNORECASE).match(self._text, self._at) is not None

  def _word(self, word: str) -> bool:
    self._skip()
    found = self._is_word(word)
    self._at += len(word) if found else 0
    return found

  def _fail(self, expected: str, more: str = '') -> NoReturn:
    self._skip()
    rest = self._text[self._at :]
    found = f'found {_short(rest[:20])}' if rest else 'found its end'
    raise UserError(f'the filter {_short(self._text)}, character {self._at + 1}: expected {expected}, {found}{more}')


def _span(text: str) -> tuple[int, int] | None:
  """Returns the first microsecond of a date, and the one behind its last: of a day, or of a moment."""
  begin = filter_sql.instant(text)
  if begin is None:
    return None
  is_day = len(text) == len('2019-05-01')
  return begin, begin + (_DAY if is_day else 1)
