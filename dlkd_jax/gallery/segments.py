"""Parts of an index: the videos that were added together, as plain arrays in files that are mapped, not read.

A segment of V videos with n frames in all is a folder of

| file | | |
|---|---|---|
| videos.jsonl | V lines | id, title, path, duration, split, metadata, and where it came from; see `Entry` |
| offsets.i64 | `[V + 1]` | the frames of video v are rows offsets[v] to offsets[v + 1] |
| times.f32 | `[n]` | seconds; frame numbers in a video of unknown duration |
| <scorer>.values | `[n, H]` | unit vectors of the frames, float16 or int8 |
| <scorer>.scales | `[n]` float32 | with int8: what a row is multiplied by |
| captions.jsonl | k lines | id, video, text, start and end (seconds, null where unknown) |
| <scorer>.captions | `[k, H]` float16 | unit vectors of the captions |
| cues.jsonl | lines | what is said: video, start and end (seconds), text, track; only where something is |
| <scorer>.frames | | compressed frames for searching in two stages, in large indexes; see `frame_index` |

Nothing in it changes once it is written; compressed frames may be added. A search reads no line of it: what the lines
say stands in the `catalog`, too.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from dlkd_jax.errors import UserError
from dlkd_jax.files import sync
from dlkd_jax.gallery.entries import Caption, Cue, Entry
from dlkd_jax.gallery.quantization import Rows

# The first row of the first video, in the bytes of `offsets`.
FIRST = bytes(8)
# Frames of an index from which on a first stage makes a search cheaper (README.md has the numbers).
MANY_FRAMES = 200_000
# Frames of a segment whose codes are good for others, too: they were fitted to a sample of 16,384.
FITTED_FRAMES = 1 << 14
CUES = 'cues.jsonl'
SUFFIXES = {'offsets': 'offsets.i64', 'times': 'times.f32', 'videos': 'videos.jsonl', 'captions': 'captions.jsonl'}


class IndexFolderError(UserError):
  """An index, or a part of it, is absent, damaged, of another version, or in use; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Segment:
  """A part of an index, opened; arrays are mapped from its files.

  Attributes:
    name: of its folder.
    entries: V videos; read from the disk where they are asked for.
    offsets: `[V + 1]` int64.
    times: `[n]` float32.
    rows: scorer → the frames' vectors, n rows.
    captions: k sentences about the videos; read likewise.
    caption_vectors: scorer → `[k, H]` float16.
    removed: ids of videos that do not count any more.
    cues: what is said in the videos; read likewise.
  """

  name: str
  entries: Sequence[Entry]
  offsets: np.ndarray
  times: np.ndarray
  rows: Mapping[str, Rows]
  captions: Sequence[Caption]
  caption_vectors: Mapping[str, np.ndarray]
  removed: frozenset[str] = frozenset()
  cues: Sequence[Cue] = ()

  def alive(self) -> np.ndarray:
    """Returns `[V]` bool, false at videos that were removed."""
    if not self.removed:
      return np.ones(len(self.entries), bool)
    return np.array([entry.video_id not in self.removed for entry in self.entries], bool)

  def slice_of(self, video: int) -> slice:
    """Returns where the rows of a video lie."""
    return slice(int(self.offsets[video]), int(self.offsets[video + 1]))

  def rows_of(self, video: int) -> dict[str, Rows]:
    """Returns scorer → the rows of one video, as they are stored."""
    return {name: rows[self.slice_of(video)] for name, rows in self.rows.items()}


class _HashedFile:
  """A file that is being written, with the hash of what was written so far."""

  def __init__(self, path: pathlib.Path):
    self._file: BinaryIO = path.open('wb')
    self._hash, self.bytes = hashlib.sha256(), 0

  def write(self, data: Any) -> None:
    view = memoryview(data).cast('B') if not isinstance(data, bytes) else data
    self._file.write(view)
    self._hash.update(view)
    self.bytes += len(view)

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> dict[str, Any]:
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()
    return {'bytes': self.bytes, 'sha256': self._hash.hexdigest()}

  def abandon(self) -> None:
    self._file.close()


class SegmentWriter:
  """Writes a segment video by video; memory does not grow with it.

  Attributes:
    videos, frames: how many were added so far.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    scorers: Mapping[str, int],
    dtype: str,
    codes_from: int | None = None,
    like: pathlib.Path | None = None,
  ):
    """Makes the folder.

    Args:
      folder: must not exist.
      scorers: name → H.
      dtype: 'float16' or 'int8', of the frames.
      codes_from: if it gets so many frames, they are compressed, too, for searching in two stages; None: never.
      like: as of `add_codes`.
    """
    folder.mkdir(parents=True)
    self._folder, self._scorers, self._dtype, self._codes_from = folder, dict(scorers), np.dtype(dtype), codes_from
    self._like = like
    names = [*SUFFIXES.values(), *(f'{name}.{kind}' for name in scorers for kind in self._kinds())]
    self._files = {name: _HashedFile(folder / name) for name in names}
    self._files[SUFFIXES['offsets']].write(FIRST)
    self._files[SUFFIXES['offsets']].flush()  # By it a segment is known that was never finished.
    self.videos = self.frames = self.captions = self.cues = 0

  def _kinds(self) -> tuple[str, ...]:
    return ('values', 'scales', 'captions') if self._dtype == np.int8 else ('values', 'captions')

  def add(
    self,
    entry: Entry,
    times: np.ndarray,
    rows: Mapping[str, Rows],
    captions: Sequence[Caption] = (),
    caption_vectors: Mapping[str, np.ndarray] | None = None,
    cues: Iterable[Cue] = (),
  ) -> None:
    """Adds a video.

    Args:
      entry: what is known of it.
      times: `[n]` seconds, rising.
      rows: scorer → the vectors of its n frames.
      captions: k sentences about it.
      caption_vectors: scorer → `[k, H]`; may be left out where there is no caption.
      cues: what is said in it.

    Raises:
      ValueError: shapes or types are not those of this segment.
    """
    count = len(times)
    for name, size in self._scorers.items():
      values, scales = rows[name].values, rows[name].scales
      if values.shape != (count, size) or values.dtype != self._dtype or (scales is None) == (self._dtype == np.int8):
        raise UserError(
          f'video {entry.video_id!r}: {name} has {values.dtype} {list(values.shape)}; expected {self._dtype} '
          f'[{count}, {size}]'
        )
    self.videos, self.frames, self.captions = self.videos + 1, self.frames + count, self.captions + len(captions)
    self._files[SUFFIXES['offsets']].write(np.array([self.frames], np.int64))
    self._files[SUFFIXES['times']].write(np.ascontiguousarray(times, np.float32))
    self._files[SUFFIXES['videos']].write(_line(entry))
    for caption in captions:
      self._files[SUFFIXES['captions']].write(_line(caption))
    for cue in cues:
      if CUES not in self._files:
        self._files[CUES] = _HashedFile(self._folder / CUES)
      self._files[CUES].write(_line(cue))
      self.cues += 1
    for name in self._scorers:
      self._files[f'{name}.values'].write(np.ascontiguousarray(rows[name].values))
      if rows[name].scales is not None:
        self._files[f'{name}.scales'].write(np.ascontiguousarray(rows[name].scales, np.float32))
      if len(captions):
        self._files[f'{name}.captions'].write(np.ascontiguousarray(caption_vectors[name], np.float16))

  def finish(self) -> dict[str, Any]:
    """Brings everything to the disk and returns what the manifest says of the segment."""
    about = {
      'name': self._folder.name,
      'videos': self.videos,
      'frames': self.frames,
      'captions': self.captions,
      **({'cues': self.cues} if self.cues else {}),
      'removed': [],
      'files': {name: file.close() for name, file in self._files.items()},
    }
    if self._codes_from is not None and self.frames >= self._codes_from:
      rows = open_segment(self._folder, about, self._scorers, self._dtype).rows
      add_codes(self._folder, about, rows, self._like)
    for folder in (self._folder, self._folder.parent):
      sync(folder)
    return about

  def abandon(self) -> None:
    """Closes the files; what was written is left for the next writer to clear away."""
    for file in self._files.values():
      file.abandon()


def open_segment(folder: pathlib.Path, about: Mapping[str, Any], scorers: Mapping[str, int], dtype: str) -> Segment:
  """Opens a segment; its arrays are mapped.

  Args:
    folder: of the segment.
    about: what the manifest says of it.
    scorers: name → H.
    dtype: of the frames.

  Raises:
    FileNotFoundError: a file is absent.
    IndexFolderError: a file has not the size that the manifest says.
  """
  check_sizes(folder, about)
  n, k = about['frames'], about['captions']

  def mapped(name: str, kind: Any, *shape: int) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.memmap(folder / name, kind, 'r', shape=shape) if np.prod(shape) else np.zeros(shape, kind)

  quantized = np.dtype(dtype) == np.int8
  return Segment(
    name=about['name'],
    entries=_Lines(folder / SUFFIXES['videos'], Entry, about['videos']),
    offsets=np.fromfile(folder / SUFFIXES['offsets'], np.int64),
    times=mapped(SUFFIXES['times'], np.float32, n),
    rows={
      name: Rows(
        mapped(f'{name}.values', dtype, n, size), mapped(f'{name}.scales', np.float32, n) if quantized else None
      )
      for name, size in scorers.items()
    },
    captions=_Lines(folder / SUFFIXES['captions'], Caption, k),
    caption_vectors={name: mapped(f'{name}.captions', np.float16, k, size) for name, size in scorers.items()},
    removed=frozenset(about['removed']),
    cues=_Lines(folder / CUES, Cue, about['cues']) if about.get('cues') else (),
  )


def codes_name(scorer: str) -> str:
  """Returns the name of the compressed frames of a scorer in a segment."""
  return f'{scorer}.frames'


def has_codes(about: Mapping[str, Any], scorers: Iterable[str]) -> bool:
  """Returns whether a segment of a manifest has compressed frames of all scorers, or no frames at all."""
  return not about['frames'] or {codes_name(scorer) for scorer in scorers} <= about['files'].keys()


def add_codes(
  folder: pathlib.Path, about: dict[str, Any], rows: Mapping[str, Rows], like: pathlib.Path | None = None
) -> None:
  """Compresses the frames of a segment, and says so in `about`; frames that are compressed are left alone.

  Args:
    folder: of the segment.
    about: what the manifest is to say of it.
    rows: of its scorers.
    like: folder of a segment of the same index with compressed frames, whose codes are taken; None: they are fitted.
  """
  if has_codes(about, rows):
    return
  from dlkd_jax.gallery.frame_index import FrameIndex, read_centres  # FAISS takes a while to load.

  for scorer, stored in rows.items():
    file = folder / codes_name(scorer)
    centres = None if like is None else read_centres(like / file.name, stored.hidden)
    FrameIndex.build(stored, centres=centres).save(file)
    about['files'] = {**about['files'], file.name: describe_file(file)}


def check_sizes(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Checks that every file of a segment has the size that the manifest says; errors are those of `open_segment`."""
  for name, expected in about['files'].items():
    check_size(folder / name, expected)


def check_size(file: pathlib.Path, expected: Mapping[str, Any]) -> None:
  """Checks that a file has the size that the manifest says; errors are those of `open_segment`."""
  found = file.stat().st_size
  if found != expected['bytes']:
    raise IndexFolderError(
      f'{file} has {found} bytes, expected {expected["bytes"]}: it was cut short or changed; copy the index again, or '
      'remove its folder and build it anew'
    )


def describe_file(path: pathlib.Path) -> dict[str, Any]:
  """Returns what a manifest says of a finished file: its size and hash."""
  with path.open('rb') as file:
    return {'bytes': path.stat().st_size, 'sha256': hashlib.file_digest(file, 'sha256').hexdigest()}


def check_contents(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Checks the hash of every file of a segment.

  Raises:
    IndexFolderError: a file holds other bytes than were written.
  """
  for name, expected in about['files'].items():
    check_content(folder / name, expected)


def check_content(file: pathlib.Path, expected: Mapping[str, Any]) -> None:
  """Checks the hash of a file; errors are those of `check_contents`."""
  found = describe_file(file)['sha256']
  if found != expected['sha256']:
    raise IndexFolderError(
      f'{file} has the check sum {found[:12]}…, expected {expected["sha256"][:12]}…: its bytes were changed; copy the '
      'index again, or remove its folder and build it anew'
    )


def _line(value: Entry | Caption | Cue) -> bytes:
  return (json.dumps(dataclasses.asdict(value), ensure_ascii=False) + '\n').encode()


class _Lines(Sequence):
  """The lines of a file as objects, read when the first is asked for."""

  def __init__(self, path: pathlib.Path, make: Callable[..., Any], count: int):
    self._path, self._make, self._count = path, make, count

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, number):
    return self._all[number]

  def __iter__(self) -> Iterator[Any]:
    return iter(self._all)

  @functools.cached_property
  def _all(self) -> list[Any]:
    try:
      with self._path.open(encoding='utf-8', newline='\n') as file:
        found = [self._make(**json.loads(line)) for line in file]
    except (ValueError, TypeError) as error:
      raise IndexFolderError(
        f'{self._path} is damaged, or was written by a newer version ({error}); copy the index again, or build it anew'
      ) from error
    if len(found) != self._count:
      raise IndexFolderError(f'{self._path} has {len(found)} lines, expected {self._count}; copy the index again')
    return found
