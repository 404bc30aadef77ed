"""Which videos there are, and what is said of them: a folder and, optionally, a file of captions.

The captions are JSON, one object a line:

    {"video": "a/b.mp4", "text": "a dog jumps into a lake", "start": 12.5, "end": 17.0, "split": "test"}

`start` and `end` (seconds) and `split` (train, val, test or gallery; test where absent) may be left out. `video` is the
path below the folder; its end, or the name without its ending, will do where only one file fits.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import logging
import math
import pathlib
from typing import Any

from dlkd_jax.errors import UserError
from dlkd_jax.video import files

SPLITS = ('train', 'val', 'test', 'gallery')
_KEYS = ('video', 'text', 'start', 'end', 'split')
_EDGE_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Caption:
  """One sentence; start and end in seconds, NaN where unknown."""

  text: str
  start: float
  end: float


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

  def digest(self) -> str:
    """Returns a hash of the split, the captions, and the file's size, beginning and end; the whole is not read."""
    hashed = hashlib.sha256(json.dumps([self.video, self.split, *map(dataclasses.astuple, self.captions)]).encode())
    try:
      size = self.path.stat().st_size
      with self.path.open('rb') as file:
        hashed.update(b'%d' % size + file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        hashed.update(file.read(_EDGE_BYTES))
    except OSError:
      hashed.update(b'unreadable')  # Reported when it is to be decoded.
    return hashed.hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """What is to be extracted.

  Attributes:
    jobs: the videos, by name.
    skipped: files of the folder that are not videos by their names.
    missing: videos that captions name and that are not there → how many captions.
  """

  jobs: tuple[Job, ...]
  skipped: tuple[str, ...]
  missing: dict[str, int]


def find(folder: pathlib.Path, captions: pathlib.Path | None) -> Corpus:
  """Finds the videos below a folder and joins the captions.

  A video without a caption goes to the split `gallery`; all do where there is no file of captions.

  Raises:
    ValueError: the folder is absent or holds no video, or a line of the captions is not as it should be.
    FileNotFoundError: there is no such file of captions.
  """
  videos, others = files.list_videos(folder)
  paths = {path.relative_to(folder).as_posix(): path for path in (*videos, *others)}
  said = _read_captions(captions) if captions is not None else {}
  named, missing = _join(said, list(paths), captions)
  wanted = {path.relative_to(folder).as_posix() for path in videos} | named.keys()
  if not wanted:
    raise UserError(f'{folder} holds no videos (found {len(others)} other files); give the folder that does')
  jobs = []
  for video in sorted(wanted):
    split, own = named.get(video, ('gallery', ()))
    jobs.append(Job(video, paths[video], split, tuple(own)))
  own = {name for name, path in paths.items() if captions is not None and path.resolve() == captions.resolve()}
  skipped = tuple(sorted(paths.keys() - wanted - own))
  return Corpus(tuple(jobs), skipped, missing)


def _join(said: dict[str, tuple[str, list[Caption]]], names: list[str], origin: pathlib.Path | None):
  """Returns file → (split, captions), and the names that no file has → how many captions."""
  endings: dict[str, list[str]] = collections.defaultdict(list)
  for name in names:
    parts = name.split('/')
    for start in range(len(parts)):
      tail = '/'.join(parts[start:])
      stem = tail.rpartition('.')[0] or tail
      for key in {tail, stem}:
        endings[key].append(name)
  named: dict[str, tuple[str, list[Caption]]] = {}
  missing = {}
  for video, content in said.items():
    fitting = [video] if video in names else endings.get(video, [])
    if len(fitting) > 1:
      raise UserError(f'{origin}: video {video!r} may be {sorted(fitting)[:4]}; write the path below the folder')
    if not fitting:
      missing[video] = len(content[1])
    elif fitting[0] in named:
      raise UserError(f'{origin}: {fitting[0]!r} is named in two ways, one of them {video!r}; use one')
    else:
      named[fitting[0]] = content
  return named, missing


def _read_captions(path: pathlib.Path) -> dict[str, tuple[str, list[Caption]]]:
  """Returns video → (split, captions), in the order of the file."""
  found: dict[str, tuple[str, list[Caption]]] = {}
  ignored: set[str] = set()
  try:
    lines = path.read_text(encoding='utf-8-sig').split('\n')
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: not UTF-8 text ({error})') from error
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    try:
      content = json.loads(line)
    except json.JSONDecodeError as error:
      raise UserError(f'{where}: not JSON ({error}); expected one object a line') from error
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


def _parse(content: Any, where: str) -> tuple[str, str, Caption]:
  """Returns video, split and caption of one line."""
  example = '{"video": "a.mp4", "text": "a dog runs", "start": 1.5, "end": 4, "split": "test"}'
  if not isinstance(content, dict):
    raise UserError(f'{where}: found {content!r:.60}; expected an object as {example}')
  for key in ('video', 'text'):
    if not isinstance(content.get(key), str) or not content[key].strip():
      raise UserError(f'{where}: {key!r} is {content.get(key)!r}; expected text, as in {example}')
  split = content.get('split') or 'test'
  if split not in SPLITS:
    raise UserError(f'{where}: split is {split!r}; expected one of {SPLITS}')
  start, end = (_seconds(content.get(key), f'{where}: {key!r}') for key in ('start', 'end'))
  if math.isnan(start) != math.isnan(end) or end < start:
    raise UserError(f'{where}: start is {content.get("start")} and end {content.get("end")}; give both, start first')
  return content['video'].strip(), split, Caption(content['text'].strip(), start, end)


def _seconds(value: Any, where: str) -> float:
  if value is None:
    return math.nan
  if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
    raise UserError(f'{where} is {value!r}; expected seconds from 0')
  return float(value)
