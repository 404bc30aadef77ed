"""Which videos there are, and what is said of them: a folder and, optionally, a file of captions.

The captions are JSON, one object a line:

    {"video": "a/b.mp4", "text": "a dog jumps into a lake", "start": 12.5, "end": 17.0, "split": "test"}

`start` and `end` (seconds) and `split` (train, val, test or gallery; test where absent) may be left out. `video` is the
path below the folder, however it is spelt; its end, or the name without its ending, will do where only one file fits:
see `names`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterable
from typing import Any

from dlkd_jax import annotations
from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import VIDEO_SUFFIXES
from dlkd_jax.files import is_text, json_lines
from dlkd_jax.video import files, names

SPLITS = ('train', 'val', 'test', 'gallery')
_KEYS = ('video', 'text', 'start', 'end', 'split')
_EDGE_BYTES = 1 << 16
_SAMPLES = 16  # Places within a file that are looked at, too.
_SAMPLE_BYTES = 1 << 12
_NEAREST = 3
_NEAREST_OF = 5  # Absent videos for which near names are looked for: that takes a while in a large folder.


@dataclasses.dataclass(frozen=True)
class Caption:
  """One sentence; start and end in seconds as they were written, NaN where unknown."""

  text: str
  start: float
  end: float


@dataclasses.dataclass(frozen=True)
class Seen:
  """A file as it was when it was looked at.

  Attributes:
    digest: hash of the split, the captions, and the file's size, beginning and end; behind a colon that of the file
      alone. The whole is not read.
    size: bytes.
    written: when it was written to last, nanoseconds since 1970.
  """

  digest: str
  size: int
  written: int

  @property
  def film(self) -> str:
    """The part of the digest that follows the file alone."""
    return self.digest.partition(':')[2]

  def age(self) -> float:
    """Seconds since it was written to last; negative where it claims to come from the future."""
    return time.time() - self.written / 1e9


@dataclasses.dataclass(frozen=True)
class Job:
  """One video to extract.

  Attributes:
    video: its path below the folder, with slashes: the id of its record.
    path: the file.
    split: the split it goes to.
    captions: what is said of it; none in a gallery.
  """

  video: str
  path: pathlib.Path
  split: str
  captions: tuple[Caption, ...]

  def caption_ids(self) -> list[str]:
    """Returns the ids of the captions: the video and a number."""
    return [f'{self.video}#{number}' for number in range(len(self.captions))]

  def look(self) -> Seen:
    """Looks at the file as it is now.

    Raises:
      VideoError: it is no regular file, or cannot be read.
    """
    status = files.check_file(self.path)
    size = status.st_size
    said = hashlib.sha256(json.dumps([self.video, self.split, *map(dataclasses.astuple, self.captions)]).encode())
    film = hashlib.sha256(b'%d' % size)
    try:
      with self.path.open('rb') as file:
        edges = file.read(_EDGE_BYTES)
        file.seek(max(0, size - _EDGE_BYTES))
        edges = b'%d' % size + edges + file.read(_EDGE_BYTES)
        for place in range(1, _SAMPLES):
          file.seek(size * place // _SAMPLES)
          film.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
      raise files.VideoError(self.path, f'cannot be read: {error.strerror}') from error
    said.update(edges)
    film.update(edges)
    return Seen(f'{said.hexdigest()[:32]}:{film.hexdigest()[:32]}', size, status.st_mtime_ns)

  def digest(self) -> str:
    """Returns the digest of what `look` sees."""
    return self.look().digest

  def is_as(self, seen: Seen) -> bool:
    """Whether the file has the size and time that it had."""
    try:
      status = os.stat(self.path)
    except OSError:
      return False
    return (status.st_size, status.st_mtime_ns) == (seen.size, seen.written)


@dataclasses.dataclass(frozen=True)
class Corpus:
  """What is to be extracted.

  Attributes:
    jobs: the videos, by name.
    skipped: files of the folder that are not videos by their names.
    missing: videos that captions name and that are not there → how many captions.
    nearest: the first of them → names that are like them.
    refused: files and folders → why they cannot be taken; names of them may be no text.
    left: folders, the same, that are only no videos.
  """

  jobs: tuple[Job, ...]
  skipped: tuple[str, ...]
  missing: dict[str, int]
  nearest: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  refused: dict[str, str] = dataclasses.field(default_factory=dict)
  left: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Below:
  """What lies below a folder: name, which is the path from there, with slashes → path, or why it cannot be taken.

  Attributes:
    videos: files that are videos by their names.
    others: other files.
    refused, left: as of a `Corpus`.
  """

  videos: dict[str, pathlib.Path]
  others: dict[str, pathlib.Path]
  refused: dict[str, str]
  left: dict[str, str]


def below(folder: pathlib.Path) -> Below:
  """Lists what lies below a folder.

  Raises:
    UserError: it is absent.
  """
  listing = files.walk(folder)

  def named(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    return {path.relative_to(folder).as_posix(): path for path in paths}

  refused, left = (
    {path.relative_to(folder).as_posix(): why for path, why in each.items()} for each in (listing.refused, listing.left)
  )
  found = Below(named(listing.videos), named(listing.others), refused, left)
  for names_of in (found.videos, found.others):
    for name in [name for name in names_of if not is_text(name)]:
      refused[name] = 'has a name that is no UTF-8 text, and a record needs one; rename it'
      del names_of[name]
  return found


def find(folder: pathlib.Path, captions: pathlib.Path | None) -> Corpus:
  """Finds the videos below a folder and joins the captions.

  A video without a caption goes to the split `gallery`; all do where there is no file of captions.

  Raises:
    UserError: the folder is absent or holds no video, a line of the captions is not as it should be, or they are of
      none of the videos.
    FileNotFoundError: there is no such file of captions.
  """
  there = below(folder)
  paths, refused = there.videos | there.others, there.refused
  said = _read_captions(captions) if captions is not None else {}
  book = names.Names(list(paths), folder)
  named, missing = _join(said, book, captions)
  nearest = {video: book.nearest(video, _NEAREST) for video in list(missing)[:_NEAREST_OF]}
  if said and not named:
    _refuse_all(nearest, len(missing), folder, captions)
  wanted = there.videos.keys() | named.keys()
  if not wanted and not refused:
    raise UserError(f'{folder} holds no videos (found {len(paths)} other files); give the folder that does')
  jobs = []
  for video in sorted(wanted):
    split, own = named.get(video, ('gallery', ()))
    jobs.append(Job(video, paths[video], split, tuple(own)))
  # Path.resolve raises where links go round in a circle.
  read = os.path.realpath(captions) if captions is not None else None
  own = {name for name in paths.keys() - wanted if read is not None and os.path.realpath(paths[name]) == read}
  skipped = tuple(sorted(paths.keys() - wanted - own))
  return Corpus(tuple(jobs), skipped, missing, nearest, refused, there.left)


def _join(
  said: dict[str, tuple[str, list[Caption]]], book: names.Names, origin: pathlib.Path | None
) -> tuple[dict[str, tuple[str, list[Caption]]], dict[str, int]]:
  """Returns file → (split, captions), and the names that no file has → how many captions."""
  named: dict[str, tuple[str, list[Caption]]] = {}
  called: dict[str, str] = {}
  missing = {}
  for video, (split, captions) in said.items():
    fitting = book.find(video)
    if len(fitting) > 1:  # Subtitles and covers are called as their film is.
      fitting = [name for name in fitting if pathlib.PurePath(name).suffix.lower() in VIDEO_SUFFIXES] or fitting
    if len(fitting) > 1:
      raise UserError(f'{origin}: video {video!r} may be {sorted(fitting)[:4]}; write the path below the folder')
    if not fitting:
      missing[video] = len(captions)
      continue
    (name,) = fitting
    before = named.setdefault(name, (split, []))
    first = called.setdefault(name, video)
    if first != video and not (book.spells(first, name) and book.spells(video, name) and before[0] == split):
      raise UserError(
        f'{origin}: {name!r} is named in two ways, {first!r} ({before[0]}) and {video!r} ({split}); use one'
      )
    before[1].extend(captions)
  return named, missing


def _refuse_all(
  nearest: dict[str, tuple[str, ...]], count: int, folder: pathlib.Path, origin: pathlib.Path | None
) -> None:
  """Raises UserError: a set made now would be a gallery without a caption."""
  name, near = next(iter(nearest.items()))
  there = f'; the nearest names there are {", ".join(map(repr, near))}' if near else ''
  raise UserError(
    f'{origin}: none of its {count:,} videos is in {folder}: the first is {name!r}{there}. Write paths below that '
    'folder, or leave --captions away to make a gallery that is only searched'
  )


def _read_captions(path: pathlib.Path) -> dict[str, tuple[str, list[Caption]]]:
  """Returns video → (split, captions), in the order of the file."""
  found: dict[str, tuple[str, list[Caption]]] = {}
  ignored: set[str] = set()
  for where, content in json_lines(path):
    video, split, caption = _parse(content, where)
    ignored |= content.keys() - set(_KEYS)
    known, captions = found.setdefault(video, (split, []))
    if known != split:
      raise UserError(f'{where}: video {video!r} is in split {known!r} and {split!r}; a video has one split')
    captions.append(caption)
  if ignored:
    logging.getLogger(__name__).warning('%s: keys %s are not used; known are %s', path, sorted(ignored), _KEYS)
  if not found:
    raise UserError(f'{path}: holds no captions; leave --captions away to make a gallery that is only searched')
  return found


def _parse(content: dict[str, Any], where: str) -> tuple[str, str, Caption]:
  """Returns video, split and caption of one line."""
  example = '{"video": "a.mp4", "text": "a dog runs", "start": 1.5, "end": 4, "split": "test"}'
  for key in ('video', 'text'):
    if not isinstance(content.get(key), str) or not content[key].strip():
      raise UserError(f'{where}: {key!r} is {content.get(key)!r:.60}; expected text, as in {example}')
  split = 'test' if content.get('split') in (None, '') else content['split']
  if split not in SPLITS:
    raise UserError(f'{where}: split is {split!r:.60}; expected one of {SPLITS}')
  start, end = annotations.read_moment(content.get('start'), content.get('end'), where)
  return content['video'], split, Caption(content['text'].strip(), start, end)
