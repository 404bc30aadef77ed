"""Measures an index as it grows: building it, adding one percent, searching meanwhile, opening it, and an engine.

    python -m dlkd_jax.tools.benchmark_index --frames=1000000
    python -m dlkd_jax.tools.benchmark_index --frames=40000 --engine=lancedb --pack=FOLDER

The frames are made up, structured ones of `random_gallery`, or those of a pack as `benchmark_search` takes it, and no
model encodes them: what is measured is the writing, committing and reading of the index alone. Videos have 20 to 80
frames, one scorer of 512 numbers, float16. Seconds are of the clock and of the processor; bytes are what the process
read and wrote, as the system counts them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dlkd_jax import files, tables
from dlkd_jax.files import expand
from dlkd_jax.gallery import acceleration, changing, index_folder, quantization
from dlkd_jax.gallery.adding import SEGMENT_FRAMES
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.segments import Entry
from dlkd_jax.tools import benchmark_search, random_gallery
from dlkd_jax.vectors import unit

_MIB = 2**20
_HIDDEN, _FRAMES = 512, 50
_SCORER = 'teacher'
# Frames that are made; the others are these, turned.
_POOL = 20_000


@dataclasses.dataclass(frozen=True)
class Work:
  """What something took: seconds of the clock and of the processor, bytes read and written, and most of the memory."""

  seconds: float
  processor: float
  read: int
  written: int
  memory: int


def measured(work: Callable[[], Any]) -> Work:
  """Does some work and says what it took."""
  held, done = [benchmark_search.memory()], threading.Event()

  def watch() -> None:
    while not done.wait(0.1):
      held.append(benchmark_search.memory())

  watching = threading.Thread(target=watch)
  watching.start()
  before, wall, own = _bytes(), time.perf_counter(), time.process_time()
  work()
  seconds, processor = time.perf_counter() - wall, time.process_time() - own
  read, written = (now - then for now, then in zip(_bytes(), before, strict=True))
  done.set()
  watching.join()
  return Work(seconds, processor, read, written, max(held) - held[0])


def _bytes() -> tuple[int, int]:
  """Returns the bytes that this process has read and written so far; 0 where the system does not tell."""
  try:
    found = dict(re.findall(r'(\w+): (\d+)', pathlib.Path('/proc/self/io').read_text(encoding='utf-8')))
  except OSError:
    return 0, 0
  return int(found['rchar']), int(found['wchar'])


Videos = Iterator[np.ndarray]


@functools.cache
def _pool() -> list[np.ndarray]:
  """Returns the frames of some videos."""
  rng = np.random.default_rng(7)
  offsets = random_gallery.random_offsets(_POOL, _FRAMES)
  some = random_gallery.frames(rng, 'structured', np.diff(offsets), _HIDDEN, unit(rng.standard_normal(_HIDDEN)))
  return np.split(some, offsets[1:-1])


def made_up(frames: int, seed: int) -> Videos:
  """Yields `[n, H]` float32 frames of videos, so many in all: those of one pool, turned differently each time."""
  rng, left = np.random.default_rng([7, seed]), frames
  while left:
    turned, signs = rng.permutation(_HIDDEN), rng.choice([-1, 1], _HIDDEN).astype(np.float32)
    for video in _pool():
      yield video[:left][:, turned] * signs
      left -= len(video[:left])
      if not left:
        return


def create(path: pathlib.Path, hidden: int = _HIDDEN) -> None:
  """Makes an index without videos."""
  manifest = {'dtype': 'float16', 'scorers': {_SCORER: hidden}, 'weights': {_SCORER: 1.0}, 'student': None}
  manifest |= {'features': {}, 'text': {}, 'settings': {'long_videos': 'windows'}}
  with index_folder.writing(path, create=True):
    IndexFolder.create(path, manifest, None)


def add(path: pathlib.Path, videos: Videos, name: str, segment_frames: int = SEGMENT_FRAMES) -> None:
  """Puts videos into an index as an addition does, in whole segments, small ones merged."""
  with index_folder.writing(path):
    folder = IndexFolder.open(path)
    folder.clear_away()
    writer = None
    for number, frames in enumerate(videos):
      writer = writer or folder.new_segment()
      rows = {_SCORER: quantization.encode(frames, 'float16')}
      entry = Entry(f'{name}/{number:06d}.mp4', f'video {number}', duration=float(len(frames)), split='gallery')
      writer.add(entry, np.arange(len(frames), dtype=np.float32), rows)
      if writer.frames >= segment_frames:
        folder.commit([writer.finish()])
        writer = None
    changing.commit_merged(folder, [writer.finish()] if writer else [], segment_frames)


def queries(path: pathlib.Path, count: int) -> np.ndarray:
  """Returns `[q, H]` vectors near frames of an index."""
  rng = np.random.default_rng(3)
  (rows, *_) = (segment.rows[_SCORER] for segment in IndexFolder.open(path).segments())
  places = np.sort(rng.integers(len(rows), size=count))
  near = rows.gather(places, places + 1).decode()
  return near + unit(rng.standard_normal(near.shape, np.float32))


def searches(gallery: Gallery, vectors: np.ndarray, **options: Any) -> list[tuple[float, float]]:
  """Returns the milliseconds of the clock and of the processor of searches, one query after another."""
  found = []
  for query in vectors:
    wall, own = time.perf_counter(), time.process_time()
    gallery.search_vectors({_SCORER: query[None]}, **options)
    found.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - own)))
  return found


def _median(times: list[tuple[float, float]]) -> str:
  clock, processor = np.median(times, axis=0)
  return f'median {clock:.1f} ms (processor {processor:.1f} ms) of {len(times)} queries'


def best(gallery: Gallery, vectors: np.ndarray, **options: Any) -> list[list[str]]:
  """Returns the ids of the ten best videos of each query."""
  return [[hit.video_id for hit in result.hits] for result in gallery.search_vectors({_SCORER: vectors}, **options)]


def measure(path: pathlib.Path, frames: int, count: int, additions: int) -> Iterator[tuple[str, str]]:
  """Builds an index of made-up frames and adds to it, and yields what was measured.

  A percent is added several times, and ten percent while it is searched.
  """
  create(path)
  _pool()
  whole = measured(lambda: add(path, made_up(frames, 0), 'first'))
  yield f'building, {frames:,} x {_HIDDEN}', _text(whole)
  before = benchmark_search.memory()
  gallery: list[Gallery] = []
  opening = measured(lambda: gallery.append(Gallery.open(path)))
  vectors = queries(path, count)
  for exact in (True, None):
    searches(gallery[0], vectors[:2], exact=exact)
    times = searches(gallery[0], vectors, exact=exact)
    yield 'exact search' if exact else 'search', _median(times)
  yield 'opening', f'{_text(opening)}; memory after the queries {(benchmark_search.memory() - before) / _MIB:,.0f} MiB'
  part = frames // 100
  works = []
  for number in range(additions):
    some = list(made_up(part, 1 + number))
    works.append(measured(lambda some=some, number=number: add(path, iter(some), f'more{number}')))
    segments = len(IndexFolder.open(path).manifest['segments'])
    yield f'addition {number + 1} of {part:,} frames', f'{_text(works[-1])}; {segments} segments'
  yield (
    'an addition against building, on average',
    ', '.join(
      f'{100 * sum(getattr(work, field) for work in works) / additions / getattr(whole, field):.2f}% of {what}'
      for field, what in (('processor', 'the processor'), ('seconds', 'the clock'), ('written', 'the bytes written'))
    ),
  )
  some = list(made_up(10 * part, 99))
  adding = threading.Thread(target=lambda: add(path, iter(some), 'last'))
  during: list[tuple[float, float]] = []
  adding.start()
  while adding.is_alive():
    during += searches(gallery[0], vectors[:1])
  adding.join()
  yield f'search while {10 * part:,} frames are added', _median(during)


def measure_engine(path: pathlib.Path, wanted: str, vectors: np.ndarray) -> Iterator[tuple[str, str]]:
  """Pushes an index into an engine, and yields what was measured."""
  expected = best(Gallery.open(path), vectors, exact=True)
  for name, choice in (('compressed frames', None), ('engine', wanted)):
    took = measured(lambda choice=choice: acceleration.accelerate(path, choice))
    before = benchmark_search.memory()
    gallery = Gallery.open(path)
    found = best(gallery, vectors, exact=False)
    times = searches(gallery, vectors, exact=False)
    share = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)])
    yield (
      f'{name}, {len(vectors)} queries',
      (
        f'prepared in {_text(took)}; recall@10 {share:.4f}, {_median(times)}, memory '
        f'{(benchmark_search.memory() - before) / _MIB:,.0f} MiB'
      ),
    )


def _text(work: Work) -> str:
  return (
    f'{work.seconds:.2f} s ({work.processor:.2f} s of the processor), {work.read / _MIB:,.1f} MiB read, '
    f'{work.written / _MIB:,.1f} MiB written, {work.memory / _MIB:,.0f} MiB of memory at most'
  )


def main(arguments: list[str] | None = None) -> None:
  """Runs the benchmark and prints one table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--frames', type=int, default=1_000_000, help='of the index; 0: the pack alone')
  parser.add_argument('--queries', type=int, default=20)
  parser.add_argument('--additions', type=int, default=8, help='of one percent, one after another')
  parser.add_argument('--engine', help='lancedb, or lancedb:ADDRESS: measured, too')
  parser.add_argument('--pack', type=expand, help='folder of real vectors, for the engine')
  parser.add_argument('--folder', type=expand, help='for the indexes; by default that of temporary files')
  parser.add_argument('--json', type=expand, help='file to write the table to')
  flags = parser.parse_args(arguments)
  if flags.frames and flags.frames < 2000:
    parser.error(f'--frames is {flags.frames}; expected 2,000 or more, or 0')
  rows: list[tuple[str, str]] = []
  with tempfile.TemporaryDirectory(dir=flags.folder) as temporary:
    made = pathlib.Path(temporary)
    if flags.frames:
      rows += measure(made / 'index', flags.frames, flags.queries, flags.additions)
      if flags.engine:
        rows += measure_engine(made / 'index', flags.engine, queries(made / 'index', flags.queries))
    if flags.pack:
      features, offsets, vectors = benchmark_search.read_pack(flags.pack)
      create(made / 'pack', features.shape[1])
      add(made / 'pack', iter(np.split(features, offsets[1:-1])), 'pack')
      some = vectors[np.linspace(0, len(vectors) - 1, min(flags.queries, len(vectors)), dtype=int)]
      rows += measure_engine(made / 'pack', flags.engine or 'lancedb', some)
  print(tables.as_markdown([('index', 'measured'), *rows], left=(0, 1)))
  if flags.json:
    files.write_json(flags.json, dict(rows))


if __name__ == '__main__':
  main()
