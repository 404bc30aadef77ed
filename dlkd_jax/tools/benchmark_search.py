"""Measures search: exact and in two stages, its time, its memory, and what is lost by storing and by candidates.

    python -m dlkd_jax.tools.benchmark_search
    python -m dlkd_jax.tools.benchmark_search --rows=200000 --json=search.json
    python -m dlkd_jax.tools.benchmark_search --rows=0 --pack=clip_frames

The galleries are made up: `--rows` frame vectors of two scorers in videos of 20 to 80 frames, random ones (the hard
case: no video is like a query) and structured ones (dlkd_jax/tools/random_gallery.py). `--pack` measures real vectors
too: a folder with one .npz of `features` [n, H] and `offsets` [V+1], and one .npy of query vectors [q, H].

Recall@10 is the share of the ten best videos of a ranking that another one has among its ten: of int8 and float16
against float32, of two stages against exact search of the same stored rows. Milliseconds are of one query after
another, as the clock and as the processor count them: on a busy machine the clock's are longer. The rows lie in files
that are mapped; memory is what the process holds besides them.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dlkd_jax import files, tables
from dlkd_jax.errors import UserError
from dlkd_jax.files import expand
from dlkd_jax.gallery import exact, quantization, two_stage
from dlkd_jax.gallery.frame_index import FrameIndex
from dlkd_jax.tools import random_gallery
from dlkd_jax.tools.random_gallery import Gallery

_MIB = 2**20
WEIGHTS = {'inheritance': 0.7, 'exploration': 0.3}
TOP = 10
CANDIDATES = (100, 200, two_stage.CANDIDATES, 1000)
PACK_CANDIDATES = (20, 50, 100, 200, two_stage.CANDIDATES)
_HIDDEN, _FRAMES, _BLOCK = 384, 50, 4096


def timed(function: Callable[[int], Any], repeats: int) -> dict[str, float]:
  """Calls a function with 0, 1, … and returns milliseconds: `first`, then `best`, `median`, `processor` (median)."""
  clock, processor = [], []
  for number in range(repeats + 1):
    wall, own = time.perf_counter(), time.process_time()
    function(number)
    clock.append(1e3 * (time.perf_counter() - wall))
    processor.append(1e3 * (time.process_time() - own))
  return {
    'first': clock[0],
    'best': min(clock[1:]),
    'median': float(np.median(clock[1:])),
    'processor': float(np.median(processor[1:])),
  }


def memory() -> int:
  """Returns the bytes that the process holds, without mapped files; 0 where the system does not tell."""
  try:
    found = re.search(r'RssAnon:\s+(\d+) kB', pathlib.Path('/proc/self/status').read_text(encoding='utf-8'))
  except OSError:
    return 0
  return int(found[1]) * 1024 if found else 0


def recall(found: np.ndarray, expected: np.ndarray) -> float:
  """Returns the share of expected videos found: `[q, n]` and `[q, n]` indexes."""
  return float(np.mean([len(set(f) & set(e)) / len(e) for f, e in zip(found.tolist(), expected.tolist(), strict=True)]))


def measure_exact(gallery: Gallery, repeats: int) -> dict[str, Any]:
  """Measures exact search of one query and of eight at once."""
  before = memory()
  search = exact.ExactSearch(gallery.stored, gallery.offsets)
  weights = {name: WEIGHTS[name] for name in gallery.stored}

  def ask(number: int, count: int) -> None:
    part = slice(number % len(next(iter(gallery.queries.values()))), None)
    exact.top_videos(search.video_scores(_part(gallery.queries, part, count)), weights, TOP)

  found = {f'{count}_queries': timed(lambda i, count=count: ask(i, count), repeats) for count in (1, 8)}
  return found | {'stored_bytes': gallery.nbytes, 'memory_bytes': memory() - before, 'load': os.getloadavg()[0]}


def measure_numpy(gallery: Gallery, repeats: int) -> dict[str, float]:
  """Measures what exact search stands in for: NumPy's products of blocks of float16 rows, the largest of each video."""

  def ask(number: int) -> None:
    fused = np.zeros(len(gallery.offsets) - 1, np.float32)
    for name, rows in gallery.stored.items():
      query = gallery.queries[name][number % len(gallery.queries[name])]
      blocks = [rows.values[at : at + _BLOCK].astype(np.float32) @ query for at in range(0, len(rows.values), _BLOCK)]
      fused += WEIGHTS[name] * np.maximum.reduceat(np.concatenate(blocks), gallery.offsets[:-1])
    np.argpartition(-fused, TOP)

  return timed(ask, repeats)


def measure_two_stages(
  gallery: Gallery, weights: Mapping[str, float], numbers: tuple[int, ...], repeats: int
) -> dict[str, Any]:
  """Builds the indexes of a gallery and measures search with each number of candidates."""
  before, clock, own = memory(), time.perf_counter(), time.process_time()
  indexes = {name: FrameIndex.build(rows) for name, rows in gallery.stored.items()}
  found: dict[str, Any] = {
    'build_seconds': time.perf_counter() - clock,
    'build_processor_seconds': time.process_time() - own,
    'index_bytes': sum(index.nbytes for index in indexes.values()),
    'memory_bytes': memory() - before,
  }
  expected, _ = exact.top_videos(exact.video_scores(gallery.stored, gallery.offsets, gallery.queries), weights, TOP)

  def ask(queries: Mapping[str, np.ndarray], candidates: int) -> np.ndarray:
    hits = two_stage.search(indexes, gallery.stored, gallery.offsets, queries, weights, TOP, candidates)
    return np.stack([hit.videos for hit in hits])

  found['candidates'] = {}
  for number in numbers:
    measured = timed(lambda i, number=number: ask(_part(gallery.queries, slice(i, None), 1), number), repeats)
    measured['recall'] = recall(ask(gallery.queries, number), expected)
    found['candidates'][str(number)] = measured
  return found | {'load': os.getloadavg()[0]}


def measure_pack(folder: pathlib.Path, count: int, repeats: int) -> dict[str, Any]:
  """Measures real vectors: what the stored forms lose for all queries, and search in two stages for `count` of them.

  Raises:
    ValueError: the folder does not hold what it should.
  """
  rows, offsets, queries = read_pack(folder)
  weights, vectors = {'inheritance': 1.0}, {'inheritance': queries}
  found: dict[str, Any] = {'rows': len(rows), 'videos': len(offsets) - 1, 'hidden': rows.shape[1]}
  found['queries'] = len(queries)
  tops = {}
  for dtype in ('float32', *quantization.DTYPES):
    stored = {'inheritance': quantization.encode(rows, dtype)}
    tops[dtype], _ = exact.top_videos(exact.video_scores(stored, offsets, vectors), weights, TOP)
    found[dtype] = {'bytes': stored['inheritance'].nbytes, 'recall': recall(tops[dtype], tops['float32'])}
  some = {'inheritance': queries[np.linspace(0, len(queries) - 1, min(count, len(queries)), dtype=int)]}
  numbers = tuple(number for number in PACK_CANDIDATES if number < len(offsets) - 1)
  for dtype in quantization.DTYPES:
    gallery = Gallery({'inheritance': quantization.encode(rows, dtype)}, offsets, some)
    repeats = min(repeats, len(some['inheritance']) - 1)
    found[dtype]['two_stage'] = measure_two_stages(gallery, weights, numbers, repeats)
  return found


def read_pack(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Reads features `[n, H]`, offsets `[V+1]` and queries `[q, H]` of a pack.

  Raises:
    ValueError: the folder does not hold what it should.
  """
  frames, texts = sorted(folder.glob('*.npz')), sorted(folder.glob('*.npy'))
  if len(frames) != 1 or len(texts) != 1:
    raise UserError(
      f'{folder} has {len(frames)} files .npz and {len(texts)} files .npy; expected one of each: `features` [n, H] '
      'with `offsets` [V+1], and query vectors [q, H].'
    )
  with np.load(frames[0], allow_pickle=False) as archive:
    if missing := {'features', 'offsets'} - set(archive.files):
      raise UserError(f'{frames[0]} has no {sorted(missing)}; it has {sorted(archive.files)}.')
    rows, offsets = archive['features'].astype(np.float32), archive['offsets']
  return rows, offsets, np.load(texts[0], allow_pickle=False)


def measure(rows: int, queries: int = 100, repeats: int = 20, folder: pathlib.Path | None = None) -> dict[str, Any]:
  """Measures made-up galleries of so many rows a scorer; their files are written below `folder`, and deleted."""
  offsets = random_gallery.random_offsets(rows, _FRAMES)
  found: dict[str, Any] = {'rows': rows, 'videos': len(offsets) - 1, 'hidden': _HIDDEN, 'scorers': len(WEIGHTS)}
  found |= {'cores': len(os.sched_getaffinity(0)), 'frames': two_stage.FRAMES, 'exact': {}, 'two_stage': {}}
  for kind, dtype in (('structured', 'float16'), ('structured', 'int8'), ('random', 'int8')):
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
      gallery = random_gallery.make(
        pathlib.Path(temporary), kind, dtype, offsets, _HIDDEN, tuple(WEIGHTS), max(queries, repeats + 1)
      )
      if dtype not in found['exact']:
        found['exact'][dtype] = measure_exact(gallery, repeats)
      if dtype == 'float16':
        found['numpy'] = measure_numpy(gallery, repeats)
      if dtype == 'int8':
        numbers = tuple(number for number in CANDIDATES if number < len(offsets) - 1) or (20,)
        found['two_stage'][kind] = measure_two_stages(gallery, WEIGHTS, numbers, repeats)
  return found


def table_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """Yields what was measured and how much, as text."""
  if found['rows']:
    size = f'{found["rows"]:,} x {found["scorers"]} x {found["hidden"]}'
    for dtype, r in found['exact'].items():
      one, eight = r['1_queries'], r['8_queries']
      yield (
        f'exact search, {size}, {dtype}',
        f'{_times(one)}; eight queries {eight["median"]:.0f} ms; rows {r["stored_bytes"] / _MIB:,.0f} MiB mapped, '
        f'memory {r["memory_bytes"] / _MIB:,.0f} MiB; load {r["load"]:.1f}',
      )
    yield f'the same by NumPy in blocks, {size}, float16', _times(found['numpy'])
    for kind, r in found['two_stage'].items():
      yield from _two_stage_rows(f'{kind}, {size}', r)
  if pack := found.get('pack'):
    size = f'real frames, {pack["rows"]:,} x {pack["hidden"]}'
    for dtype in quantization.DTYPES:
      yield f'{dtype} against float32, {size}, {pack["queries"]:,} queries', f'recall@{TOP} {pack[dtype]["recall"]:.4f}'
      yield from _two_stage_rows(f'{size}, {dtype}', pack[dtype]['two_stage'])


def _two_stage_rows(name: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  yield (
    f'index of frames, {name}',
    f'built in {found["build_seconds"]:.1f} s ({found["build_processor_seconds"]:.1f} s of one core), '
    f'{found["index_bytes"] / _MIB:,.0f} MiB; load {found["load"]:.1f}',
  )
  for number, r in found['candidates'].items():
    yield f'two stages, {name}, {number} candidates', f'recall@{TOP} {r["recall"]:.3f}, {_times(r)}'


def _times(measured: Mapping[str, float]) -> str:
  return f'best {measured["best"]:.1f} ms, median {measured["median"]:.1f} ms, processor {measured["processor"]:.1f} ms'


def _part(queries: Mapping[str, np.ndarray], start: slice, count: int) -> dict[str, np.ndarray]:
  return {name: array[start][:count] for name, array in queries.items()}


def main(arguments: list[str] | None = None) -> None:
  """Runs the benchmark and prints one table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rows', type=int, default=1_000_000, help='frame vectors of each scorer; 0: the pack alone')
  parser.add_argument('--queries', type=int, default=100, help='for recall')
  parser.add_argument('--repeats', type=int, default=20, help='queries timed')
  parser.add_argument('--pack', type=expand, help='folder of real vectors')
  parser.add_argument('--folder', type=expand, help='for the made-up rows; by default that of temporary files')
  parser.add_argument('--json', type=expand, help='file to write all numbers to')
  flags = parser.parse_args(arguments)
  if flags.rows and flags.rows < 2000:
    parser.error(f'--rows is {flags.rows}; expected 2,000 or more, or 0 for the pack alone')
  if flags.queries < 2 or flags.repeats < 1:
    parser.error('--queries is 2 or more, and --repeats 1 or more')
  if not flags.rows and not flags.pack:
    parser.error('with --rows=0 there is nothing to measure but a pack; add --pack')
  found: dict[str, Any] = {'rows': 0}
  if flags.rows:
    found = measure(flags.rows, flags.queries, flags.repeats, flags.folder)
  if flags.pack:
    try:
      found['pack'] = measure_pack(flags.pack, flags.queries, flags.repeats)
    except ValueError as error:
      parser.error(str(error))
  print(tables.as_markdown([('search', 'measured'), *table_rows(found)], left=(0, 1)))
  if flags.json:
    files.write_json(flags.json, found)


if __name__ == '__main__':
  main()
