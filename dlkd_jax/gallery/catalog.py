"""What an index knows of its videos, in one SQLite file: nothing is read before it is asked for.

    videos    place, id, title, path, start, duration, split, frames, metadata (JSON), digest, dataset,
              size (bytes), written (nanoseconds since 1970)
    captions  number, id, video, text, start, "end"
    texts, words: what is said, and titles, names and metadata, for searching in; see `texts`

A place is the number of a video through all segments, in the order of the manifest; places of removed videos are not
there, and those behind them stay what they are. A caption is numbered likewise. The file is never changed: whatever
changes the index writes another one, and the manifest names it. Indexes without one get theirs in memory.
"""

from __future__ import annotations

import collections.abc
import json
import pathlib
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlkd_jax.gallery import catalog_file, filter_sql
from dlkd_jax.gallery.segments import Caption, Entry, IndexFolderError, Segment

if TYPE_CHECKING:
  from dlkd_jax.gallery.index_folder import IndexFolder

_ENTRY = 'id, title, path, start, duration, split, metadata, digest, dataset, size, written, said'
_CAPTION = 'id, video, text, start, "end"'
# What SQLite calls errors of a query, and are of the file.
_DAMAGES = ('decode to UTF-8', 'malformed', 'no such table', 'no such column', 'disk I/O error')
# Rows read at once where all are gone through.
_BATCH = 4096


class Known(NamedTuple):
  """Where a video lies in an index and comes from; see `Entry` for all but its place."""

  place: int
  digest: str
  dataset: str
  split: str
  size: int | None
  written: int | None
  said: str


class Catalog:
  """The catalog of an index, opened for reading; it may be used from several threads.

  Attributes:
    starts: `[S + 1]` int64, the first place of each segment of the manifest, then the number of places.
    caption_starts: `[S + 1]` int64, likewise for captions.
  """

  def __init__(self, connection: sqlite3.Connection, abouts: Sequence[Mapping[str, Any]], videos: str | None = None):
    """Takes an open database; see `open`."""
    self._connection, self._lock = connection, threading.Lock()
    weakref.finalize(self, connection.close)  # A connection and its statements hold each other.
    connection.create_function('casefold', 1, _casefold, deterministic=True)
    filter_sql.add_functions(connection)
    catalog_file.complete(connection)
    self._folder = None if videos is None else pathlib.Path(videos).absolute()
    self.starts, self.caption_starts = (
      np.cumsum([0, *(about[what] for about in abouts)], dtype=np.int64) for what in ('videos', 'captions')
    )
    (self._count,), (self._captions,) = self.fetch(
      'SELECT count(*) FROM videos UNION ALL SELECT count(*) FROM captions'
    )

  @classmethod
  def open(cls, folder: IndexFolder, videos: str | None = None) -> Catalog:
    """Opens the catalog of an index.

    Args:
      folder: the index.
      videos: folder of the video files, where that has moved.

    Raises:
      IndexFolderError: it is damaged.
    """
    return folder.contents(videos)[1]

  def __len__(self) -> int:
    return self._count

  # Views hold the catalog, so it does not hold them: its file is closed with its last reader.
  @property
  def videos(self) -> Mapping[str, Entry]:
    """Returns id → `Entry`, in the order of their places; read where it is asked for."""
    return _View(self, 'videos', _ENTRY, 'place', self._entry, self._count)

  @property
  def captions_by_id(self) -> Mapping[str, Caption]:
    """Returns id → `Caption`, in the order of their numbers; of equal ids the last."""
    return _View(self, 'captions', _CAPTION, 'number', lambda row: Caption(*row), self._captions)

  @property
  def places(self) -> int:
    """How many places there are, those of removed videos among them: the V of `select` and of scores."""
    return int(self.starts[-1])

  def fetch(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
    """Returns all rows of a query in SQL.

    Raises:
      IndexFolderError: the file is damaged.
    """
    try:
      with self._lock:
        return self._connection.execute(sql, parameters).fetchall()
    except UnicodeEncodeError:
      return []  # What is looked for holds half of a character, and nothing here does.
    except sqlite3.OperationalError as error:
      if not any(words in str(error) for words in _DAMAGES):
        raise  # Of the query.
      raise self._damaged(error) from error
    except sqlite3.DatabaseError as error:
      raise self._damaged(error) from error

  def _damaged(self, error: Exception) -> IndexFolderError:
    return IndexFolderError(f'the catalog of the index is damaged ({error}); copy the index again, or build it anew')

  def entry(self, place: int) -> Entry:
    """Returns what is known of the video at a place.

    Raises:
      KeyError: there is none, or it was removed.
    """
    return self.entries([place])[0]

  def entries(self, places: Iterable[int]) -> list[Entry]:
    """Returns what is known of the videos at places, in their order; errors are those of `entry`."""
    wanted = [int(place) for place in places]
    query = f'SELECT place, {_ENTRY} FROM videos WHERE place IN (SELECT value FROM json_each(?))'
    found = {place: self._entry(row) for place, *row in self.fetch(query, [json.dumps(wanted)])}
    return [found[place] for place in wanted]

  def place_of(self, video_id: str) -> int:
    """Returns the place of a video.

    Raises:
      KeyError: the index has no such video.
    """
    for (place,) in self.fetch('SELECT place FROM videos WHERE id = ?', [video_id]):
      return place
    raise KeyError(video_id)

  def segment_of(self, place: int) -> tuple[int, int]:
    """Returns the number of a place's segment in the manifest, and the video's number in it."""
    return _part(self.starts, place)

  def caption(self, caption_id: str) -> Caption:
    """Returns a caption.

    Raises:
      KeyError: there is none of that id.
    """
    return self.captions_by_id[caption_id]

  def caption_place(self, caption_id: str) -> tuple[int, int]:
    """Returns the number of a caption's segment in the manifest, and its own in it; errors are those of `caption`."""
    for (number,) in self.fetch('SELECT max(number) FROM captions WHERE id = ? GROUP BY id', [caption_id]):
      return _part(self.caption_starts, number)
    raise KeyError(caption_id)

  def captions(self, video_id: str) -> list[Caption]:
    """Returns the captions of a video."""
    query = f'SELECT {_CAPTION} FROM captions WHERE video = ? ORDER BY number'
    return [Caption(*row) for row in self.fetch(query, [video_id])]

  def known(self) -> dict[str, Known]:
    """Returns id → place and origin of all videos."""
    query = 'SELECT id, place, digest, dataset, split, size, written, said FROM videos'
    return {video: Known(*rest) for video, *rest in self.fetch(query)}

  def select(self, where: str = '1', parameters: Sequence[Any] | Mapping[str, Any] = ()) -> np.ndarray:
    """Returns `[V]` bool: the places of videos of which a condition in SQL holds.

    Args:
      where: over the columns of `videos`; `casefold(text)` is there, too. It comes from a compiler of filters, never
        from a user.
      parameters: values of its `?` or `:name`.
    """
    chosen = np.zeros(self.places, bool)
    found = self.fetch(f'SELECT place FROM videos WHERE {where}', parameters)
    chosen[np.fromiter((place for (place,) in found), np.int64, len(found))] = True
    return chosen

  def filter(self, keep: Callable[[Entry], bool]) -> np.ndarray:
    """Returns `[V]` bool: the places of videos of which a function says so; slow, for it is asked of each."""
    chosen = np.zeros(self.places, bool)
    for place, row in self.each('videos', _ENTRY, 'place'):
      chosen[place] = bool(keep(self._entry(row)))
    return chosen

  def ranks(self) -> np.ndarray:
    """Returns `[V]` int64, the number of each video in the order of ids; -1 at removed ones."""
    found = self.fetch('SELECT place FROM videos ORDER BY id')
    ranks = np.full(self.places, -1, np.int64)
    ranks[np.fromiter((place for (place,) in found), np.int64, len(found))] = np.arange(len(found))
    return ranks

  def each(self, table: str, columns: str, key: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields number and columns of the rows of a table in their order, some at a time."""
    last = -1
    while rows := self.fetch(
      f'SELECT {key}, {columns} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {_BATCH}', [last]
    ):
      for last, *row in rows:
        yield last, row

  def _entry(self, row: Sequence[Any]) -> Entry:
    video, title, path, start, duration, split, metadata, digest, dataset, size, written, said = row
    if self._folder is not None:
      path = str(self._folder / video)
    return Entry(
      video_id=video,
      title=title,
      path=path,
      duration=duration,
      split=split,
      metadata=json.loads(metadata),
      start=start or 0.0,
      start_known=start is not None,
      digest=digest,
      dataset=dataset,
      size=size,
      written=written,
      said=said,
    )


class _View(collections.abc.Mapping):
  """The rows of a table by id, made into objects where they are asked for."""

  def __init__(self, catalog: Catalog, table: str, columns: str, key: str, make: Callable[..., Any], count: int):
    self._catalog, self._table, self._columns, self._key = catalog, table, columns, key
    self._make, self._count = make, count

  def __len__(self) -> int:
    return self._count

  def __iter__(self) -> Iterator[str]:
    for _, (name,) in self._catalog.each(self._table, 'id', self._key):
      yield name

  def __getitem__(self, name: str) -> Any:
    query = f'SELECT {self._columns} FROM {self._table} WHERE id = ? ORDER BY {self._key} DESC LIMIT 1'
    for row in self._catalog.fetch(query, [name]) if isinstance(name, str) else ():
      return self._make(row)
    raise KeyError(name)

  def values(self) -> collections.abc.ValuesView:
    return _Values(self)

  def items(self) -> collections.abc.ItemsView:
    return _Items(self)

  def each(self) -> Iterator[tuple[str, Any]]:
    for _, row in self._catalog.each(self._table, self._columns, self._key):
      yield row[0], self._make(row)


class _Values(collections.abc.ValuesView):
  def __iter__(self) -> Iterator[Any]:
    return (value for _, value in self._mapping.each())


class _Items(collections.abc.ItemsView):
  def __iter__(self) -> Iterator[tuple[str, Any]]:
    return self._mapping.each()


def open_file(file: pathlib.Path, abouts: Sequence[Mapping[str, Any]], videos: str | None = None) -> Catalog:
  """Opens a catalog that was written for the segments of a manifest.

  Raises:
    FileNotFoundError: it is absent.
    IndexFolderError: it is damaged.
  """
  if not file.is_file():
    raise FileNotFoundError(2, 'is absent', str(file))
  # Immutable: nothing is locked or looked for beside it, also on a disk that cannot be written to.
  address = f'{file.absolute().as_uri()}?mode=ro&immutable=1'
  try:
    return Catalog(sqlite3.connect(address, uri=True, check_same_thread=False), abouts, videos)
  except sqlite3.Error as error:
    if not file.is_file():  # A writer has just replaced it.
      raise FileNotFoundError(2, 'is absent', str(file)) from error
    raise IndexFolderError(f'{file} is damaged ({error}); copy the index again, or build it anew') from error


def in_memory(segments: Sequence[Segment], abouts: Sequence[Mapping[str, Any]], videos: str | None = None) -> Catalog:
  """Makes the catalog of an index that has none, of what its segments say."""
  connection = sqlite3.connect(':memory:', check_same_thread=False)
  catalog_file.fill(connection, segments)
  connection.commit()
  return Catalog(connection, abouts, videos)


def _part(starts: np.ndarray, number: int) -> tuple[int, int]:
  part = int(np.searchsorted(starts, number, 'right')) - 1
  return part, int(number) - int(starts[part])


def _casefold(text: Any) -> str | None:
  return None if text is None else str(text).casefold()
