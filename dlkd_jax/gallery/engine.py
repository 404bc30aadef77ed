"""An engine in place of compressed frames in memory: LanceDB names the candidates, from a disk or a bucket.

It holds a copy of every frame vector in one table, `frames`: `segment`, `row` in it, `number` of the video in it,
`video`, `time`, and a column for each scorer with an index over it (IVF with RabitQ codes). Candidates are scored
exactly from the stored rows all the same. The manifest notes which segments the table has and its version: a search
sees the table as it was then, whatever is pushed meanwhile, and scores other segments exactly.
"""

from __future__ import annotations

import importlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import index_folder
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import Segment

NAME = 'lancedb'
_TABLE = 'frames'
# Rows that are pushed at once, and from which on an index costs less than the engine's own scan.
_BLOCK_ROWS = 1 << 13
_INDEXED_ROWS = 50_000
# Of a table's partitions, one in so many is looked into.
_PROBED = 4
# A filter of more videos than this is applied to what was found, for which more is asked.
_MOST_NAMED = 20_000


def push(path: pathlib.Path, address: str | None) -> int:
  """Brings an engine to what an index holds: segments that it lacks go there, others and removed videos go away.

  Killed at any moment, the same call goes on.

  Args:
    path: folder of the index.
    address: where the engine's data are, anything that `lancedb.connect` takes: a folder, s3://…, gs://…, db://…; None:
      where they were, or in the folder of the index.

  Returns:
    Segments that went there.

  Raises:
    IndexFolderError: the index is damaged, or another process is changing it.
    UserError: the engine is not installed.
  """
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    there = folder.manifest.get('engine') or {}
    address = address or there.get('address')
    same = there if there.get('address') == address else {}
    state = {'name': NAME, 'address': address, 'version': 0, 'segments': list(same.get('segments', []))}
    table = _table(folder, address, create=True)
    folder.manifest['engine'] = state

    def note(segments: list[str]) -> None:
      state.update(segments=segments, version=table.version)
      folder.write_manifest()

    segments = {segment.name: segment for segment in folder.segments() if segment.entries}
    if gone := [name for name in state['segments'] if name not in segments]:
      table.delete(f'segment IN ({_listed(gone)})')
      note([name for name in state['segments'] if name in segments])
    new = [name for name in segments if name not in state['segments']]
    for name in new:
      table.delete(f'segment IN ({_listed([name])})')  # What a killed call left.
      table.add(_batches(table.schema, segments[name]))
      note([*state['segments'], name])
    for name, segment in segments.items():
      if segment.removed:
        table.delete(_of_videos(name, np.flatnonzero(~segment.alive())))
    _index(table, list(folder.manifest['scorers']))
    note(state['segments'])
    return len(new)


def open_frames(folder: IndexFolder, segments: Sequence[Segment]) -> dict[str, EngineFrames]:
  """Returns scorer → the frames of some segments, all of which the engine has.

  Raises:
    UserError: the engine is not installed, or has no such table.
  """
  about = folder.manifest['engine']
  table = _table(folder, about['address'])
  table.checkout(about['version'])
  return {name: EngineFrames(table, name, segments) for name in folder.manifest['scorers']}


class EngineFrames:
  """The frames of one scorer in a table, numbered through the segments that are searched.

  Attributes:
    filters: that `search` looks only among frames of the videos that are allowed.
  """

  filters = True

  def __init__(self, table: Any, scorer: str, segments: Sequence[Segment]):
    """Takes an open table."""
    self._table, self._scorer = table, scorer
    lengths = [len(segment.rows[scorer]) for segment in segments]
    self._starts = dict(zip((segment.name for segment in segments), np.cumsum([0, *lengths]).tolist(), strict=False))
    self._videos = np.cumsum([0, *(len(segment.offsets) - 1 for segment in segments)])
    self._size = sum(lengths), segments[0].rows[scorer].hidden
    index = [index.name for index in table.list_indices() if index.columns == [scorer]]
    self._probes = _partitions(table.count_rows()) // _PROBED + 1 if index else None

  def check(self, rows: int, hidden: int, name: str) -> None:
    """Checks that they are of so many rows of that size; errors are those of `FrameIndex.check`."""
    if self._size != (rows, hidden):
      raise UserError(f'{name} has {self._size[0]} vectors of {self._size[1]}, and the gallery {rows} of {hidden}')

  def search(self, queries: np.ndarray, count: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of about the largest products with queries.

    Args:
      queries: `[q, H]` float32.
      count: how many rows.
      allowed: `[V]` bool, the videos whose frames are looked for; by default all.

    Returns:
      `[q, count]` float32 approximate products and `[q, count]` int64 rows, -inf and -1 where there are no more.
    """
    where = None
    if allowed is not None and allowed.sum() <= min(_MOST_NAMED, len(allowed) - 1):
      parts = [np.flatnonzero(allowed[a:b]) for a, b in itertools.pairwise(self._videos)]
      chosen = [_of_videos(name, part) for name, part in zip(self._starts, parts, strict=False) if len(part)]
      where = f'({" OR ".join(chosen)})' if chosen else 'false'
    scores = np.full((len(queries), count), -np.inf, np.float32)
    rows = np.full((len(queries), count), -1, np.int64)
    for number, query in enumerate(queries):
      asked = self._table.search(query, vector_column_name=self._scorer).distance_type('cosine').limit(count)
      if self._probes is not None:
        asked = asked.nprobes(self._probes)
      if where is not None:
        asked = asked.where(where, prefilter=True)
      found = asked.select(['segment', 'row', '_distance']).to_arrow()
      starts = np.array([self._starts.get(name, -1) for name in found['segment'].to_pylist()], np.int64)
      known = starts >= 0
      size = int(known.sum())
      scores[number, :size] = 1 - found['_distance'].to_numpy()[known]
      rows[number, :size] = (starts + found['row'].to_numpy())[known]
    return scores, rows


def _lancedb() -> Any:
  try:
    return importlib.import_module('lancedb')
  except ModuleNotFoundError as error:
    raise UserError(
      "the frames of this index are in LanceDB, which is not installed: pip install 'dlkd_jax[lancedb]', or score "
      'every frame (--exact)'
    ) from error


def _table(folder: IndexFolder, address: str | None, create: bool = False) -> Any:
  """Opens the table of an index, or makes it."""
  database = _lancedb().connect(address or str(folder.path / NAME))
  if create:
    return database.create_table(_TABLE, schema=_schema(folder.manifest['scorers']), exist_ok=True)
  try:
    return database.open_table(_TABLE)
  except (ValueError, OSError) as error:
    where = address or folder.path / NAME
    raise UserError(
      f'there is no table of frames in {where} ({error}); push them again with `dlkd index accelerate --engine`'
    ) from error


def _schema(scorers: Mapping[str, int]) -> Any:
  pa = importlib.import_module('pyarrow')  # LanceDB needs it in any case.
  vectors = [(name, pa.list_(pa.float16(), size)) for name, size in scorers.items()]
  return pa.schema(
    [
      ('segment', pa.string()),
      ('row', pa.int64()),
      ('number', pa.int64()),
      ('video', pa.string()),
      ('time', pa.float32()),
      *vectors,
    ]
  )


def _batches(schema: Any, segment: Segment) -> Iterator[Any]:
  """Yields the rows of a segment, some at a time; those of removed videos are left out."""
  pa = importlib.import_module('pyarrow')
  videos = np.array([entry.video_id for entry in segment.entries], object)
  owner = np.repeat(np.arange(len(videos)), np.diff(segment.offsets))
  alive = segment.alive()[owner]
  for first in range(0, len(owner), _BLOCK_ROWS):
    part = slice(first, first + _BLOCK_ROWS)
    keep = alive[part]
    columns = [
      pa.array([segment.name] * int(keep.sum())),
      pa.array(np.arange(first, first + len(keep))[keep]),
      pa.array(owner[part][keep]),
      pa.array(videos[owner[part][keep]]),
      pa.array(np.asarray(segment.times[part])[keep]),
    ]
    for rows in segment.rows.values():
      vectors = rows[part].decode()[keep].astype(np.float16)
      columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), rows.hidden))
    yield pa.record_batch(columns, schema=schema)


def _index(table: Any, scorers: Sequence[str]) -> None:
  """Takes new rows into the indexes, or makes these where there are enough rows to gain by it."""
  count, there = table.count_rows(), {column for index in table.list_indices() for column in index.columns}
  table.optimize()
  if count < _INDEXED_ROWS:
    return
  config = importlib.import_module('lancedb.index')
  for column in (name for name in scorers if name not in there):
    kind = config.IvfRq if table.schema.field(column).type.list_size % 8 == 0 else config.IvfFlat
    table.create_index(column, config=kind('cosine', num_partitions=_partitions(count)))
  for column in (name for name in ('segment', 'number') if name not in there):
    table.create_index(column, config=config.BTree())


def _partitions(rows: int) -> int:
  """Returns how many partitions a table of so many rows has."""
  return max(1, int(rows**0.5) // 4)


def _listed(names: Sequence[str]) -> str:
  """Returns names of segments, which are numbers, as texts of SQL."""
  return ', '.join(f"'{name}'" for name in names)


def _of_videos(segment: str, numbers: np.ndarray) -> str:
  """Returns the condition for some videos of a segment."""
  return f"(segment = '{segment}' AND number IN ({', '.join(map(str, numbers.tolist()))}))"
