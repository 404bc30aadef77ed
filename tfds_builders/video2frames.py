"""Reads video2frames.txt, a Python dict literal {video: [row name, …]}, without Python.

A scanner for exactly that shape is used and not `ast.literal_eval`, which needs a gigabyte for the 900,000 row names
of TVR and silently merges equal keys. Nothing in the file is ever executed: whatever is not a string, a bracket, a
comma or a colon in its place is an error.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

from tfds_builders.errors import DuplicateIdError, MalformedFileError

_TOKEN = re.compile(
  r"""\s*(?:(?P<string>u?(?:'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"))|(?P<mark>[{}\[\](),:]))"""
)


def iterate_videos(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """Yields (video id, row names) in the order of the file.

  Bytes are taken as ISO-8859-1, as in id.txt, so that names of both files match byte by byte; see `readable`.

  Args:
    path: the file.

  Raises:
    MalformedFileError: anything but a dict of strings to lists of strings.
    DuplicateIdError: a video occurs twice.
  """
  scanner = _Scanner(path)
  scanner.expect('{')
  seen: set[str] = set()
  while (video := scanner.string_or('}')) is not None:
    if video in seen:
      raise DuplicateIdError(f'{path}: video {readable(video)!r} occurs twice; keep one of its entries')
    seen.add(video)
    scanner.expect(':')
    yield video, _read_list(scanner)
    if scanner.expect(',', '}') == '}':
      break
  scanner.expect_end()


def readable(name: str) -> str:
  """Returns a name that was read byte by byte as the UTF-8 text that it most likely is."""
  try:
    return name.encode('latin-1').decode('utf-8')
  except (UnicodeEncodeError, UnicodeDecodeError):
    return name


def _read_list(scanner: _Scanner) -> list[str]:
  closing = ']' if scanner.expect('[', '(') == '[' else ')'
  names: list[str] = []
  while (name := scanner.string_or(closing)) is not None:
    names.append(name)
    if scanner.expect(',', closing) == closing:
      break
  return names


class _Scanner:
  """Strings and marks of the file, one after another."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._text = path.read_bytes().decode('latin-1')
    self._position = 0

  def _next(self, expected: str) -> re.Match[str]:
    match = _TOKEN.match(self._text, self._position)
    if match is None:
      self._fail(expected)
    self._position = match.end()
    return match

  def _fail(self, expected: str):
    line = self._text.count('\n', 0, self._position) + 1
    found = self._text[self._position : self._position + 40].strip()
    raise MalformedFileError(
      f'{self._path}, line {line}, character {self._position}: expected {expected}, found {found!r}. '
      "Only a literal {'video': ['row', …], …} is read, and nothing in it is executed"
    )

  def expect(self, *marks: str) -> str:
    """Consumes one of `marks` and returns it."""
    start = self._position
    match = self._next(' or '.join(marks))
    if match['mark'] not in marks:
      self._position = start
      self._fail(' or '.join(marks))
    return match['mark']

  def string_or(self, closing: str) -> str | None:
    """Consumes a string and returns it, or consumes `closing` and returns None."""
    start = self._position
    match = self._next(f'a quoted name or {closing}')
    literal = match['string']
    if literal is None:
      if match['mark'] != closing:
        self._position = start
        self._fail(f'a quoted name or {closing}')
      return None
    if '\\' not in literal:
      return literal.lstrip('u')[1:-1]
    try:
      return ast.literal_eval(literal)
    except (SyntaxError, ValueError):  # A backslash before something that is no escape.
      self._position = start
      self._fail('a quoted name')

  def expect_end(self) -> None:
    """Checks that only white space is left."""
    if self._text[self._position :].strip():
      self._fail('the end of the file')
