"""Which file a name means that a person wrote, whatever its spelling."""

from __future__ import annotations

import collections
import difflib
import functools
import os
import pathlib
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

_MOST_COMPARED = 20_000  # Names that are compared for the nearest: a second or two.


class Names:
  """The files of a folder, to be found by the names that people give them.

  In this order, the first that fits any file counts:

  1. the path below the folder;
  2. another spelling of it: back slashes, `./` and `//`, composed or decomposed accents, and the folder's own path, or
     the end of it, in front;
  3. the end of the path, and a name without its ending;
  4. the same in another case.
  """

  def __init__(self, names: Sequence[str], folder: pathlib.Path):
    """Takes the names: paths below `folder`, with slashes."""
    self._names = list(names)
    self._exact = frozenset(names)
    self._fronts = sorted(set(_fronts(folder)), key=len, reverse=True)

  def find(self, name: str) -> list[str]:
    """Returns the files that a name may mean: one, several, or none."""
    for written in dict.fromkeys((name, name.strip())):
      if written in self._exact:
        return [written]
    for table, form in (('_whole', str), ('_ends', str), ('_folded', _fold)):
      for key in self._spellings(name, form):
        if fitting := getattr(self, table).get(key):
          return list(dict.fromkeys(fitting))
    return []

  # Made where they are needed: of many files they take a while.
  @functools.cached_property
  def _whole(self) -> dict[str, list[str]]:
    return _table((_plain(name), name) for name in self._names)

  @functools.cached_property
  def _ends(self) -> dict[str, list[str]]:
    return _table((end, name) for name in self._names for end in set(_ends(_plain(name))))

  @functools.cached_property
  def _folded(self) -> dict[str, list[str]]:
    return _table((_fold(end), name) for end, files in self._ends.items() for name in files)

  def spells(self, name: str, file: str) -> bool:
    """Whether a name is the whole path of a file, in whatever spelling."""
    return _plain(file) in self._spellings(name)

  def _spellings(self, name: str, form: Callable[[str], str] = str) -> list[str]:
    """Returns what a name may be in the one spelling, in a form of it, the likeliest first."""
    plain = [form(_plain(each)) for each in (name.strip(), name.strip().replace('\\', '/'))]
    fronts = list(map(form, self._fronts))
    below = [each[len(front) :] for each in plain for front in fronts if each.startswith(front)]
    return list(dict.fromkeys((*plain, *below)))

  def nearest(self, name: str, count: int) -> tuple[str, ...]:
    """Returns up to `count` names that are like one that is not there."""
    last = posixpath.basename(_plain(name.replace('\\', '/')))
    by_last = _table((_fold(posixpath.basename(_plain(each))), each) for each in self._names[:_MOST_COMPARED])
    near = difflib.get_close_matches(_fold(last), by_last, count, cutoff=0.4)
    return tuple(each for key in near for each in by_last[key])[:count]


def _table(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
  table: dict[str, list[str]] = collections.defaultdict(list)
  for key, name in pairs:
    table[key].append(name)
  return dict(table)


def _plain(name: str) -> str:
  """Returns one spelling for all: composed accents, no `.` and no empty parts."""
  return posixpath.normpath(unicodedata.normalize('NFC', name))


def _fold(name: str) -> str:
  return unicodedata.normalize('NFC', name.casefold())


def _ends(name: str) -> Iterator[str]:
  """Yields all ends of a path at its slashes, each also without the ending of the name."""
  parts = name.split('/')
  for start in range(len(parts)):
    end = '/'.join(parts[start:])
    yield end
    yield end.rpartition('.')[0] or end


def _fronts(folder: pathlib.Path) -> Iterable[str]:
  """Yields the folder's path and its ends, each with a slash behind."""
  for path in (os.path.abspath(folder), os.path.realpath(folder)):
    whole = _plain(path.replace('\\', '/') if os.sep == '\\' else path)
    yield whole.rstrip('/') + '/'
    parts = whole.strip('/').split('/')
    for start in range(len(parts)):
      yield '/'.join(parts[start:]) + '/'
