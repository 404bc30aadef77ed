"""The folder that an extraction of features leaves, and that this data set is built from.

    <folder>/extraction.json          what it was made with, see below
    <folder>/videos/<key>.safetensors one file a video, written whole or not at all; any names

`extraction.json` holds `layout` (1), `sizes` ({'Dv': …, 'Dq': …, 'Dt': … or null without a teacher}) and `options`:
plain values that change the features, kept with the data set and compared when videos are added. `where` may say where
their models are, teacher, student and tokens; that is kept, too, and not compared. `sizes` may hold `S`:
files then have `teacher_pixels` [n, S, S, 3] uint8, too, the pictures that the teacher saw.

Arrays of a file: `student_frames` [n, Dv], `teacher_frames` [n, Dt] and `teacher_text` [k, Dt] (where there is a
teacher), `student_tokens` [sum(token_lengths), Dq], `token_lengths` [k] int32, `moments` [k, 2] float32 and `times` [n]
float32, in seconds as a player shows them. Its metadata, all of it text: `video`, `split`, `duration` (seconds),
`start` (likewise, of the first picture), `captions` and `caption_ids` (JSON lists of k texts), and `digest`, which
changes where the video or its captions do; behind a colon it may hold what follows the video alone. k may be 0.
`check_sum`, of the arrays, may be there.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
from absl import logging

from dlkd_jax import file_kinds
from tfds_builders.arrays import as_rows
from tfds_builders.errors import DuplicateIdError, MalformedFileError, MissingFileError, WrongSizeError
from tfds_builders.records import Sizes

LAYOUT = 1
SPLITS = ('train', 'val', 'test', 'gallery')
CHECK_SUM = 'check_sum'


def is_same(digest: str, other: str) -> bool:
  """Whether two digests are of one video with the same captions; a part that one of them lacks is not compared."""
  return all(one == two for one, two in zip(digest.split(':'), other.split(':'), strict=False))


def check_sum(data: Mapping[str, np.ndarray]) -> str:
  """Returns a hash of arrays, by name."""
  hashed = hashlib.blake2b(digest_size=16)
  for name in sorted(data):
    array = np.ascontiguousarray(data[name])
    hashed.update(f'{name} {array.dtype} {array.shape} '.encode())
    hashed.update(memoryview(array).cast('B') if array.size else b'')
  return hashed.hexdigest()


class Extracted:
  """The source of the records: the videos of the folder that a set does not hold yet.

  Attributes:
    options: what the features were made with.
    digests: video → digest of those that are to be written.
    replaced: those of them that the set holds already, made of another file or other captions.
    changed: videos of the set that differ, too, and are left as they are.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    packed: dict[str, str] | None = None,
    splits: Sequence[str] = (),
    update: bool | Collection[str] = (),
    starts: bool = True,
    without: Collection[str] = (),
  ):
    """Reads what there is, and no features.

    Args:
      folder: see the module.
      packed: video → digest of those that the set holds already.
      splits: splits that the set has already.
      update: videos of the set that are replaced where they changed; True: all.
      starts: whether records tell when the picture begins; those of a set that was begun before they did go without.
      without: videos of the folder that are neither written nor compared.

    Raises:
      PackError: no such folder, or a file of it is damaged.
    """
    self._folder, self._starts = folder, starts
    content = _read_options(folder / 'extraction.json')
    self.options: dict[str, Any] = content['options']
    self._sizes, self._where = content['sizes'], content.get('where', {})
    found = {video: each for video, each in _read_videos(folder / 'videos').items() if video not in without}
    packed = packed or {}
    differ = [
      video for video, (_, meta) in found.items() if not is_same(packed.get(video, meta['digest']), meta['digest'])
    ]
    self.replaced = sorted(video for video in differ if update is True or video in (update or ()))
    self.changed = sorted(set(differ) - set(self.replaced))
    if self.changed:
      logging.warning(
        '%s: %d videos, or their captions, were changed since they were packed, and are left as they are: %s',
        folder,
        len(self.changed),
        self.changed[:6],
      )
    new = {video: each for video, each in sorted(found.items()) if video not in packed or video in set(self.replaced)}
    self._files = {video: path for video, (path, _) in new.items()}
    self.digests = {video: meta['digest'] for video, (_, meta) in new.items()}
    by_split = {split: [video for video, (_, meta) in new.items() if meta['split'] == split] for split in SPLITS}
    self._videos = {split: videos for split, videos in by_split.items() if videos or split in splits}

  def sizes(self) -> Sizes:
    """Returns the features a row, as the folder says."""
    dims = (self._sizes[name] for name in ('Dv', 'Dq', 'Dt'))
    return Sizes(*dims, times=True, start=self._starts, pixels=self._sizes.get('S'))

  def videos(self) -> dict[str, list[str]]:
    """Returns split → new videos by name; the splits that the set has already are among them."""
    return self._videos

  def description(self) -> dict[str, Any]:
    """Returns the folder, and where the models of the features were."""
    return {'manual_dir': str(self._folder.resolve()), 'where': self._where}

  def record(self, split: str, video: str) -> dict[str, Any]:
    """Returns one record.

    Raises:
      PackError: the file is damaged, or an array has another size than the folder says or is not finite.
    """
    del split
    path = self._files[video]
    data, meta = _read(path, features=True)
    if meta.get(CHECK_SUM, '') not in ('', check_sum(data)):
      raise MalformedFileError(f'{path}: damaged since it was written; remove it and run the extraction again')
    sizes = self.sizes()
    captions, ids = json.loads(meta['captions']), json.loads(meta['caption_ids'])
    frames = as_rows(data['student_frames'], f'{path}: student_frames', sizes.student)
    record = {
      'video_id': video,
      'student_frames': frames,
      'student_tokens': _rows(data, 'student_tokens', int(data['token_lengths'].sum()), sizes.tokens, path),
      'token_lengths': data['token_lengths'].astype(np.int32),
      'captions': captions,
      'caption_ids': ids,
      'moments': _rows(data, 'moments', len(captions), 2, path, finite=False).astype(np.float32),
      'duration': np.float32(meta['duration']),
      'times': data['times'].astype(np.float32),
    }
    if sizes.start:  # NaN: made before files told it.
      record['start'] = np.float32(meta.get('start', 'nan'))
    if sizes.teacher is not None:
      record['teacher_frames'] = _rows(data, 'teacher_frames', len(frames), sizes.teacher, path)
      record['teacher_text'] = _rows(data, 'teacher_text', len(captions), sizes.teacher, path)
    if sizes.pixels is not None:
      pixels, shape = data.get('teacher_pixels', np.zeros(0)), (len(frames), sizes.pixels, sizes.pixels, 3)
      if pixels.shape != shape or pixels.dtype != np.uint8:
        raise WrongSizeError(f'{path}: teacher_pixels are {list(pixels.shape)}, expected {list(shape)} of uint8')
      record['teacher_pixels'] = pixels
    counts = {len(captions), len(ids), len(record['token_lengths'])}
    if len(counts) > 1 or record['times'].shape != (len(frames),):
      raise WrongSizeError(f'{path}: numbers of captions or of times disagree; extract this video again')
    return record


def _rows(
  data: dict[str, np.ndarray], name: str, rows: int, dims: int, path: pathlib.Path, finite: bool = True
) -> np.ndarray:
  """Returns one array after checking its shape; it may have no rows."""
  array = data.get(name, np.zeros(0))
  if array.shape != (rows, dims):
    raise WrongSizeError(f'{path}: {name} is {list(array.shape)}, expected {[rows, dims]}; extract it again')
  return as_rows(array, f'{path}: {name}', dims) if finite and rows else array


def _read_options(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    right = (
      content['layout'] == LAYOUT
      and isinstance(content['options'], dict)
      and content['sizes'].keys()
      >= {
        'Dv',
        'Dq',
        'Dt',
      }
    )
  except FileNotFoundError as error:
    raise MissingFileError(
      f'{path}: absent; --manual_dir must be the folder that `dlkd extract` left beside a data set'
    ) from error
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    raise MalformedFileError(f'{path}: not the JSON of an extraction ({error})') from error
  if not right:
    raise MalformedFileError(f'{path}: expected layout {LAYOUT}, found {content.get("layout")!r}')
  return content


def _read_videos(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, dict[str, str]]]:
  """Returns video → file and metadata."""
  found: dict[str, tuple[pathlib.Path, dict[str, str]]] = {}
  for path in sorted(folder.glob('*.safetensors')):
    _, meta = _read(path, features=False)
    absent = {'video', 'split', 'duration', 'captions', 'caption_ids', 'digest'} - meta.keys()
    if absent or meta['split'] not in SPLITS:
      raise MalformedFileError(f'{path}: lacks {sorted(absent)} or has a split not in {SPLITS}; remove it')
    if meta['video'] in found:
      raise DuplicateIdError(f'{path}: video {meta["video"]!r} is in {found[meta["video"]][0]} too; remove one')
    found[meta['video']] = path, meta
  return found


def _read(path: pathlib.Path, features: bool) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      data = {name: file.get_tensor(name) for name in file.keys()} if features else {}  # noqa: SIM118
      return data, file.metadata() or {}
  except (safetensors.SafetensorError, OSError) as error:
    if kind := file_kinds.kind_of(path, 'safetensors'):
      raise MalformedFileError(f'{path}: expected features of an extraction; it is {kind}') from error
    raise MalformedFileError(
      f'{path}: not a whole safetensors file ({error}); remove it and run the extraction again'
    ) from error
