"""Searching in what is said in the videos of an index, and in their titles, names and metadata.

    texts   number, place, start, "end", track, text     a row a cue; without seconds what is said of the whole video
    words   terms                                        full text (FTS5) of the same rows, numbered alike

Terms are made here, for documents and queries alike, so that no language is preferred: words in lower case without
accents on Latin letters; of scripts without spaces every character and every pair of neighbours, since most of their
words have one or two characters (SQLite's trigrams would find none of these). SQLite only keeps them. A word also finds
those with an ending: one letter behind three, up to three behind four or more; and the other way round: dog, dogs.

How well a row fits is the share of the query that it holds, each term counting log(1 + (N - n + 0.5) / (n + 0.5)) where
n of N rows have it: common words count little, and what nobody says counts most. A row and the next one, within three
seconds, are one, for sentences run on; and what is said of a whole video counts for each of its rows.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import pathlib
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkd_jax.gallery.results import Said
from dlkd_jax.gallery.segments import Cue, Entry, Segment
from dlkd_jax.video import subtitles
from dlkd_jax.video.word_vectors import token_spans

if TYPE_CHECKING:
  from dlkd_jax.gallery.catalog import Catalog

SCHEMA = """
CREATE TABLE texts(
  number INTEGER PRIMARY KEY, place INTEGER NOT NULL, start REAL, "end" REAL, track TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX texts_by_place ON texts(place);
CREATE VIRTUAL TABLE words USING fts5(
  terms, detail = none, columnsize = 0, tokenize = "unicode61 remove_diacritics 0 categories 'L* M* N* P* S* C*'");
"""
# Share of a query that a video must hold to be found by it.
LEAST = 0.4
# Of a query; the rarest are taken. Rows that are looked at: common terms count in those that rare ones name.
_MOST_TERMS, _MOST_ROWS = 24, 4_000
# Letters that endings may have, behind a stem of so many letters; and what a word with another ending counts.
_ENDINGS = {3: 1, 4: 3}
_VARIANT = 0.8
# Seconds from one cue to the next that goes on with it.
_NEXT = 3.0
# Snippets of a video, and values of its metadata that are searched.
_SNIPPETS, _VALUES = 3, 100


def terms(text: str) -> list[str]:
  """Returns the terms of a text, as they are stored."""
  return [term for term, _, _ in spans(text)]


def spans(text: str) -> list[tuple[str, int, int]]:
  """Returns each term of a text, composed (NFC), and from which character to which it stands there."""
  found = ((_folded(token), first, last) for token, first, last in token_spans(text.replace('_', ' ')))
  return [each for each in found if each[0]]


def _folded(word: str) -> str:
  """Returns a word without case, without accents on Latin letters, and without the vowel signs of Arabic."""
  word = unicodedata.normalize('NFKC', word).casefold().replace('\u2019', "'")
  if word.isascii():
    return word
  letters: list[str] = []
  for each in unicodedata.normalize('NFD', word):
    if '\u064b' <= each <= '\u065f' or each in '\u0640\u0670':
      continue
    if '\u0300' <= each <= '\u036f' and letters and letters[-1] < '\u0250':
      continue
    letters.append(each)
  return unicodedata.normalize('NFC', ''.join(letters))


def read(entry: Entry) -> tuple[Entry, list[Cue]]:
  """Returns what is known of a video with the hash of the subtitles beside its file, and what is said in it.

  To be called when a video is put into an index, or taken anew; without a file nothing is said.
  """
  film = pathlib.Path(entry.path) if entry.path else None
  if film is None or not film.is_file():
    return entry, []
  names = [path.name for path, _ in subtitles.beside(film)]  # The folder is gone through once.
  said = [Cue(entry.video_id, cue.start, cue.end, cue.text, cue.track) for cue in subtitles.cues(film, names)]
  return dataclasses.replace(entry, said=subtitles.digest(film, names)), said


def insert(connection: sqlite3.Connection, segment: Segment, place: int) -> None:
  """Adds the texts of a segment whose first video has a place."""
  numbers = {entry.video_id: place + own for own, entry in enumerate(segment.entries)}

  def rows() -> Iterator[tuple[Any, ...]]:
    for entry in segment.entries:
      if entry.video_id not in segment.removed:
        yield from ((numbers[entry.video_id], None, None, what, text) for what, text in _of_whole(entry))
    for cue in segment.cues:
      if cue.video_id not in segment.removed and cue.video_id in numbers:
        yield numbers[cue.video_id], cue.start, cue.end, cue.track, cue.text

  for row in rows():
    said = ' '.join(terms(row[-1]))
    if said:
      number = connection.execute('INSERT INTO texts VALUES (NULL, ?, ?, ?, ?, ?)', row).lastrowid
      connection.execute('INSERT INTO words(rowid, terms) VALUES (?, ?)', [number, said])


def delete(connection: sqlite3.Connection, place: int, videos: Sequence[str]) -> None:
  """Removes the texts of all places from one on, and of some videos, which are still in their table."""
  gone = '(place >= ? OR place IN (SELECT place FROM videos WHERE id IN (SELECT value FROM json_each(?))))'
  values = [place, json.dumps(list(videos))]
  connection.execute(f'DELETE FROM words WHERE rowid IN (SELECT number FROM texts WHERE {gone})', values)
  connection.execute(f'DELETE FROM texts WHERE {gone}', values)


def _of_whole(entry: Entry) -> Iterator[tuple[str, str]]:
  """Yields what is said of a whole video, and what it is: title, name of the file with its folders, metadata."""
  title = unicodedata.normalize('NFC', entry.title)
  yield 'title', title
  name = unicodedata.normalize('NFC', str(pathlib.PurePosixPath(entry.video_id).with_suffix('')))
  if not set(terms(name)) <= set(terms(title)):
    yield 'name', name
  values = (
    (key, each) for key, value in entry.metadata.items() for each in (value if isinstance(value, list) else [value])
  )
  for number, (key, value) in enumerate(values):
    if isinstance(value, str) and number < _VALUES:
      yield f'metadata: {key}', unicodedata.normalize('NFC', value[:2000])


@dataclasses.dataclass(frozen=True)
class Match:
  """A video that is found by texts: how much of the query it holds, 0 to 1, and where it is said, best first."""

  place: int
  share: float
  said: tuple[Said, ...]


class Texts:
  """The texts of an index, opened for searching.

  Attributes:
    count: how many rows there are; 0 where the index knows of none.
  """

  def __init__(self, catalog: Catalog):
    """Takes the catalog of an index."""
    self._catalog, self.count = catalog, 0
    if catalog.fetch("SELECT 1 FROM main.sqlite_master WHERE name = 'words'"):
      ((self.count,),) = catalog.fetch('SELECT count(*) FROM texts')
      catalog.fetch('CREATE VIRTUAL TABLE IF NOT EXISTS temp.vocabulary USING fts5vocab(main, words, row)')

  def cues(self, place: int) -> list[tuple[float, float, str, str]]:
    """Returns start, end, track and text of all that is said in the video at a place, in order."""
    if not self.count:
      return []
    query = 'SELECT start, "end", track, text FROM texts WHERE place = ? AND start IS NOT NULL ORDER BY start, number'
    return self._catalog.fetch(query, [place])

  def find(self, query: str, allowed: np.ndarray) -> list[Match]:
    """Returns the videos that hold enough of a query, best first, of equal ones the one with the lower place first.

    Args:
      query: whatever was typed; nothing in it has a meaning of its own.
      allowed: `[V]` bool, the places that count.
    """
    wanted = list(dict.fromkeys(terms(query[:2000])))
    # Characters of scripts without spaces are in their pairs.
    pairs = ''.join(term for term in wanted if len(term) == 2)
    wanted = [term for term in wanted if len(term) > 1 or term not in pairs]
    if not self.count or not wanted:
      return []
    held = {term: self._variants(term) for term in wanted}
    weights = {}
    for term, variants in held.items():
      n = min(self.count, sum(count for _, count, _ in variants))
      weights[term] = math.log(1 + (self.count - n + 0.5) / (n + 0.5))
    whole = sum(weights.values())
    rows = self._rows(held, weights)
    if not rows:
      return []
    by_place: dict[int, list[tuple[Any, ...]]] = collections.defaultdict(list)
    query = (
      'SELECT place, start, "end", track, text, number FROM texts WHERE number IN (SELECT value FROM json_each(?)) '
      'ORDER BY place, start, number'
    )
    for place, *row in self._catalog.fetch(query, [json.dumps(list(rows))]):
      if allowed[place]:
        by_place[place].append(tuple(row))
    words = {variant for variants in held.values() for variant, _, _ in variants}
    found = [_match(place, own, rows, whole, words) for place, own in by_place.items()]
    return sorted((match for match in found if match.share >= LEAST), key=lambda match: (-match.share, match.place))

  def _variants(self, term: str) -> list[tuple[str, int, float]]:
    """Returns the stored terms that a term finds, in how many rows each is, and how much it counts."""
    found = [(term, 1.0)]
    if term.isalpha() and (more := _ending(len(term))):
      longer = self._catalog.fetch(
        'SELECT term FROM temp.vocabulary WHERE term > ? AND term < ? AND length(term) <= ? LIMIT 50',
        [term, term + '\U0010ffff', len(term) + more],
      )
      found += [(each, _VARIANT) for (each,) in longer]
      found += [(term[:-cut], _VARIANT) for cut in range(1, 4) if cut <= _ending(len(term) - cut)]
    names = json.dumps([each for each, _ in found])
    counts = dict(
      self._catalog.fetch(
        'SELECT term, doc FROM temp.vocabulary WHERE term IN (SELECT value FROM json_each(?))', [names]
      )
    )
    return [(each, counts[each], weight) for each, weight in found if each in counts]

  def _rows(
    self, held: dict[str, list[tuple[str, int, float]]], weights: dict[str, float]
  ) -> dict[int, dict[str, float]]:
    """Returns number of a row → term of the query → what it adds there, of the rows that the rarest terms name."""
    numbers: set[int] = set()
    adds: dict[str, list[tuple[str, float]]] = collections.defaultdict(list)
    for term in sorted(weights, key=lambda term: -weights[term])[:_MOST_TERMS]:
      for variant, count, part in held[term]:
        adds[variant].append((term, part * weights[term]))
        if numbers and len(numbers) + count > _MOST_ROWS:
          continue
        phrase = '"' + variant.replace('"', '""') + '"'
        found = self._catalog.fetch(f'SELECT rowid FROM words WHERE words MATCH ? LIMIT {_MOST_ROWS}', [phrase])
        numbers.update(number for (number,) in found)
    rows: dict[int, dict[str, float]] = {}
    query = 'SELECT rowid, terms FROM words WHERE rowid IN (SELECT value FROM json_each(?))'
    for number, said in self._catalog.fetch(query, [json.dumps(sorted(numbers))]):
      own = rows.setdefault(number, {})
      for variant in adds.keys() & set(said.split(' ')):
        for term, value in adds[variant]:
          own[term] = max(own.get(term, 0.0), value)
    return rows


def _match(
  place: int, own: list[tuple[Any, ...]], rows: dict[int, dict[str, float]], whole: float, words: set[str]
) -> Match:
  """Returns how a video fits, from its rows (start, end, track, text, number), those without seconds first."""
  general: dict[str, float] = {}
  for start, *_, number in own:
    if start is None:
      general = _union(general, rows[number])
  scored = []
  for at, (start, _, _, _, number) in enumerate(own):
    held = rows[number]
    if start is not None and at + 1 < len(own) and own[at + 1][0] - own[at][1] <= _NEXT:
      held = _union(held, rows[own[at + 1][-1]])
    scored.append((sum(_union(held, general).values()) / whole, sum(rows[number].values()) / whole, at))
  share = max(each[0] for each in scored)
  best = sorted(scored, key=lambda each: (own[each[2]][0] is None, -each[0], -each[1], each[2]))[:_SNIPPETS]
  return Match(place, min(1.0, share), tuple(_said(own[at], words) for _, _, at in best))


def _ending(stem: int) -> int:
  """Returns how many letters may follow a stem of so many."""
  return max((most for least, most in _ENDINGS.items() if stem >= least), default=0)


def _union(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
  return {term: max(one.get(term, 0.0), other.get(term, 0.0)) for term in {*one, *other}}


def _said(row: tuple[Any, ...], words: set[str]) -> Said:
  """Returns a snippet with the places of the words that were found."""
  start, end, track, text, _ = row
  marks: list[list[int]] = []
  for term, first, last in spans(text):
    if term in words and not (marks and first < marks[-1][1]):
      marks.append([first, last])
    elif term in words:
      marks[-1][1] = max(last, marks[-1][1])
  kind = 'said' if start is not None else track
  return Said(kind, text, tuple((first, last) for first, last in marks), start, end, track if start is not None else '')
