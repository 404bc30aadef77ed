"""Whether anything in a gallery fits a sentence: its best score against those of other sentences in the same gallery.

A search always returns something. How high a score has to be to mean something depends on the model and on the gallery,
so it is measured against a background: up to 64 captions of the index, or, where it has none, the names of 64 things
that few galleries hold all of. The confidence in a hit is the share of them whose own best video scores lower. Below
`LEAST` nothing stands out.

What looks more natural, how far the best video or frame stands above the median of the gallery, tells hits from misses
hardly better than chance, and in the same units as the score of all others: see the README of this room for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.queries import Query
from dlkd_jax.gallery.results import SearchResult

if TYPE_CHECKING:
  from dlkd_jax.gallery.gallery import Gallery

COUNT, _FEWEST = 64, 16
# The highest below which lies at most a fifth of what is there: of captions of rendered films, and of names on real
# frames, on neither of which results are reported; see `tools.measure_queries` and `tools.measure_nothing`.
LEAST = {'captions': 0.2, 'names': 0.58}
NAMES = """
alcohol, ashtray, banjo, batter, bench, blanket, boots, briefcase, business card, canary, carrot, chaise longue,
chopsticks, coaster, common fig, cornmeal, crib, curling, dinghy, door handle, dumpster, eraser, fireplace,
folding chair, furniture, globe, grill, handbag, heater, hot dog, ice cream, jellyfish, kitchen table, lasagna, lily,
mammoth, mechanical fan, monkey, nest, orange, palm tree, peach, phonebook, pitchfork, pool table, propeller, railcar,
rifle, safety pin, scissors, shaver, shower head, slipper, soya milk, starfish, stretcher, sweater, taillight,
telephoto lens, tire, towel rack, truck, vehicle registration plate, washbasin
"""


class Background:
  """The best scores of other sentences in a gallery; computed when they are first asked for, once for some weights.

  It is of one gallery and does not hold it, so that the files of a gallery are let go of with its last reader.
  """

  def __init__(self):
    """Nothing is known yet."""
    self._levels: dict[tuple[tuple[str, float], ...], np.ndarray | None] = {}

  def judge(self, gallery: Gallery, result: SearchResult, query: Query, weights: Mapping[str, float]) -> SearchResult:
    """Returns a result with the confidence of each hit, and whether nothing stands out.

    Both stay None where the query is more than a sentence, or the background cannot be had. What is found by what is
    said stands out in any case.

    Args:
      gallery: that was searched.
      result: of the query.
      query: it.
      weights: scorer → weight that it was searched with.
    """
    if not _is_plain(query) or result.best is None or (levels := self.levels(gallery, weights)) is None:
      return result
    below = lambda score: int(np.searchsorted(levels, score)) / len(levels)  # noqa: E731
    hits = tuple(dataclasses.replace(hit, confidence=below(hit.score)) for hit in result.hits)
    said = any(hit.found_by == 'said' for hit in hits)
    return dataclasses.replace(result, hits=hits, nothing=not said and below(result.best) < LEAST[kind_of(gallery)])

  def levels(self, gallery: Gallery, weights: Mapping[str, float]) -> np.ndarray | None:
    """Returns the best scores of the background, rising; None where sentences cannot be encoded, or nothing is here."""
    key = tuple(sorted((name, weight) for name, weight in weights.items() if weight))
    if key not in self._levels:
      try:
        vectors = _vectors(gallery, [name for name, _ in key]) if len(gallery) else None
        self._levels[key] = None if vectors is None else np.sort(gallery.scores(vectors, weights).max(axis=1))
      except UserError:  # Sentences cannot be encoded here, or not as the frames were: a search does without.
        self._levels[key] = None
    return self._levels[key]


def kind_of(gallery: Gallery) -> str:
  """Returns 'captions' or 'names', of which the background of a gallery is made."""
  return 'captions' if len(gallery.captions) >= _FEWEST else 'names'


def _vectors(gallery: Gallery, scorers: Sequence[str]) -> dict[str, np.ndarray]:
  if kind_of(gallery) == 'captions':
    names = list(gallery.captions)
    chosen = [names[place] for place in np.linspace(0, len(names) - 1, COUNT).astype(int)]
    found = gallery.caption_vectors(chosen)
    return {name: found[name] for name in scorers}
  return gallery.sentences([name.strip() for name in NAMES.split(',')], scorers)


def _is_plain(query: Query) -> bool:
  """Whether a query is a sentence and nothing else, so that other sentences are its background."""
  return query.words and query.picture is None and query.like is None and not query.without
