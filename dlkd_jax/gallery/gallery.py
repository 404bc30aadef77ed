"""A gallery that is searched: an index on disk, opened.

    gallery = Gallery.open('index')
    (result,) = gallery.search(['a dog jumps into a lake'], top=5)
    result.hits[0].video_id, result.hits[0].moments[0]

A query scores a video by the largest cosine over its frames, scorer by scorer, and the ranking is by the weighted sum
of these. The frame curve of a video is the same weighted sum at each frame.
"""

from __future__ import annotations

import dataclasses
import functools
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
from dlkd_jax.gallery import filters
from dlkd_jax.gallery import queries as queries_lib
from dlkd_jax.gallery import weights as weights_lib
from dlkd_jax.gallery.backends import Backends
from dlkd_jax.gallery.background import Background
from dlkd_jax.gallery.encoding import open_student
from dlkd_jax.gallery.facets import facets
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.moments import LEVEL
from dlkd_jax.gallery.pictures import PictureEncoder
from dlkd_jax.gallery.queries import Query
from dlkd_jax.gallery.ranking import TEXT_WEIGHT, Ranking, SearchOptions, ranked
from dlkd_jax.gallery.results import Hit, SearchResult
from dlkd_jax.gallery.segments import Cue, Entry
from dlkd_jax.gallery.sentences import SentenceEncoder
from dlkd_jax.gallery.texts import Match, Texts

# Which videos count: a filter, as it is written or read, or a function.
Where = filters.Filter | Callable[[Entry], bool] | Sequence[str] | Mapping[str, Any] | str | None
# Frames of a gallery that queries are quickly compared with one by one.
_SMALL = 1 << 17
# Queries whose scores are held at once.
_QUERIES = 64
# A flat search in two stages asks for this many videos at least, and looks among the moments of twice as many.
_FLAT_VIDEOS = 250


class Gallery:
  """An index, opened for searching; it may be used from several threads.

  Attributes:
    path: folder of the index.
    scorers: their names; some of the student's branches and teacher.
    weights: scorer → weight where none is given.
    videos: id → what is known of it.
    captions: id → a sentence that came with the videos, with its video and moment.
    texts: what is said in the videos, and of them.
    background: what scores mean something here.
  """

  def __init__(self, folder: IndexFolder, clip: str | None = None, videos: str | None = None, mesh: Mesh | None = None):
    """Takes an opened index; see `open`."""
    self.path, self._folder = folder.path, folder
    segments, self._catalog = folder.contents(videos)
    # Read after the segments: opening them may have found a newer manifest.
    self.scorers = tuple(folder.manifest['scorers'])
    self.weights: dict[str, float] = dict(folder.manifest['weights'])
    self._all_segments = segments
    self._backends = Backends(folder, segments, _mesh() if mesh is None else mesh)
    self._ranking = Ranking(segments, self._catalog, self.scorers)
    self._alive = self._ranking.names >= 0
    self.texts = Texts(self._catalog)
    self.background = Background()
    self.videos, self.captions = self._catalog.videos, self._catalog.captions_by_id
    self._encoder: SentenceEncoder | None = None
    self._clip, self._videos, self._mesh, self._opening = clip, videos, mesh, threading.Lock()

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

  @property
  def pictures(self) -> PictureEncoder:
    """Turns pictures into query vectors of the teacher."""
    return PictureEncoder(self._folder.manifest, self._clip)

  def search(
    self,
    queries: Sequence[str | Query] | str | Query,
    top: int = 10,
    offset: int = 0,
    moments: int = 1,
    weights: Mapping[str, float] | None = None,
    threshold: float | None = None,
    where: Where = None,
    exact: bool | None = None,
    flat: bool = False,
    level: float = LEVEL,
    text_weight: float = TEXT_WEIGHT,
  ) -> list[SearchResult]:
    """Searches with sentences, and whatever else a `Query` can be.

    Args:
      queries: sentences, or queries; a lone one will do.
      top, offset, moments, weights, threshold, where, exact, flat, level, text_weight: as of `search_vectors`. Where a
        query has a picture, which only the teacher can score, weights of others mean nothing.

    Returns:
      A result a query.

    Raises:
      ValueError: a sentence is empty, there is no such caption or video, or an argument is out of range.
      IndexFolderError: sentences or pictures cannot be encoded: the backbone of the index is unknown or not there.
    """
    start = time.perf_counter()
    listed = [queries] if isinstance(queries, str | Query) else list(queries)
    asked = [Query(query) if isinstance(query, str) else query for query in listed]
    vectors = queries_lib.encode(self, asked)
    results: dict[int, SearchResult] = {}
    for scorers in dict.fromkeys(tuple(each) for each in vectors):
      numbers = [number for number, each in enumerate(vectors) if tuple(each) == scorers]
      some = [asked[number] for number in numbers]
      together = {name: np.stack([vectors[number][name] for number in numbers]) for name in scorers}
      chosen = weights_lib.among(scorers, weights_lib.choose(self.scorers, weights, self.weights))
      names = [query.label(self.captions) for query in some]
      found = self.search_vectors(
        together, names, top, offset, moments, chosen, threshold, where, exact, flat, level, start, some, text_weight
      )
      used = [name for name, weight in chosen.items() if weight]
      for number, query, result in zip(numbers, some, found, strict=True):
        said = () if query.text is None else self.sentences.notes(query.text, used)
        results[number] = self.background.judge(self, dataclasses.replace(result, notes=said), query, chosen)
    return [results[number] for number in range(len(asked))]

  def scores(self, vectors: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Returns `[q, V]` float32, the weighted sums of all videos that count, and minus infinity for others.

    Where the gallery is searched in two stages, it is minus infinity for all but the best videos, too.

    Args:
      vectors: scorer → `[q, H]`, of the scorers with a weight.
      weights: scorer → weight.
    """
    used = {name: vectors[name] for name, weight in weights.items() if weight}
    # Of a small gallery one by one, for which the program is there already.
    step = 1 if sum(len(segment.times) for segment in self._all_segments) < _SMALL else _QUERIES
    count = len(next(iter(used.values())))
    parts = [{name: array[at : at + step] for name, array in used.items()} for at in range(0, count, step)]
    found = np.concatenate([self._backends.scores(part, weights, 1, self._alive, None) for part in parts])
    return np.where(self._alive, found, np.float32(-np.inf))

  def search_captions(self, caption_ids: Sequence[str], top: int = 10, **options: Any) -> list[SearchResult]:
    """Searches with captions that came with the videos; needs no text backbone. As `search` of `Query(caption=…)`."""
    return self.search([Query(caption=name) for name in caption_ids], top, **options)

  def caption_vectors(self, caption_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the query vectors of captions, scorer → `[q, H]` float32.

    Raises:
      ValueError: there is no such caption.
    """
    for name in caption_ids:
      files.check_characters(name, 'the id of a caption')
    if odd := [name for name in caption_ids if name not in self.captions]:
      raise UserError(
        f'there is no caption {odd[0]!r} in this index, which has {len(self.captions)}; '
        '`dlkd info --captions` lists them'
      )
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
    asked: Sequence[Query] | None = None,
    text_weight: float = TEXT_WEIGHT,
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
      exact: True scores all videos, False the best after a first stage, for which the index must be prepared; None:
        whichever costs less. Pages far behind the first ones are ranked exactly in any case.
      flat: a hit is one moment, and videos may come several times, instead of one hit a video.
      level: of `find_moments`.
      started: `time.perf_counter()` at which the search is said to have begun.
      asked: the queries that the vectors are of: their words are looked for in the texts of videos, too, and the video
        of a moment is left out.
      text_weight: of what texts say, against the pictures; 0 leaves it out. See `ranking`.

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
    queries = [None] * count if asked is None else list(asked)
    options = SearchOptions(top, offset, moments, weights, threshold, self._allowed(where), flat, level, text_weight)
    hits: list[tuple[tuple[Hit, ...], int | None, float | None]] = []
    for first in range(0, count, _QUERIES):
      some = {name: np.asarray(array)[first : first + _QUERIES] for name, array in vectors.items()}
      hits += self._rank(some, options, exact, queries[first : first + _QUERIES])
    seconds = time.perf_counter() - start
    return [
      SearchResult(name, found, total, seconds, asked=query, best=best)
      for name, query, (found, total, best) in zip(names, queries, hits, strict=True)
    ]

  def _allowed(self, where: Any) -> np.ndarray:
    """Returns `[V]` bool, the videos that count."""
    if where is None:
      return self._alive
    if callable(where) and not isinstance(where, filters.Filter):
      return self._catalog.filter(where)
    keep = where if isinstance(where, filters.Filter) else filters.parse(where)
    return self._catalog.select(keep.sql, keep.parameters)

  def _rank(
    self,
    vectors: Mapping[str, np.ndarray],
    options: SearchOptions,
    is_exact: bool | None,
    asked: Sequence[Query | None],
  ) -> list[tuple[tuple[Hit, ...], int | None, float | None]]:
    """Returns for each query its hits, how many videos the whole ranking has, and the best score by the pictures.

    The latter are None where they are not known.
    """
    used = {name: vectors[name] for name, weight in options.weights.items() if weight}
    count = options.offset + options.top
    # A moment's score says less of its video's than a video's own.
    count = max(count, _FLAT_VIDEOS) if options.flat else count
    fused = self._backends.scores(used, options.weights, count, options.allowed, is_exact)
    found = []
    for number, query in enumerate(asked):
      allowed = self._without_own(options.allowed, query)
      matches = self._matches(query, allowed) if options.text_weight else ()
      order = ranked(fused[number], allowed, options.threshold, matches, options.text_weight)
      total: int | None = len(order.places)
      if options.threshold is None:
        total = int(allowed.sum())
      elif not np.isfinite(fused[number][allowed]).all():
        total = None
      own = {name: array[number] for name, array in vectors.items()}
      pick = self._ranking.moments if options.flat else self._ranking.page
      best = float(fused[number][allowed].max(initial=-np.inf))
      found.append((pick(own, order, options), total, best if np.isfinite(best) else None))
    return found

  def _without_own(self, allowed: np.ndarray, query: Query | None) -> np.ndarray:
    """Returns the videos that count, without that of the moment which others are to be like."""
    if query is None or query.like is None or query.own:
      return allowed
    return allowed & (np.arange(len(allowed)) != self._catalog.place_of(query.like[0]))

  def _matches(self, query: Query | None, allowed: np.ndarray) -> Sequence[Match]:
    """Returns the videos whose texts hold the words of a query."""
    if query is None or not query.words or not self.texts.count:
      return ()
    said = (query.text or '') if query.caption is None else self.captions[query.caption].text
    return self.texts.find(said, allowed)

  def cues(self, video_id: str) -> list[Cue]:
    """Returns what is said in a video, in order; KeyError where there is no such video."""
    place = self._catalog.place_of(video_id)
    return [Cue(video_id, start, end, text, track) for start, end, track, text in self.texts.cues(place)]

  @functools.cached_property
  def facets(self) -> Mapping[str, Any]:
    """What there is to filter by; see `facets.facets`."""
    return facets(self._catalog)

  def frames(self, video_id: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the times of a video's frames, `[n]` seconds, and scorer → `[n, H]` float32 unit vectors of them.

    Raises:
      KeyError: there is no such video.
    """
    segment, video = self._ranking.where(self._catalog.place_of(video_id))
    rows = {name: part.decode() for name, part in segment.rows_of(video).items()}
    return np.array(segment.times[segment.slice_of(video)]), rows


def _mesh() -> Mesh | None:
  """The accelerators of this process; None: the CPU, whose virtual devices would share its cores."""
  devices = jax.local_devices()
  return sharding.make_mesh(devices) if devices[0].platform != 'cpu' else None
