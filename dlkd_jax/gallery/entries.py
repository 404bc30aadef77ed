"""What an index knows of a video besides its vectors: plain values, each a line of a file of its segment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
  """What an index knows of a video.

  Attributes:
    video_id: its name, unique in the index.
    title: what to call it.
    path: of its file; None where unknown.
    duration: seconds; None where unknown: the times of its frames are their numbers then.
    split: of the data set that it came from.
    metadata: whatever was given for it, plain values by name.
    start: of its first sample, seconds on the clock of a player.
    start_known: whether the record said so; 0 is an assumption otherwise.
    digest: of the record that it was made of; '' where unknown.
    dataset: name of the data set that it came from; '' where unknown.
    size: bytes of its file when that was looked at; None where it was not.
    written: when its file was written to last, nanoseconds since 1970; None likewise.
    said: `subtitles.digest` of those beside its file when they were read; '' where there were none.
  """

  video_id: str
  title: str
  path: str | None = None
  duration: float | None = None
  split: str = ''
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  start: float = 0.0
  start_known: bool = False
  digest: str = ''
  dataset: str = ''
  size: int | None = None
  written: int | None = None
  said: str = ''


@dataclasses.dataclass(frozen=True)
class Caption:
  """A sentence about a video of an index; start and end in seconds, None where unknown."""

  caption_id: str
  video_id: str
  text: str
  start: float | None = None
  end: float | None = None


@dataclasses.dataclass(frozen=True)
class Cue:
  """What is said in a video of an index; seconds on the clock of a player; see `subtitles.Cue` for the track."""

  video_id: str
  start: float
  end: float
  text: str
  track: str = ''
