"""A gallery in memory: cosine search over made vectors, with the interface of the gallery on disk."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlkd_jax.gallery import filters
from dlkd_jax.gallery.entries import Cue
from dlkd_jax.gallery.moments import find_moments
from dlkd_jax.gallery.results import Hit, SearchResult

WIDTH = 256
WEIGHTS = {'inheritance': 0.7, 'exploration': 0.3}


@dataclasses.dataclass(frozen=True)
class Video:
  video_id: str
  title: str
  path: str | None
  duration: float | None
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  split: str = 'test'
  size: int | None = None
  written: int | None = None


def sentence_vector(text: str, scorer: str) -> np.ndarray:
  """A sum of one fixed random vector a word: sentences that share words are near."""
  words = text.lower().split()
  seeds = [[sum(map(ord, scorer)), *word.encode()] for word in words]
  vector = sum(np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds)
  return vector / np.linalg.norm(vector)


class MemoryGallery:
  """`add` gives a video's frames as sentences of what they show; frames are noisy vectors of these."""

  def __init__(self):
    self.videos: dict[str, Video] = {}
    self.frames: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]] = {}
    self.calls: list[tuple[list[str], dict]] = []
    self.delay = 0.0
    self.said: dict[str, list[tuple]] = {}
    self.counts = True  # Whether it says how many videos a ranking has.
    self.error: Exception | None = None

  def __len__(self):
    return len(self.videos)

  def cues(self, video_id):
    return [Cue(video_id, *cue) for cue in self.said.get(video_id, ())] if video_id in self.videos else {}[video_id]

  @property
  def facets(self):
    return {'videos': len(self.videos), 'looked_at': 0, 'fields': [{'name': 'path'}, {'name': 'year'}]}

  def add(self, video_id, sentences, path=None, duration=None, rate=1.0, title='', noise=0.05, **metadata):
    random = np.random.default_rng(len(self.videos))
    duration = len(sentences) / rate if duration is None else duration
    rows = {}
    for scorer in WEIGHTS:
      clean = np.stack([sentence_vector(sentence, scorer) for sentence in sentences])
      noisy = clean + noise * random.normal(size=clean.shape)
      rows[scorer] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    self.videos[video_id] = Video(video_id, title or video_id, path and str(path), duration, metadata)
    self.frames[video_id] = (np.arange(len(sentences)) / rate, rows)

  def search(self, queries, top=10, offset=0, moments=1, weights=None, threshold=None, exact=None, where=None):
    self.calls.append((list(queries), {'top': top, 'offset': offset, 'moments': moments}))
    time.sleep(self.delay)
    if self.error is not None:
      raise self.error
    allowed = filters.parse(list(where)) if where else lambda video: True
    return [self._one(query, top, offset, moments, weights or WEIGHTS, threshold, allowed) for query in queries]

  def _one(self, query, top, offset, moments, weights, threshold, allowed):
    begin = time.perf_counter()
    query, asked = (query, None) if isinstance(query, str) else (query.label({}), query)
    hits = []
    for video_id, (times, rows) in self.frames.items():
      if not allowed(self.videos[video_id]):
        continue
      cosines = {name: rows[name] @ sentence_vector(query, name) for name in weights}
      scores = {name: float(values.max()) for name, values in cosines.items()}
      curve = sum(weight * cosines[name] for name, weight in weights.items())
      video = self.videos[video_id]
      found = find_moments(times, curve, video.duration, moments)
      score = sum(weight * scores[name] for name, weight in weights.items())
      hits.append(
        Hit(video_id, score, scores, found, times, curve, video.title, video.path, video.duration, video.metadata)
      )
    hits = sorted((hit for hit in hits if threshold is None or hit.score >= threshold), key=lambda hit: -hit.score)
    total = len(hits) if self.counts else None
    return SearchResult(query, tuple(hits[offset : offset + top]), total, time.perf_counter() - begin, asked=asked)
