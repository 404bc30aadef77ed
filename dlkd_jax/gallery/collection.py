"""What is put into an index: the records of a data set, and what else is known of its videos."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax import annotations, files
from dlkd_jax.data import sources
from dlkd_jax.errors import UserError
from dlkd_jax.gallery.encoding import TEACHER
from dlkd_jax.gallery.segments import Caption, Entry

_SUFFIXES = ('.mp4', '.mkv', '.webm', '.avi', '.mov', '.m4v', '.mpg', '.mpeg', '.ts', '.ogv', '.flv', '.wmv', '.3gp')


@dataclasses.dataclass(frozen=True)
class Collection:
  """Splits of a built data set.

  Attributes:
    data_dir: the folder that it was built in.
    dataset: its name.
    splits: of it, in this order.
    options: what its builder noted of how it was made.
    sizes: Dv, Dq, and Dt, which is None without a teacher.
    counts: split → number of videos.
  """

  data_dir: str
  dataset: str
  splits: tuple[str, ...]
  options: Mapping[str, Any]
  sizes: Mapping[str, int | None]
  counts: Mapping[str, int]

  @classmethod
  def open(cls, data_dir: str, dataset: str, splits: Sequence[str] | None = None) -> Collection:
    """Opens a data set.

    Args:
      data_dir: the folder that it was built in.
      dataset: its name.
      splits: which to take; None: all that have videos.

    Raises:
      FileNotFoundError: it was not built.
      ValueError: it has no such split.
    """
    builder, folder = sources.open_set(data_dir, dataset)
    metadata, there = builder.info.metadata, builder.info.splits
    counts = {name: split.num_examples for name, split in there.items()}
    wanted = [name for name, count in counts.items() if count] if splits is None else list(splits)
    if odd := [name for name in wanted if not counts.get(name)]:
      there = ', '.join(f'{name} ({count})' for name, count in sorted(counts.items()))
      raise UserError(f'{folder} has no videos in {odd}; its splits are {there}. Name some of these with --splits')
    return cls(
      str(pathlib.Path(data_dir).absolute()),
      dataset,
      tuple(wanted),
      dict(metadata.get('options', {})),
      dict(metadata['sizes']),
      {name: counts[name] for name in wanted},
    )

  def __len__(self) -> int:
    return sum(self.counts.values())

  def records(self) -> Iterator[tuple[str, sources.Record]]:
    """Yields (split, record), one video after another."""
    for split in self.splits:
      source = sources.open_source(self.data_dir, self.dataset, split)
      for number in range(len(source)):
        yield split, source[number]

  def features(self) -> dict[str, Any]:
    """Returns what has to be equal in all data sets of one index: how their features were made, and their sizes."""
    made = {name: self.options.get(name) for name in ('student', 'tokens', TEACHER)}
    if not isinstance(made['student'], str):  # A feature pack does not know what made its features.
      made = {'student': f'{self.dataset.partition("/")[0]}, {self.options.get("feature")}'}
    return made | {name: self.sizes.get(name) for name in ('Dv', 'Dq', 'Dt')}


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What is known of videos besides their records.

  Attributes:
    videos: folder of the files, below which a video's id is its path; None where they are not at hand.
    metadata: video → what a file of metadata says of it.
  """

  videos: pathlib.Path | None = None
  metadata: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

  @classmethod
  def read(cls, videos: str | None, metadata: str | None) -> Knowledge:
    """Takes a folder of videos and a file of metadata.

    The file is JSON, one object a line: `{"video": "lake.mp4", "title": "At the lake", "year": 2021}`. `title` may be
    left out; all other names are free, with texts, numbers, truth values, or lists of these.

    Raises:
      FileNotFoundError: one of them is absent.
      ValueError: the file is not written so; the message names the line.
    """
    folder = pathlib.Path(videos).absolute() if videos else None
    if folder is not None and not folder.is_dir():
      raise FileNotFoundError(f'{folder} is no folder; name that of the videos with --videos')
    return cls(folder, read_metadata(pathlib.Path(metadata)) if metadata else {})

  def entry(self, record: Mapping[str, Any], split: str) -> Entry:
    """Returns what is known of a record's video."""
    video = sources.text(record['video_id'])
    known = dict(self.metadata.get(video, {}))
    title = known.pop('title', None)
    duration = float(record['duration'])
    return Entry(
      video_id=video,
      title=str(title) if title is not None else _title(video),
      path=str(self.videos / video) if self.videos is not None else None,
      duration=duration if np.isfinite(duration) else None,
      split=split,
      metadata=known,
    )


def read_metadata(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Reads a file of metadata: video → what it says; see `Knowledge.read` for the file and the errors."""
  found: dict[str, dict[str, Any]] = {}
  for where, content in files.json_lines(path):
    video = content.pop('video', None)
    if not isinstance(video, str) or not video:
      raise UserError(
        f'{where}: "video" is {video!r:.80}; expected an object as {{"video": "lake.mp4", "year": 2021}}, with the id '
        'of a video'
      )
    if video in found:
      raise UserError(f'{where}: {video!r} is described a second time; join the two lines')
    for key, value in content.items():
      if not all(map(_is_plain, value if isinstance(value, list) else [value])):
        raise UserError(
          f'{where}: {key!r} is {value!r:.80}; expected a text, a number, true or false, or a list of these'
        )
    found[video] = content
  return found


def _is_plain(value: Any) -> bool:
  return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def captions_of(record: Mapping[str, Any]) -> list[Caption]:
  """Returns the captions of a record; unknown starts and ends are None."""
  video = sources.text(record['video_id'])
  ids, texts = sources.texts(record['caption_ids']), sources.texts(record['captions'])
  moments = annotations.possible(record['moments'], record.get('duration', math.nan))
  return [
    Caption(caption_id, video, text, *(float(second) if np.isfinite(second) else None for second in moment))
    for caption_id, text, moment in zip(ids, texts, moments, strict=True)
  ]


def _title(video: str) -> str:
  return next((video[: -len(suffix)] for suffix in _SUFFIXES if video.lower().endswith(suffix)), video) or video
