"""What a search returns: plain values, ready to print or to send."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from dlkd_jax.gallery.queries import Query


def json_value(value: Any) -> Any:
  """Returns a value of metadata as JSON has it: numbers, texts, truth values, lists; what is no number is null."""
  if isinstance(value, list | tuple):
    return [json_value(one) for one in value]
  if isinstance(value, np.generic):
    value = value.item()
  return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclasses.dataclass(frozen=True)
class Moment:
  """A part of a video.

  Attributes:
    start, end: seconds.
    peak: seconds at which the frame that fits best is shown.
    score: the frame curve's value there.
  """

  start: float
  end: float
  peak: float
  score: float

  def to_json(self) -> dict[str, float]:
    """Returns the moment as JSON knows values."""
    return {name: round(float(value), 6) for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True)
class Said:
  """A text that a query was found in.

  Attributes:
    kind: 'said', or of a text about the whole video 'title', 'name' (of the file), or 'metadata: KEY'.
    text: whole.
    marks: from which character to which the words of the query stand in it.
    start, end: seconds on the clock of a player; None of the whole video.
    track: of the subtitles.
  """

  kind: str
  text: str
  marks: tuple[tuple[int, int], ...] = ()
  start: float | None = None
  end: float | None = None
  track: str = ''

  def to_json(self) -> dict[str, Any]:
    """Returns the text as JSON knows values."""
    return {**dataclasses.asdict(self), 'marks': [list(mark) for mark in self.marks]}


@dataclasses.dataclass(frozen=True, eq=False)
class Hit:
  """A video that was found.

  Attributes:
    video_id: its name in the index.
    score: the weighted sum of `scores`.
    scores: scorer → largest cosine over the video's frames, of every scorer of the index.
    moments: best first, disjoint; at least one.
    times: `[n]` seconds at which the frames are shown, rising.
    curve: `[n]` weighted sum of the scorers' cosines at each frame.
    title: what to call it.
    path: of its file; None where the index does not know it.
    duration: seconds; None where unknown.
    metadata: whatever was given for it.
    said: texts that the words of the query stand in, best first.
    found_by: 'pictures', or 'said' where these texts count more than its place by the pictures; its first moment is
      then when it is said, unless that is said of the whole video.
    confidence: share of other sentences whose best video scores less, 0 to 1, see `background`; None where not known.
  """

  video_id: str
  score: float
  scores: Mapping[str, float]
  moments: tuple[Moment, ...]
  times: np.ndarray
  curve: np.ndarray
  title: str
  path: str | None = None
  duration: float | None = None
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  said: tuple[Said, ...] = ()
  found_by: str = 'pictures'
  confidence: float | None = None

  def to_json(self, curve: bool = False) -> dict[str, Any]:
    """Returns the hit as JSON knows values: the same on the command line, on the page, and here.

    | | |
    |---|---|
    | id | name of the video; also `video_id`, as it was called first |
    | title, path, duration | as above; null where unknown |
    | start, end | seconds of the best moment |
    | score, scores | the weighted sum, and of each scorer |
    | moments | best first: start, end, peak, score |
    | metadata | whatever was given for the video, with the types that it was given with |
    | confidence | 0 to 1: how it stands among the best of other sentences; null where not known |
    | said, found_by | texts that hold words of the query, see `Said`; 'said' where the video is found by them |
    | times, curve | with `curve`: seconds and values of the frames |
    """
    best = self.moments[0].to_json() if self.moments else {}
    content = {
      'id': self.video_id,
      'video_id': self.video_id,
      'title': self.title,
      'start': best.get('start'),
      'end': best.get('end'),
      'score': round(float(self.score), 6),
      'scores': {name: round(float(value), 6) for name, value in self.scores.items()},
      'moments': [moment.to_json() for moment in self.moments],
      'said': [said.to_json() for said in self.said],
      'found_by': self.found_by,
      'confidence': None if self.confidence is None else round(self.confidence, 4),
      'path': self.path,
      'duration': json_value(self.duration),
      'metadata': {str(name): json_value(value) for name, value in self.metadata.items()},
    }
    if curve:
      content['times'] = [round(float(time), 3) for time in self.times]
      content['curve'] = [round(float(value), 6) for value in self.curve]
    return content


@dataclasses.dataclass(frozen=True)
class SearchResult:
  """What one query found.

  Attributes:
    query: the sentence, or the name of the vector that was searched with.
    hits: best first; the part of the ranking that was asked for.
    total: videos that the whole ranking has, after filter and threshold; None where a search in two stages with a
      threshold has not scored all: many.
    seconds: that the search took; queries that were searched together share the time.
    notes: what the reader should know of the query, as that only a part of a long sentence was read.
    asked: the query; None where it was a vector.
    best: highest score of a video by the pictures, of all that count; None where there is none.
    nothing: whether no video stands out, see `background`; None where not known. Hits are there all the same.
  """

  query: str
  hits: tuple[Hit, ...]
  total: int | None
  seconds: float
  notes: tuple[str, ...] = ()
  asked: Query | None = None
  best: float | None = None
  nothing: bool | None = None

  def to_json(self, curve: bool = False) -> dict[str, Any]:
    """Returns the result as JSON knows values."""
    return {
      'query': self.query,
      'asked': None if self.asked is None else self.asked.to_json(),
      'nothing': self.nothing,
      'total': None if self.total is None else int(self.total),
      'seconds': round(float(self.seconds), 6),
      'notes': list(self.notes),
      'hits': [hit.to_json(curve) for hit in self.hits],
    }
