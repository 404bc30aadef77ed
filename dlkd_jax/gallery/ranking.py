"""From the scores of videos to hits: which ones, in what order, and when in them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import exact
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.moments import find_moments
from dlkd_jax.gallery.results import Hit, Moment
from dlkd_jax.gallery.segments import Segment

# Of hits and moments; nobody asks for more.
_MOST = 10**9


@dataclasses.dataclass(frozen=True)
class Wish:
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


class Ranking:
  """Makes hits of the videos of an index.

  Attributes:
    names: `[V]`, the number of each video in the order of ids, by which ties are broken, so that the order in which
      videos were added does not matter; -1 at removed ones.
  """

  def __init__(self, segments: Sequence[Segment], catalog: Catalog, scorers: Sequence[str]):
    """Takes all segments of an index, its catalog, and its scorers."""
    self._segments, self._catalog, self._scorers = segments, catalog, tuple(scorers)
    self.names = catalog.ranks()

  def page(self, query: Mapping[str, np.ndarray], scores: np.ndarray, places: np.ndarray, wish: Wish):
    """Returns the hits of one page of the ranking of some videos."""
    order = self.first(scores, places, wish.offset + wish.top)[wish.offset :]
    return tuple(self.hit(query, int(place), float(scores[place]), wish) for place in order)

  def moments(self, query: Mapping[str, np.ndarray], scores: np.ndarray, places: np.ndarray, wish: Wish):
    """Returns one page of the ranking of moments.

    No frame of a video scores more than the video, whose scorers may be best at different frames. So videos are taken
    in the order of their scores until the next one cannot change the page.
    """
    wanted, found, done = wish.offset + wish.top, [], 0
    while done < len(places):
      order = self.first(scores, places, min(len(places), max(wanted, 2 * done)))
      for place in order[done:]:
        if len(found) >= wanted and sorted((m.score for _, m in found), reverse=True)[wanted - 1] > scores[place]:
          done = len(places)
          break
        hit = self.hit(query, int(place), float(scores[place]), wish)
        found += [(hit, m) for m in hit.moments if wish.threshold is None or m.score >= wish.threshold]
      done = max(done, len(order))
    found.sort(key=lambda pair: (-pair[1].score, pair[0].video_id, pair[1].start))
    page = found[wish.offset : wanted]
    return tuple(dataclasses.replace(hit, score=moment.score, moments=(moment,)) for hit, moment in page)

  def first(self, scores: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Returns the first so many of some places, best first, of equal ones the one whose name comes first."""
    count = min(count, len(places))
    if not count:
      return places[:0]
    values = scores[places]
    least = np.partition(values, len(values) - count)[len(values) - count]
    reach = places[values >= least]
    return reach[np.lexsort((self.names[reach], -scores[reach]))][:count]

  def hit(self, query: Mapping[str, np.ndarray], place: int, score: float, wish: Wish) -> Hit:
    segment, video = self.where(place)
    one = {name: vector[None] for name, vector in query.items()}
    curves = {name: c[0] for name, c in exact.frame_scores(segment.rows, segment.offsets, video, one).items()}
    curve = exact.fuse(curves, wish.weights)
    times, entry = np.array(segment.times[segment.frames(video)]), self._catalog.entry(place)
    found: tuple[Moment, ...] = find_moments(times, curve, entry.duration, wish.moments, wish.level)
    return Hit(
      video_id=entry.video_id,
      score=score,
      scores={name: float(curves[name].max()) for name in self._scorers if name in curves},
      moments=found,
      times=times,
      curve=curve,
      title=entry.title,
      path=entry.path,
      duration=entry.duration,
      metadata=dict(entry.metadata),
    )

  def where(self, place: int) -> tuple[Segment, int]:
    """Returns the segment of a video and its number there."""
    number, video = self._catalog.segment_of(place)
    return self._segments[number], video
