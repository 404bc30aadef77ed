"""What a server of the page allows, in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
  """Limits and choices of a server.

  Attributes:
    hosts: names, besides IP addresses and localhost, that a request may call this server by.
    roots: folders to look for videos in, by id; nothing outside of them is served. Empty: where the index says, below
      the folders that it noted when it was made.
    threshold: videos whose score is below it are no match; None leaves all in.
    weights: scorer → weight of the fused score; None is the gallery's own choice.
    exact: False searches in two stages, which the index must be prepared for; None is the gallery's own choice.
    examples: sentences that the empty page suggests.
    top, most_top: results of an answer, unless asked otherwise, and at most.
    moments, most_moments: moments of a result, the same.
    most_offset: of paging.
    most_offset_two_stage: the same where searches are in two stages, which compute all before it exactly.
    most_characters: of a query, and of its filters.
    query_rate, query_burst: searches a second that a client may make in the long run, and at once.
    media_rate, media_burst: the same for pictures and parts of videos.
    waiting: searches, and pictures, that may wait for their turn.
    batch: queries that are searched together at most.
    curve_points: of a frame curve in an answer; longer ones are thinned.
    thumbnail_side: longer side of a picture, pixels.
    thumbnail_bytes: of pictures that are kept in memory.
  """

  hosts: tuple[str, ...] = ()
  roots: tuple[str, ...] = ()
  threshold: float | None = None
  weights: Mapping[str, float] | None = None
  exact: bool | None = None
  examples: tuple[str, ...] = ()
  top: int = 10
  most_top: int = 50
  moments: int = 3
  most_moments: int = 8
  most_offset: int = 10_000
  most_offset_two_stage: int = 1_000
  most_characters: int = 300
  query_rate: float = 5.0
  query_burst: int = 20
  media_rate: float = 50.0
  media_burst: int = 300
  waiting: int = 256
  batch: int = 32
  curve_points: int = 240
  thumbnail_side: int = 480
  thumbnail_bytes: int = 64 * 2**20

  @property
  def wishes(self) -> dict[str, Any]:
    """What every search of the gallery is told."""
    return {'threshold': self.threshold, 'weights': self.weights, 'exact': self.exact}

  @property
  def furthest(self) -> int:
    """The largest offset that is searched for."""
    return self.most_offset if self.exact is not False else min(self.most_offset, self.most_offset_two_stage)
