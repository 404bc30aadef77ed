"""Writes a data set in the layout of the release, so that other programs of the field can train on it.

The files are those that `release_layout` describes, BigFile for the student's frames. Names of videos are quoted as in
an address (`my%20film.mp4`), since the layout splits names at white space and `#`; sentences lose their line breaks.
Features are float32 and as they are stored: neither normalised nor resampled.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import h5py
import numpy as np

from tfds_builders.errors import PackError
from tfds_builders.release_layout import default_names

_MARK = 'written_by_dlkd_jax.json'


def check_target(folder: pathlib.Path) -> None:
  """Checks that a pack may be written: its last part is a name of a collection, and nothing of others lies there.

  Raises:
    PackError: the folder cannot be taken.
  """
  if not folder.name or folder.name != urllib.parse.quote(folder.name, safe=''):
    raise PackError(f'{folder}: its last part names the collection; expected letters, digits, "-", "_" and "."')
  if folder.exists() and not (folder / _MARK).is_file():
    raise PackError(f'{folder}: exists, and was not written by this command; choose another folder')


def write_pack(
  folder: pathlib.Path,
  splits: Mapping[str, Sequence[Mapping[str, Any]]],
  feature: str,
  about: Mapping[str, Any],
) -> dict[str, int]:
  """Writes a pack; it appears whole, in the place of an earlier one.

  Args:
    folder: `<root>/<collection>`.
    splits: split → its records, as of `records.py`. Videos without captions give features alone.
    feature: name of the student's features.
    about: plain values that are noted with the pack.

  Returns:
    split → captions written.

  Raises:
    PackError: as of `check_target`.
    OSError: the disk is full, or the folder cannot be written.
  """
  check_target(folder)
  temporary = folder.with_name(f'{folder.name}.tmp')
  shutil.rmtree(temporary, ignore_errors=True)
  counts = dict.fromkeys(splits, 0)
  with contextlib.ExitStack() as stack:
    writer = _Writer(temporary, folder.name, feature, stack)
    for split, records in splits.items():
      for record in (records[index] for index in range(len(records))):
        writer.add(split, record)
        counts[split] += len(record['captions'])
    writer.finish()
  (temporary / _MARK).write_text(json.dumps({'captions': counts, **about}, indent=2), encoding='utf-8')
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)
  return counts


class _Writer:
  """The open files of a pack; records are written as they come."""

  def __init__(self, root: pathlib.Path, collection: str, feature: str, stack: contextlib.ExitStack):
    self._text, self._big = root / 'TextData', root / 'FeatureData' / feature
    self._text.mkdir(parents=True)
    self._big.mkdir(parents=True)
    self._collection, self._stack = collection, stack
    self._names = default_names(collection)
    self._rows = stack.enter_context((self._big / 'feature.bin').open('wb'))
    self._ids, self._videos = (self._text_file(self._big / name) for name in ('id.txt', 'video2frames.txt'))
    self._videos.write('{')
    self._count = self._dims = 0
    self._tokens = stack.enter_context(h5py.File(self._text / self._names['tokens'], 'w'))
    self._captions: dict[str, TextIO] = {}
    self._teacher: tuple[h5py.File, h5py.File] | None = None
    self._moments: dict[str, list[float | None]] = {}

  def add(self, split: str, record: Mapping[str, Any]) -> None:
    video = urllib.parse.quote(_plain(record['video_id']), safe='')
    frames = np.ascontiguousarray(record['student_frames'], '<f4')
    names = [f'{video}_{row}' for row in range(len(frames))]
    self._rows.write(frames)
    self._ids.write(''.join(f'{name} ' for name in names))
    self._videos.write(f'{", " if self._count else ""}{video!r}: {names!r}')
    self._count, self._dims = self._count + len(frames), frames.shape[1]
    if len(record.get('teacher_frames', ())):
      self._teachers()[0][video] = _float32(record['teacher_frames'])
    if not len(record['captions']):
      return
    if split not in self._captions:
      self._captions[split] = self._text_file(self._text / f'{self._collection}{split}.caption.txt')
    tokens = np.split(record['student_tokens'], np.cumsum(record['token_lengths'])[:-1])
    for number, (text, rows) in enumerate(zip(record['captions'], tokens, strict=True)):
      caption = f'{video}#enc#{number}'
      self._captions[split].write(f'{caption} {" ".join(_plain(text).split())}\n')
      self._tokens[caption] = _float32(rows)
      times = (*record['moments'][number], record['duration'])
      self._moments[caption] = [None if np.isnan(time) else float(time) for time in times]
      if len(record.get('teacher_text', ())):
        self._teachers()[1][f'{video}#{number}'] = _float32(record['teacher_text'][number : number + 1])

  def _text_file(self, path: pathlib.Path) -> TextIO:
    return self._stack.enter_context(path.open('w', encoding='utf-8'))

  def _teachers(self) -> tuple[h5py.File, h5py.File]:
    """Returns the teacher's files of frames and of text; a set without a teacher has none."""
    if self._teacher is None:
      paths = self._big.parent / self._names['teacher_frames'], self._text / self._names['teacher_text']
      self._teacher = tuple(self._stack.enter_context(h5py.File(path, 'w')) for path in paths)
    return self._teacher

  def finish(self) -> None:
    self._videos.write('}')
    (self._big / 'shape.txt').write_text(f'{self._count} {self._dims}')
    (self._text / self._names['moments']).write_text(json.dumps(self._moments), encoding='utf-8')


def _plain(text: str | bytes) -> str:
  """Returns a text as TFDS gives it, or as it is."""
  return text.decode('utf-8') if isinstance(text, bytes) else str(text)


def _float32(rows: np.ndarray) -> np.ndarray:
  return np.asarray(rows, np.float32)
