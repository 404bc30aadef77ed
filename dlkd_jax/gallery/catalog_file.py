"""The file of a catalog: its tables, and how a new one is written of segments or of an earlier one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pathlib
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax import files
from dlkd_jax.gallery import texts
from dlkd_jax.gallery.segments import Segment

# SQLite writes it into the head of the file: "dlkd".
_MARK = 0x646C6B64
_MAGIC = b'SQLite format 3\0'
_SCHEMA = f"""
PRAGMA application_id = {_MARK};
CREATE TABLE videos(
  place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, path TEXT, start REAL, duration REAL,
  split TEXT NOT NULL, frames INTEGER NOT NULL, metadata TEXT NOT NULL, digest TEXT NOT NULL, dataset TEXT NOT NULL,
  size INTEGER, written INTEGER, said TEXT NOT NULL);
CREATE TABLE captions(
  number INTEGER PRIMARY KEY, id TEXT NOT NULL, video TEXT NOT NULL, text TEXT NOT NULL, start REAL, "end" REAL);
CREATE INDEX captions_by_id ON captions(id);
CREATE INDEX captions_by_video ON captions(video);
{texts.SCHEMA}"""


def covered(abouts: Sequence[Mapping[str, Any]]) -> str:
  """Returns a hash of what a catalog must tell of the segments of a manifest.

  A program that knows of no catalogs leaves the old one in the manifest; so it is seen.
  """
  what = [[about['name'], about['videos'], about['captions'], sorted(about['removed'])] for about in abouts]
  return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def write(
  file: pathlib.Path,
  segments: Sequence[Segment],
  before: tuple[pathlib.Path, Sequence[Mapping[str, Any]]] | None,
) -> None:
  """Writes a catalog; the file appears only when it is whole and on the disk.

  Args:
    file: its name.
    segments: all of the index.
    before: an earlier catalog, and what the manifest said of the segments that it tells of. What has not changed since
      then is taken from it.
  """
  common = 0
  if before is not None:
    names = [about['name'] for about in before[1]]
    while common < min(len(names), len(segments)) and names[common] == segments[common].name:
      common += 1
  with files.replacing(file) as temporary:
    if common:
      try:
        _derive(temporary, segments, before[0], before[1][:common])
        return
      except (sqlite3.Error, OSError):  # It can be made from the segments alone.
        temporary.write_bytes(b'')
    with _writing(temporary) as connection:
      fill(connection, segments)


def fill(connection: sqlite3.Connection, segments: Sequence[Segment]) -> None:
  """Makes the tables in an empty database, of what segments say."""
  connection.executescript(_SCHEMA)
  _insert(connection, segments, 0, 0)


def complete(connection: sqlite3.Connection) -> None:
  """Lets a catalog that was written before something of videos was noted answer as one that does not know it."""
  there = {name for _, name, *_ in connection.execute('PRAGMA main.table_info(videos)')}
  later = {'size': 'NULL', 'written': 'NULL', 'said': "''"}
  if there and (absent := [f'{value} AS {name}' for name, value in later.items() if name not in there]):
    connection.execute('PRAGMA temp_store = MEMORY')
    connection.execute(f'CREATE TEMP VIEW videos AS SELECT *, {", ".join(absent)} FROM main.videos')


def is_catalog(file: pathlib.Path) -> bool:
  """Whether a file is a catalog, or the beginning of one."""
  with file.open('rb') as content:
    head = content.read(72)
  return not head or (head.startswith(_MAGIC) and head[68:72] == _MARK.to_bytes(4, 'big'))


@contextlib.contextmanager
def _writing(file: pathlib.Path) -> Iterator[sqlite3.Connection]:
  """Gives a connection to a file that nobody reads yet, so without a journal."""
  with contextlib.closing(sqlite3.connect(file)) as connection:
    connection.executescript('PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;')
    yield connection
    connection.commit()


def _derive(
  file: pathlib.Path, segments: Sequence[Segment], old: pathlib.Path, abouts: Sequence[Mapping[str, Any]]
) -> None:
  """Writes a catalog of an earlier one, whose first segments are those of `abouts`."""
  shutil.copyfile(old, file)
  place, number = sum(about['videos'] for about in abouts), sum(about['captions'] for about in abouts)
  gone = [
    (video,)
    for about, segment in zip(abouts, segments, strict=False)
    for video in segment.removed.difference(about['removed'])
  ]
  with _writing(file) as connection:
    texts.delete(connection, place, [video for (video,) in gone])
    connection.execute('DELETE FROM videos WHERE place >= ?', [place])
    connection.execute('DELETE FROM captions WHERE number >= ?', [number])
    connection.executemany('DELETE FROM videos WHERE id = ?', gone)
    connection.executemany('DELETE FROM captions WHERE video = ?', gone)
    _insert(connection, segments[len(abouts) :], place, number)


def _insert(connection: sqlite3.Connection, segments: Sequence[Segment], place: int, number: int) -> None:
  for segment in segments:
    connection.executemany(f'INSERT INTO videos VALUES ({", ".join("?" * 14)})', _video_rows(segment, place))
    connection.executemany(
      'INSERT INTO captions VALUES (?, ?, ?, ?, ?, ?)',
      (
        (number + own, c.caption_id, c.video_id, c.text, c.start, c.end)
        for own, c in enumerate(segment.captions)
        if c.video_id not in segment.removed
      ),
    )
    texts.insert(connection, segment, place)
    place, number = place + len(segment.entries), number + len(segment.captions)


def _video_rows(segment: Segment, place: int) -> Iterator[tuple[Any, ...]]:
  frames = np.diff(segment.offsets)
  for own, entry in enumerate(segment.entries):
    if entry.video_id in segment.removed:
      continue
    yield (
      place + own,
      entry.video_id,
      entry.title,
      entry.path,
      float(entry.start) if entry.start_known else None,
      entry.duration,
      entry.split,
      int(frames[own]),
      json.dumps({name: _plain(value) for name, value in entry.metadata.items()}, ensure_ascii=False),
      entry.digest,
      entry.dataset,
      entry.size,
      entry.written,
      entry.said,
    )


def _plain(value: Any) -> Any:
  """JSON knows no NaN and no infinities, and SQLite reads none."""
  if isinstance(value, list):
    return [_plain(one) for one in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
