"""From the scores of videos to hits: which ones, in what order, and when in them.

Where words of the query stand in texts of videos, ranks by pictures and by texts are joined by reciprocal rank fusion
(Cormack et al., SIGIR 2009): a video counts 1 / (60 + rank by the pictures), and where a text holds a share of the
query, `weight` · share⁴ / (60 + rank by the texts) more: what holds a part alone is no more than a hint. With a weight
of 1 a video of which the whole query is said comes among the first, however large the gallery and whatever the pictures
show. Without such texts the order is that of the scores.
"""

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
from dlkd_jax.gallery.texts import Match

# Of hits and moments; nobody asks for more.
_MOST = 10**9
# What the first few ranks differ little by; as published.
_FUSION = 60
# The exponent of the share, and the weight; chosen on films of the rendered world that no result is reported on, see
# `tools.measure_queries`.
_STEEP, TEXT_WEIGHT = 4, 1.0


@dataclasses.dataclass(frozen=True)
class SearchOptions:
  """What is asked of a ranking; see `Gallery.search`."""

  top: int
  offset: int
  moments: int
  weights: Mapping[str, float]
  threshold: float | None
  allowed: np.ndarray
  flat: bool
  level: float
  text_weight: float = TEXT_WEIGHT

  def __post_init__(self):
    for name, least in (('top', 1), ('offset', 0), ('moments', 1)):
      value = getattr(self, name)
      if not isinstance(value, int | np.integer) or not least <= value <= _MOST:
        raise UserError(f'{name} is {value!r}; expected a whole number from {least} to {_MOST:,}')
    if self.threshold is not None and not math.isfinite(self.threshold):
      raise UserError(f'threshold is {self.threshold}; expected a number, as scores are from -1 to 1')
    if not 0 <= self.text_weight < float('inf'):
      raise UserError(f'text_weight is {self.text_weight}; expected a number from 0, which leaves texts out')


@dataclasses.dataclass(frozen=True)
class Ranked:
  """The videos that a query ranks.

  Attributes:
    scores: `[V]` by the pictures; minus infinity where that was not computed.
    values: `[V]`, by which they are ordered.
    places: those that count.
    matches: place → what texts hold of the query.
    by_texts: places whose texts count more than their rank by the pictures.
  """

  scores: np.ndarray
  values: np.ndarray
  places: np.ndarray
  matches: Mapping[int, Match] = dataclasses.field(default_factory=dict)
  by_texts: frozenset[int] = frozenset()


def ranked(scores: np.ndarray, allowed: np.ndarray, threshold: float | None, found: Sequence[Match], weight: float):
  """Returns a `Ranked` of scores `[V]` and of what texts hold of a query, the best share first.

  Args:
    scores: by the pictures; minus infinity where that was not computed.
    allowed: `[V]` bool, the videos that count.
    threshold: least score; a video that is found by texts counts without it.
    found: matches of allowed videos.
    weight: of the texts.
  """
  least = np.finfo(np.float32).min if threshold is None else threshold
  counts = allowed & (scores >= least)
  if not found:
    return Ranked(scores, scores, np.flatnonzero(counts))
  by_pictures = np.sort(scores[allowed & np.isfinite(scores)])
  # Equal ones share the better rank, so that no order among them matters.
  ranks = len(by_pictures) - np.searchsorted(by_pictures, scores, 'right') + 1
  values = np.where(np.isfinite(scores), 1.0 / (_FUSION + ranks), 0.0)
  shares = [match.share for match in found]
  more = {match.place: weight * match.share**_STEEP / (_FUSION + 1 + shares.index(match.share)) for match in found}
  said = frozenset(place for place, value in more.items() if value > values[place])
  for place, value in more.items():
    values[place] += value
    counts[place] = True
  return Ranked(scores, values, np.flatnonzero(counts), {match.place: match for match in found}, said)


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

  def page(self, query: Mapping[str, np.ndarray], ranked: Ranked, options: SearchOptions) -> tuple[Hit, ...]:
    """Returns the hits of one page of a ranking."""
    order = self.first(ranked.values, ranked.places, options.offset + options.top)[options.offset :]
    return tuple(self.hit(query, int(place), ranked, options) for place in order)

  def moments(self, query: Mapping[str, np.ndarray], ranked: Ranked, options: SearchOptions) -> tuple[Hit, ...]:
    """Returns one page of the ranking of moments, which the pictures alone make.

    No frame of a video scores more than the video, whose scorers may be best at different frames. So videos are taken
    in the order of their scores until the next one cannot change the page.
    """
    wanted, done = options.offset + options.top, 0
    found: list[tuple[Hit, Moment]] = []
    scores, places = ranked.scores, ranked.places
    while done < len(places):
      order = self.first(scores, places, min(len(places), max(wanted, 2 * done)))
      for place in order[done:]:
        if len(found) >= wanted and sorted((m.score for _, m in found), reverse=True)[wanted - 1] > scores[place]:
          done = len(places)
          break
        hit = self.hit(query, int(place), ranked, options)
        found += [(hit, m) for m in hit.moments if options.threshold is None or m.score >= options.threshold]
      done = max(done, len(order))
    found.sort(key=lambda pair: (-pair[1].score, pair[0].video_id, pair[1].start))
    page = found[options.offset : wanted]
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

  def hit(self, query: Mapping[str, np.ndarray], place: int, ranked: Ranked, options: SearchOptions) -> Hit:
    """Returns what is known of a video that was found."""
    segment, video = self.where(place)
    one = {name: vector[None] for name, vector in query.items()}
    curves = {name: c[0] for name, c in exact.frame_scores(segment.rows, segment.offsets, video, one).items()}
    curve = exact.fuse(curves, options.weights)
    times, entry = np.array(segment.times[segment.slice_of(video)]), self._catalog.entry(place)
    found: tuple[Moment, ...] = find_moments(times, curve, entry.duration, options.moments, options.level)
    match, by_texts = ranked.matches.get(place), place in ranked.by_texts
    if match and by_texts and not options.flat:
      found = _when_said(match, times, curve, found)[: options.moments]
    scores = {name: float(curves[name].max()) for name in self._scorers if name in curves}
    score = float(ranked.scores[place])
    if not math.isfinite(score):
      score = sum(weight * scores[name] for name, weight in options.weights.items() if weight)
    return Hit(
      video_id=entry.video_id,
      score=score,
      scores=scores,
      moments=found,
      times=times,
      curve=curve,
      title=entry.title,
      path=entry.path,
      duration=entry.duration,
      metadata=dict(entry.metadata),
      said=match.said if match else (),
      found_by='said' if by_texts else 'pictures',
    )

  def where(self, place: int) -> tuple[Segment, int]:
    """Returns the segment of a video and its number there."""
    number, video = self._catalog.segment_of(place)
    return self._segments[number], video


def _when_said(match: Match, times: np.ndarray, curve: np.ndarray, found: tuple[Moment, ...]) -> tuple[Moment, ...]:
  """Returns moments with the one at which it is said put first."""
  spoken = ((said.start, said.end) for said in match.said if said.start is not None and said.end is not None)
  if (when := next(spoken, None)) is None:
    return found
  start, end = when
  at = int(np.argmin(np.abs(times - (start + end) / 2)))
  first = Moment(start, end, min(max(float(times[at]), start), end), float(curve[at]))
  return first, *(each for each in found if each.end <= first.start or each.start >= first.end)
