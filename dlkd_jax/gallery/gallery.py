"""A gallery that is searched: an index on disk, opened.

    gallery = Gallery.open('index')
    (result,) = gallery.search(['a dog jumps into a lake'], top=5)
    result.hits[0].video_id, result.hits[0].moments[0]

A query scores a video by the largest cosine over its frames, scorer by scorer, and the ranking is by the weighted sum
of these. The frame curve of a video is the same weighted sum at each frame.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dlkd_jax import files, sharding
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import acceleration, exact, filters
from dlkd_jax.gallery import weights as weights_lib
from dlkd_jax.gallery.encoding import open_student
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.moments import LEVEL, find_moments
from dlkd_jax.gallery.results import Hit, Moment, SearchResult
from dlkd_jax.gallery.segments import Entry, Segment
from dlkd_jax.gallery.sentences import SentenceEncoder

# Which videos count: a filter, as it is written or read, or a function.
Where = filters.Filter | Callable[[Entry], bool] | Sequence[str] | Mapping[str, Any] | str | None
# Queries whose scores are held at once.
_QUERIES = 64
# Of hits and moments; nobody asks for more.
_MOST = 10**9
# A flat search in two stages asks for this many videos at least, and looks among the moments of twice as many.
_FLAT_VIDEOS = 250


@dataclasses.dataclass(frozen=True)
class _Wish:
  """What is asked of a ranking; see `Gallery.search`."""

  top: int
  offset: int
  moments: int
  weights: Mapping[str, float]
  threshold: float | None
  allowed: np.ndarray
  flat: bool
  level: float

  def __post_init__(self):
    for name, least in (('top', 1), ('offset', 0), ('moments', 1)):
      value = getattr(self, name)
      if not isinstance(value, int | np.integer) or not least <= value <= _MOST:
        raise UserError(f'{name} is {value!r}; expected a whole number from {least} to {_MOST:,}')
    if self.threshold is not None and not math.isfinite(self.threshold):
      raise UserError(f'threshold is {self.threshold}; expected a number, as scores are from -1 to 1')


class Gallery:
  """An index, opened for searching; it may be used from several threads.

  Attributes:
    path: folder of the index.
    scorers: their names; some of the student's branches and teacher.
    weights: scorer → weight where none is given.
    videos: id → what is known of it.
    captions: id → a sentence that came with the videos, with its video and moment.
  """

  def __init__(self, folder: IndexFolder, clip: str | None = None, videos: str | None = None, mesh: Mesh | None = None):
    """Takes an opened index; see `open`."""
    self.path, self._folder = folder.path, folder
    segments, self._catalog = folder.contents(videos)
    # Read after the segments: opening them may have found a newer manifest.
    self.scorers = tuple(folder.manifest['scorers'])
    self.weights: dict[str, float] = dict(folder.manifest['weights'])
    self._all_segments = segments
    self._segments = [segment for segment in segments if segment.entries]
    self._mesh = _mesh() if mesh is None else mesh
    self._searches = [exact.ExactSearch(segment.rows, segment.offsets, self._mesh) for segment in self._segments]
    # Ties are broken by name, so that the order in which videos were added does not matter.
    self._names = self._catalog.ranks()
    self._alive = self._names >= 0
    self.videos, self.captions = self._catalog.videos, self._catalog.captions_by_id
    self._encoder: SentenceEncoder | None = None
    self._compressed: acceleration.TwoStages | None = None
    self._clip, self._videos, self._opening = clip, videos, threading.Lock()

  @classmethod
  def open(
    cls,
    path: pathlib.Path | str,
    clip: str | None = None,
    videos: str | None = None,
    mesh: Mesh | None = None,
  ) -> Gallery:
    """Opens an index; nothing of the student or the text backbone is loaded before the first sentence.

    Args:
      path: its folder.
      clip: folder of its CLIP, where that has moved since the index was made.
      videos: folder of the video files, where that has moved.
      mesh: devices that share the frames; by default all accelerators of this process, or the CPU.

    Raises:
      FileNotFoundError: there is no index.
      IndexFolderError: it is of another version or damaged.
    """
    return cls(IndexFolder.open(path), clip, videos, mesh)

  def __len__(self) -> int:
    return len(self.videos)

  @property
  def manifest(self) -> Mapping[str, Any]:
    """What the index says of itself."""
    return self._folder.manifest

  def is_changed(self) -> bool:
    """Whether the index on the disk is another one by now; errors are those of `open`."""
    return self._folder.is_changed()

  def reopen(self) -> Gallery:
    """Opens the index as it is now, beside this one, which stays what it is; errors are those of `open`.

    What encodes sentences is taken over, where it is the same.
    """
    newer = Gallery(IndexFolder.open(self.path), self._clip, self._videos, self._mesh)
    if all(newer.manifest[key] == self.manifest[key] for key in ('text', 'student', 'scorers')):
      newer._encoder = self._encoder
    return newer

  @property
  def sentences(self) -> SentenceEncoder:
    """Turns sentences into query vectors; loads the student."""
    with self._opening:
      if self._encoder is None:
        student = open_student(self._folder)
        self._encoder = SentenceEncoder(self._folder.manifest['text'], self.scorers, student, self._clip)
      return self._encoder

  def search(
    self,
    queries: Sequence[str],
    top: int = 10,
    offset: int = 0,
    moments: int = 1,
    weights: Mapping[str, float] | None = None,
    threshold: float | None = None,
    where: Where = None,
    exact: bool | None = None,
    flat: bool = False,
    level: float = LEVEL,
  ) -> list[SearchResult]:
    """Searches with sentences.

    Args:
      queries: sentences; a lone one will do.
      top, offset, moments, weights, threshold, where, exact, flat, level: as of `search_vectors`.

    Returns:
      A result a query.

    Raises:
      ValueError: a sentence is empty, or an argument is out of range.
      IndexFolderError: sentences cannot be encoded: the text backbone of the index is unknown or not there.
    """
    start = time.perf_counter()
    queries = [queries] if isinstance(queries, str) else list(queries)
    if not queries:
      return []
    vectors = self.sentences(queries)
    results = self.search_vectors(
      vectors, queries, top, offset, moments, weights, threshold, where, exact, flat, level, started=start
    )
    used = [name for name, weight in weights_lib.choose(self.scorers, weights, self.weights).items() if weight]
    return [dataclasses.replace(result, notes=self.sentences.notes(result.query, used)) for result in results]

  def search_captions(self, caption_ids: Sequence[str], top: int = 10, **wishes: Any) -> list[SearchResult]:
    """Searches with captions that came with the videos; needs no text backbone.

    Args:
      caption_ids: ids of `captions`.
      top: most hits a query.
      **wishes: as of `search_vectors`.

    Raises:
      ValueError: there is no such caption, or an argument is out of range.
    """
    for name in caption_ids:
      files.check_characters(name, 'the id of a caption')
    if odd := [name for name in caption_ids if name not in self.captions]:
      raise UserError(
        f'there is no caption {odd[0]!r} in this index, which has {len(self.captions)}; '
        '`python -m dlkd_jax.index info --captions` lists them'
      )
    if not caption_ids:
      return []
    vectors = self.caption_vectors(caption_ids)
    return self.search_vectors(vectors, [self.captions[name].text for name in caption_ids], top, **wishes)

  def caption_vectors(self, caption_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the query vectors of captions, scorer → `[q, H]` float32."""
    places = [self._catalog.caption_place(name) for name in caption_ids]
    return {
      name: np.stack([self._all_segments[s].caption_vectors[name][number] for s, number in places]).astype(np.float32)
      for name in self.scorers
    }

  def search_vectors(
    self,
    vectors: Mapping[str, np.ndarray],
    names: Sequence[str] | None = None,
    top: int = 10,
    offset: int = 0,
    moments: int = 1,
    weights: Mapping[str, float] | None = None,
    threshold: float | None = None,
    where: Where = None,
    exact: bool | None = None,
    flat: bool = False,
    level: float = LEVEL,
    started: float | None = None,
  ) -> list[SearchResult]:
    """Searches with query vectors.

    Args:
      vectors: scorer → `[q, H]`; scorers of weight 0 may be left out.
      names: what to call the queries in the results.
      top: most hits a query.
      offset: hits that are passed over: `offset=10, top=10` is the second page.
      moments: most moments a hit; with `flat`, of a video.
      weights: scorer → weight, 0 where not named; None: those of the index. `{'teacher': 1}` is zero-shot.
      threshold: least score of a hit.
      where: which videos count: a filter as `filters.parse` reads it, or a function of an `Entry`.
      exact: False searches in two stages, which must have been prepared; None and True exactly. Pages far behind the
        first ones are ranked exactly in either case.
      flat: a hit is one moment, and videos may come several times, instead of one hit a video.
      level: of `find_moments`.
      started: `time.perf_counter()` at which the search is said to have begun.

    Returns:
      A result a query. Its `total` counts videos before `top` and `offset`; None where they were not all scored.

    Raises:
      ValueError: an argument is out of range, or vectors do not fit.
    """
    start = time.perf_counter() if started is None else started
    weights = weights_lib.choose(self.scorers, weights, self.weights)
    count = len(next(iter(vectors.values()))) if vectors else 0
    names = [f'query {number + 1}' for number in range(count)] if names is None else list(names)
    if len(names) != count:
      raise UserError(f'there are {len(names)} names of queries, and vectors of {count}')
    if odd := [name for name, weight in weights.items() if weight and name not in vectors]:
      raise UserError(f'there is a weight for {odd[0]}, and there are query vectors of {sorted(vectors)}')
    wish = _Wish(top, offset, moments, weights, threshold, self._allowed(where), flat, level)
    hits: list[tuple[tuple[Hit, ...], int | None]] = []
    for first in range(0, count, _QUERIES):
      some = {name: np.asarray(array)[first : first + _QUERIES] for name, array in vectors.items()}
      hits += self._rank(some, wish, exact)
    seconds = time.perf_counter() - start
    return [SearchResult(name, found, total, seconds) for name, (found, total) in zip(names, hits, strict=True)]

  def _allowed(self, where: Any) -> np.ndarray:
    """Returns `[V]` bool, the videos that count."""
    if where is None:
      return self._alive
    if callable(where) and not isinstance(where, filters.Filter):
      return self._catalog.filter(where)
    keep = where if isinstance(where, filters.Filter) else filters.parse(where)
    return self._catalog.select(keep.sql, keep.parameters)

  def _rank(self, vectors: Mapping[str, np.ndarray], wish: _Wish, is_exact: bool | None):
    """Returns for each query its hits, and how many videos the whole ranking has, None where that is not known."""
    used = {name: vectors[name] for name, weight in wish.weights.items() if weight}
    fused = self._in_two_stages(used, wish) if is_exact is False else self._exactly(used, wish)
    least = np.finfo(np.float32).min if wish.threshold is None else wish.threshold
    ranked = []
    for query in range(len(fused)):
      places = np.flatnonzero(wish.allowed & (fused[query] >= least))
      if wish.threshold is None:
        total: int | None = int(wish.allowed.sum())
      else:
        total = len(places) if np.isfinite(fused[query][wish.allowed]).all() else None
      own = {name: array[query] for name, array in vectors.items()}
      pick = self._moments if wish.flat else self._page
      ranked.append((pick(own, fused[query], places, wish), total))
    return ranked

  def _exactly(self, used: Mapping[str, np.ndarray], wish: _Wish) -> np.ndarray:
    """Returns the scores `[q, V]` of all videos."""
    parts = [search.video_scores(used) for search in self._searches]
    count = len(next(iter(used.values())))
    scores = {name: np.concatenate([np.zeros((count, 0), np.float32), *(p[name] for p in parts)], 1) for name in used}
    return exact.fuse(scores, wish.weights)

  def _in_two_stages(self, used: Mapping[str, np.ndarray], wish: _Wish) -> np.ndarray:
    """Returns the scores `[q, V]` of the best videos, minus infinity for all others.

    Raises:
      UserError: the index is not prepared for it.
    """
    with self._opening:
      if self._compressed is None:
        self._compressed = acceleration.TwoStages(self._folder, self._segments, self._searches)
    count = wish.offset + wish.top
    # A moment's score says less of its video's than a video's own.
    candidates = acceleration.candidates(max(count, _FLAT_VIDEOS) if wish.flat else count)
    if candidates is None:
      return self._exactly(used, wish)
    return self._compressed.scores(used, wish.weights, candidates, wish.allowed)

  def _page(self, query: Mapping[str, np.ndarray], scores: np.ndarray, places: np.ndarray, wish: _Wish):
    """Returns the hits of one page of the ranking of some videos."""
    order = self._first(scores, places, wish.offset + wish.top)[wish.offset :]
    return tuple(self._hit(query, int(place), float(scores[place]), wish) for place in order)

  def _moments(self, query: Mapping[str, np.ndarray], scores: np.ndarray, places: np.ndarray, wish: _Wish):
    """Returns one page of the ranking of moments.

    No frame of a video scores more than the video, whose scorers may be best at different frames. So videos are taken
    in the order of their scores until the next one cannot change the page.
    """
    wanted, found, done = wish.offset + wish.top, [], 0
    while done < len(places):
      order = self._first(scores, places, min(len(places), max(wanted, 2 * done)))
      for place in order[done:]:
        if len(found) >= wanted and sorted((m.score for _, m in found), reverse=True)[wanted - 1] > scores[place]:
          done = len(places)
          break
        hit = self._hit(query, int(place), float(scores[place]), wish)
        found += [(hit, m) for m in hit.moments if wish.threshold is None or m.score >= wish.threshold]
      done = max(done, len(order))
    found.sort(key=lambda pair: (-pair[1].score, pair[0].video_id, pair[1].start))
    page = found[wish.offset : wanted]
    return tuple(dataclasses.replace(hit, score=moment.score, moments=(moment,)) for hit, moment in page)

  def _first(self, scores: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Returns the first so many of some places, best first, of equal ones the one whose name comes first."""
    count = min(count, len(places))
    if not count:
      return places[:0]
    values = scores[places]
    least = np.partition(values, len(values) - count)[len(values) - count]
    reach = places[values >= least]
    return reach[np.lexsort((self._names[reach], -scores[reach]))][:count]

  def _hit(self, query: Mapping[str, np.ndarray], place: int, score: float, wish: _Wish) -> Hit:
    segment, video = self._where(place)
    one = {name: vector[None] for name, vector in query.items()}
    curves = {name: c[0] for name, c in exact.frame_scores(segment.rows, segment.offsets, video, one).items()}
    curve = exact.fuse(curves, wish.weights)
    times, entry = np.array(segment.times[segment.frames(video)]), self._catalog.entry(place)
    found: tuple[Moment, ...] = find_moments(times, curve, entry.duration, wish.moments, wish.level)
    return Hit(
      video_id=entry.video_id,
      score=score,
      scores={name: float(curves[name].max()) for name in self.scorers if name in curves},
      moments=found,
      times=times,
      curve=curve,
      title=entry.title,
      path=entry.path,
      duration=entry.duration,
      metadata=dict(entry.metadata),
    )

  def _where(self, place: int) -> tuple[Segment, int]:
    """Returns the segment of a video and its number there."""
    number, video = self._catalog.segment_of(place)
    return self._all_segments[number], video

  def frames(self, video_id: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the times of a video's frames, `[n]` seconds, and scorer → `[n, H]` float32 unit vectors of them.

    Raises:
      KeyError: there is no such video.
    """
    segment, video = self._where(self._catalog.place_of(video_id))
    rows = {name: part.decode() for name, part in segment.rows_of(video).items()}
    return np.array(segment.times[segment.frames(video)]), rows


def _mesh() -> Mesh | None:
  """The accelerators of this process; None: the CPU, whose virtual devices would share its cores."""
  devices = jax.local_devices()
  return sharding.make_mesh(devices) if devices[0].platform != 'cpu' else None
