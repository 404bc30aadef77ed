"""What is put into an index: the records of a data set, and what else is known of its videos."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import pathlib
import posixpath
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkd_jax import annotations, files
from dlkd_jax.data import sources
from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import VIDEO_SUFFIXES
from dlkd_jax.gallery.encoding import TEACHER
from dlkd_jax.gallery.segments import Caption, Entry
from dlkd_jax.gallery.source import no_disk

if TYPE_CHECKING:
  from dlkd_jax.gallery.progress_file import ProgressFile
  from dlkd_jax.gallery.sorting import Sorted


@dataclasses.dataclass(frozen=True)
class Collection:
  """Splits of a built data set, as a `Source`.

  Attributes:
    data_dir: the folder that it was built in.
    dataset: its name.
    splits: of it, in this order.
    options: what its builder noted of how it was made.
    sizes: Dv, Dq, and Dt, which is None without a teacher.
    where: 'teacher', 'student', 'tokens' → place of the model that made the features, of those that are known.
    counts: split → number of videos.
    folder: of its newest version.
    whole: whether these are all of its splits that have videos.
  """

  data_dir: str
  dataset: str
  splits: tuple[str, ...]
  options: Mapping[str, Any]
  sizes: Mapping[str, int | None]
  counts: Mapping[str, int]
  folder: pathlib.Path
  whole: bool = True
  where: Mapping[str, str] = dataclasses.field(default_factory=dict)
  away: Container[str] = ()
  broken: Container[str] = ()

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
      str(files.absolute(files.expand_any(data_dir))),
      dataset,
      tuple(wanted),
      dict(metadata.get('options', {})),
      dict(metadata['sizes']),
      {name: counts[name] for name in wanted},
      folder,
      whole=set(wanted) >= {name for name, count in counts.items() if count},
      where=dict(metadata.get('source', {}).get('where', {})),
    )

  def __len__(self) -> int:
    return sum(self.counts.values())

  def records(
    self, places: Iterable[tuple[str, int]] | None = None, running: ProgressFile | None = None
  ) -> Iterator[tuple[str, sources.Record]]:
    """Yields (split, record), one video after another.

    Args:
      places: splits and numbers of the records; None: all.
      running: is told of each.
    """
    chosen = None if places is None else set(places)
    for split in self.splits:
      numbers = range(self.counts[split]) if chosen is None else sorted(n for name, n in chosen if name == split)
      if numbers:
        source = sources.open_source(self.data_dir, self.dataset, split)
        for number in numbers:
          yield split, source[number]
          if running is not None:
            running.step()

  def digests(self) -> dict[str, str]:
    """Returns video → hash of its file and captions, of all splits, as the data set lists them.

    Without a list, which a feature pack has not, it is a hash of the record, and of the splits of this collection.

    Raises:
      ValueError: the list is damaged.
    """
    path = self.folder / 'videos.json'
    if not path.is_file():
      return {video: digest for video, (_, _, digest) in self._listing.items()}
    content = files.parse_object(files.read_text(path), str(path))
    return {video: str(digest) for video, digest in content.items()}

  def find(self, wanted: Container[str]) -> dict[str, tuple[str, int]]:
    """Returns video → (split, number) of its record; no features are decoded.

    What was added last lies last, and the search begins there: it ends with the last video that is wanted.

    Args:
      wanted: ids; those that are in no split of this collection are left out.
    """
    if '_listing' in self.__dict__:
      return {video: self._listing[video][:2] for video in wanted if video in self._listing}
    left, found = set(wanted), {}
    for split in self.splits:
      if left:
        for number, video, _ in self._raw(split, backwards=True):
          if video in left:
            left.remove(video)
            found[video] = split, number
          if not left:
            break
    return found

  def facts(self, video: str) -> dict[str, Any]:
    """Returns nothing: where films are, `Knowledge` says."""
    return {}

  def settings(self) -> dict[str, Any]:
    """Returns where the data set is, and how its films were read."""
    read = {name: self.options.get(name) for name in ('rate', 'max_side') if 'rate' in self.options}
    return {'data_dir': self.data_dir, 'dataset': self.dataset, **read}

  def check_prune(self, found: Sorted, knowledge: Knowledge) -> None:
    """Refuses to remove videos because of a disk that is not there.

    Raises:
      UserError: the folder of the films is absent, or has none of them.
    """
    if knowledge.videos is not None and found.vanished:
      kept = set(found.there) - set(found.vanished)
      if not kept and not any((knowledge.videos / video).is_file() for video in found.wanted):
        raise no_disk(knowledge.videos)

  @functools.cached_property
  def _listing(self) -> dict[str, tuple[str, int, str]]:
    """video → split, number and a hash of the record, of all records; no features are decoded."""
    found: dict[str, tuple[str, int, str]] = {}
    for split in self.splits:
      for number, video, features in self._raw(split):
        content = hashlib.sha256()
        for name in sorted(features):
          content.update(name.encode() + b'\0' + features[name].SerializeToString())
        found.setdefault(video, (split, number, content.hexdigest()[:32]))
    return found

  def _raw(self, split: str, backwards: bool = False) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Yields number, video and features of the records of a split, as they are stored."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    sources.open_source(self.data_dir, self.dataset, split)  # It names files that are absent.
    builder, _ = sources.open_set(self.data_dir, self.dataset, split)
    raw = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    for number in reversed(range(len(raw))) if backwards else range(len(raw)):
      try:
        features = tf_example_pb2.Example.FromString(raw[number]).features.feature
        video = features['video_id'].bytes_list.value[0].decode('utf-8')
      except Exception:  # Of many kinds; reading it as others do names the file.
        video, features = sources.text(next(self.records([(split, number)]))[1]['video_id']), {}
      yield number, video, features

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
    metadata_file: that file; None where there is none.
    absent: what an index remembers of these and is not there any more.
  """

  videos: pathlib.Path | None = None
  metadata: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  metadata_file: pathlib.Path | None = None
  absent: tuple[str, ...] = ()

  @classmethod
  def read(cls, videos: pathlib.Path | str | None, metadata: pathlib.Path | str | None) -> Knowledge:
    """Takes a folder of videos and a file of metadata.

    The file is JSON, one object a line: `{"video": "lake.mp4", "title": "At the lake", "year": 2021}`. `title` may be
    left out; all other names are free, with texts, numbers, truth values, or lists of these.

    Raises:
      FileNotFoundError: one of them is absent.
      ValueError: the file is not written so; the message names the line. Or the name of the folder is no text.
    """
    folder = pathlib.Path(videos).absolute() if videos else None
    if folder is not None and not folder.is_dir():
      raise FileNotFoundError(f'{folder} is no folder; name that of the videos with --videos')
    if folder is not None and not files.is_text(str(folder)):
      raise UserError(f'{files.printable(str(folder))}: the name of a folder of videos has to be UTF-8; rename it')
    file = pathlib.Path(metadata).absolute() if metadata else None
    return cls(folder, read_metadata(file) if file else {}, file)

  def completed(self, settings: Mapping[str, Any]) -> Knowledge:
    """Returns the same with what an index remembers in its settings in the place of what was not given."""
    found, absent = self, []
    if self.videos is None and (remembered := settings.get('videos')):
      found = dataclasses.replace(found, videos=pathlib.Path(remembered))
    if found.videos is not None and not found.videos.is_dir():
      absent.append(f'{found.videos}, the folder of the films, is not there; --videos names another')
    if self.metadata_file is None and not self.metadata and (remembered := settings.get('metadata')):
      file = pathlib.Path(remembered)
      if file.is_file():
        found = dataclasses.replace(found, metadata=read_metadata(file), metadata_file=file)
      else:
        absent.append(f'{file}, the metadata, is not there; --metadata names another')
    return dataclasses.replace(found, absent=tuple(absent))

  def file(self, video: str) -> pathlib.Path | None:
    """Returns where the file of a video should be; None where that is not known."""
    return None if self.videos is None else self.videos / video

  def said(self, video: str, before: Entry | None = None) -> tuple[str, dict[str, Any]]:
    """Returns title and metadata of a video; where nothing is said of it here, those that it had before."""
    if video not in self.metadata and before is not None:
      return before.title, dict(before.metadata)
    known = dict(self.metadata.get(video, {}))
    title = known.pop('title', None)
    return str(title) if title is not None else default_title(video), known

  def entry(
    self, record: Mapping[str, Any], split: str, digest: str = '', dataset: str = '', before: Entry | None = None
  ) -> Entry:
    """Returns what is known of a record's video; `before`, what an index says of it that takes it anew."""
    video = sources.text(record['video_id'])
    title, known = self.said(video, before)
    path = str(self.videos / video) if self.videos is not None else before.path if before is not None else None
    size, written = _stat(path)
    duration, start = float(record['duration']), float(record.get('start', np.nan))
    return Entry(
      video_id=video,
      title=title,
      path=path,
      duration=duration if np.isfinite(duration) else None,
      split=split,
      metadata=known,
      start=start if np.isfinite(start) else 0.0,
      start_known=bool(np.isfinite(start)),
      digest=digest,
      dataset=dataset,
      size=size,
      written=written,
    )


def _stat(path: str | None) -> tuple[int | None, int | None]:
  """Returns size and time of a film's file, of an `Entry`; None where it is not at hand."""
  try:
    status = os.stat(path) if path is not None else None
  except OSError:
    status = None
  return (None, None) if status is None else (status.st_size, status.st_mtime_ns)


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


def default_title(video: str) -> str:
  """Returns what a video is called of which nothing is said."""
  stem, suffix = posixpath.splitext(video)
  return stem if suffix.lower() in VIDEO_SUFFIXES else video
