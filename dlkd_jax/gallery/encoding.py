"""From records and sentences to the unit vectors that an index holds and is searched with.

A student has positions for `max_frames` frames. A longer video is encoded in windows of that many frames, each half
over the one before it, and a frame's vector is taken from the window in which it has most neighbours on both sides: so
every frame keeps its time, however long the video is. With `long_videos='resample'` it is brought to `max_frames` rows
by averaging, as in training and evaluation, and its moments are that coarse.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from dlkd_jax import annotations, sharding
from dlkd_jax import config as config_lib
from dlkd_jax.data import sources, transforms
from dlkd_jax.data.taught import with_teacher
from dlkd_jax.errors import UserError
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.layout import padded_layout
from dlkd_jax.models import parameter_files
from dlkd_jax.models.anchors import TEACHER as BEHIND
from dlkd_jax.models.students import Student, init_parameters, make_student, teacher_features
from dlkd_jax.vectors import unit

TEACHER = 'teacher'
LONG_VIDEOS = ('windows', 'resample')
_QUERY_BATCHES = (1, 8, 64)


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
  """A video as an index holds it.

  Attributes:
    times: `[n]` float32 seconds, rising; frame numbers where the record tells neither times nor a duration.
    rows: scorer → `[n, H]` float32 unit vectors.
  """

  times: np.ndarray
  rows: Mapping[str, np.ndarray]


def windows(frames: int, size: int) -> list[tuple[int, int, int, int]]:
  """Cuts a video of so many frames into windows of at most `size`.

  Returns:
    For each window where it starts and ends, and which of its frames, from where to where, are taken from it; the
    latter cover every frame once.
  """
  if frames <= size:
    return [(0, frames, 0, frames)]
  count = 1 + math.ceil((frames - size) / max(1, size // 2))
  starts = np.round(np.linspace(0, frames - size, count)).astype(int)
  borders = [0, *((starts[1:] + starts[:-1] + size) // 2), frames]
  return [
    (int(start), int(start) + size, int(first), int(last))
    for start, first, last in zip(starts, borders[:-1], borders[1:], strict=True)
  ]


def spread(rows: np.ndarray, count: int) -> np.ndarray:
  """Repeats rows evenly until there are `count`, so that no maximum over them changes; of more, leaves some out."""
  if len(rows) == count:
    return rows
  return rows[((np.arange(count) + 0.5) * len(rows) / count).astype(int)]


def frame_times(record: Mapping[str, Any], count: int) -> np.ndarray:
  """Returns when each of a video's `count` rows is shown, float32 seconds: as the record says, or evenly spread.

  A record says it by `times`, of equal intervals their mean; or by its duration, of which each row is in the middle of
  its share. Without either a row's number is returned.
  """
  times = np.asarray(record.get('times', ()), np.float32)
  if len(times) > count:
    return transforms.resample_frames(times[:, None], count)[:, 0]
  if len(times):
    return spread(times, count)
  duration = float(record['duration'])
  if not np.isfinite(duration):
    return np.arange(count, dtype=np.float32)
  return annotations.even_times(count, duration).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(student: Student, method: str, params: Any, rows: Any, mask: Any) -> dict[str, jax.Array]:
  """Compiled once for all indexes of one kind of student."""
  return student.apply({'params': params}, rows, mask, method=method)


class StudentEncoder:
  """A trained student, ready to encode; what it makes of a video does not depend on what is encoded with it.

  Attributes:
    config: of its training.
    params: its parameters.
    branches: its scorers.
    sizes: of the vectors of each.
    taught: those of them that see the teacher's features.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, params: Any | pathlib.Path, sizes: Mapping[str, int], origin: str
  ):
    """Takes a student and places it on this process's devices.

    Args:
      config: of its training.
      params: its parameters, or a safetensors file of them.
      sizes: Dv and Dq of the data set.
      origin: where the parameters are from, for the message.

    Raises:
      ValueError: the parameters do not fit the configuration and the data set.
    """
    student, more = make_student(config), teacher_features(config)
    if more and sizes.get('Dt', more) != more:
      found = sizes['Dt'] or 'none'
      raise UserError(f'{origin} sees {more} features of the teacher, and the records have {found}')
    inputs = sizes['Dv'] + more, sizes['Dq'] + more
    like = jax.eval_shape(lambda: init_parameters(student, jax.random.key(0), *inputs))
    if isinstance(params, pathlib.Path):
      params = parameter_files.read_parameters(params, like, config.model.heads)
    parameter_files.check_shapes(params, like, origin)
    tokens = jax.ShapeDtypeStruct((1, 1, inputs[1]), np.float32), jax.ShapeDtypeStruct((1, 1), bool)
    vectors = jax.eval_shape(functools.partial(_encode, student, 'encode_tokens'), like, *tokens)
    self.config, self.params, self.branches = config, params, student.branches
    self.sizes = {name: vectors[name].shape[-1] for name in self.branches}
    self.taught, self._more = tuple(name for name in self.branches if more and name.startswith(BEHIND)), more
    self._mesh = sharding.make_mesh(jax.local_devices())
    self._placed = jax.device_put(params, sharding.replicated(self._mesh))
    self._block = -(-config.evaluation.block_videos // self._mesh.size) * self._mesh.size
    self._encode, self._layouts = functools.partial(_encode, student), student.layouts

  def inputs(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a record whose features are those that this student sees; errors are those of `taught.with_teacher`."""
    return with_teacher(record) if self._more else record

  def joined(self, tokens: Sequence[np.ndarray], texts: np.ndarray | None) -> list[np.ndarray]:
    """Returns tokens `[n_i, Dq]` of sentences with the teacher's vectors of these, `[q, Dt]`, behind them.

    Without any, where no branch that sees them is wanted, zeros stand there.
    """
    texts = np.zeros((len(tokens), self._more), np.float32) if texts is None else texts
    if not self._more:
      return list(tokens)
    return [np.concatenate([x, np.repeat(t[None], len(x), axis=0)], axis=1) for x, t in zip(tokens, texts, strict=True)]

  def encode_frames(self, videos: Sequence[np.ndarray], long_videos: str) -> list[dict[str, np.ndarray]]:
    """Encodes videos.

    Args:
      videos: `[n_i, Dv]` features each, as stored.
      long_videos: one of `LONG_VIDEOS`.

    Returns:
      For each branch → `[n_i, H]` float32 unit vectors; at most `max_frames` of them where long videos are resampled.
    """
    size = self.config.data.max_frames
    if long_videos == 'resample':
      videos = [transforms.resample_frames(rows, size) for rows in videos]
    encoded = [{name: [] for name in self.branches} for _ in videos]
    parts = [(video, *window) for video, rows in enumerate(videos) for window in windows(len(rows), size)]
    results: list[Any] = [None] * len(parts)
    order = sorted(range(len(parts)), key=lambda part: parts[part][1] - parts[part][2])
    for first in range(0, len(order), self._block):
      some = order[first : first + self._block]
      pieces = [videos[parts[part][0]][parts[part][1] : parts[part][2]] for part in some]
      for part, vectors in zip(some, self._encode_block(pieces), strict=True):
        results[part] = vectors
    for (video, start, _, keep, until), vectors in zip(parts, results, strict=True):
      for name in self.branches:
        encoded[video][name].append(vectors[name][keep - start : until - start])
    return [{name: np.concatenate(rows) for name, rows in video.items()} for video in encoded]

  def _encode_block(self, pieces: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    lengths = np.array([len(rows) for rows in pieces] + [0] * (self._block - len(pieces)))
    most, longest = self.config.data.max_frames, int(lengths.max())
    size = min([size for size in self.config.data.frame_sizes if size >= longest] + [most])
    padded = np.zeros((self._block, size, pieces[0].shape[-1]), np.float32)
    for rows, out in zip(pieces, padded, strict=False):
      transforms.normalize_rows(transforms.widen(rows), out[: len(rows)])
    mask = np.arange(size)[None] < lengths[:, None]
    placed = sharding.shard_batch((padded, mask), self._mesh)
    vectors = jax.device_get(self._encode('encode_frames', self._placed, *placed))
    there = {name: np.asarray(layout.mask) for name, layout in self._layouts(padded_layout(mask)).items()}
    # A branch with fewer vectors than frames has each at several of them.
    return [
      {name: spread(unit(vectors[name][i][there[name][i]]), len(rows)) for name in self.branches}
      for i, rows in enumerate(pieces)
    ]

  def encode_tokens(self, captions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Encodes sentences.

    Args:
      captions: `[n_i, Dq]` token features each, as stored; longer ones than `max_words` are cut.

    Returns:
      branch → `[q, H]` float32 unit vectors.
    """
    most, block = (
      self.config.data.max_words,
      next((b for b in _QUERY_BATCHES if b >= len(captions)), _QUERY_BATCHES[-1]),
    )
    collected: dict[str, list[np.ndarray]] = {name: [] for name in self.branches}
    for first in range(0, len(captions), block):
      some = [rows[:most] for rows in captions[first : first + block]]
      # Padded ones get a word, too, so that nothing is divided by zero.
      lengths = np.array([len(rows) for rows in some] + [1] * (block - len(some)))
      padded = np.zeros((block, most, some[0].shape[-1]), np.float32)
      for rows, out in zip(some, padded, strict=False):
        transforms.normalize_rows(transforms.widen(rows), out[: len(rows)])
      vectors = self._encode('encode_tokens', self._placed, padded, np.arange(most)[None] < lengths[:, None])
      for name in self.branches:
        collected[name].append(unit(np.asarray(vectors[name])[: len(some)]))
    return {name: np.concatenate(parts) for name, parts in collected.items()} if len(captions) else {}


def open_student(folder: IndexFolder) -> StudentEncoder | None:
  """Opens the student of an index; None where only the teacher scores."""
  about = folder.manifest['student']
  if about is None:
    return None
  file = folder.path / about['file']
  config = config_lib.restore(about['config'], f'the index in {folder.path}').config
  return StudentEncoder(config, file, folder.manifest['features'], str(file))


def encode_videos(
  records: Sequence[Mapping[str, Any]], scorers: Sequence[str], student: StudentEncoder | None, long_videos: str
) -> list[EncodedVideo]:
  """Encodes the videos of records for all scorers of an index.

  Where student and teacher have different numbers of rows, the fewer ones are repeated: the best score of either does
  not change by it.

  Args:
    records: see `dlkd_jax.data.sources`.
    scorers: branches of the student, 'teacher', or some of them.
    student: None where only the teacher scores.
    long_videos: one of `LONG_VIDEOS`.

  Raises:
    ValueError: a video lacks frames that a scorer needs, or they hold NaN or infinities.
  """
  for record in records:
    for feature in (*(['student_frames'] if student else []), *(['teacher_frames'] if TEACHER in scorers else [])):
      if not sources.has_rows(record, feature):
        raise UserError(
          f'video {sources.text(record["video_id"])!r} has no {feature}; leave its split out (--splits), or extract it '
          'again'
        )
      with sources.naming_bad_rows(record):
        transforms.check_finite(transforms.widen(np.asarray(record[feature])))
  branches: list[dict[str, np.ndarray]] = [{} for _ in records]
  if student:
    seen = [np.asarray(student.inputs(record)['student_frames']) for record in records]
    branches = student.encode_frames(seen, long_videos)
  encoded = []
  for record, found in zip(records, branches, strict=True):
    rows = {name: found[name] for name in scorers if name in found}
    if TEACHER in scorers:
      teacher = np.asarray(record['teacher_frames'])
      if student and long_videos == 'resample':
        teacher = transforms.resample_frames(teacher, student.config.data.max_frames)
      rows[TEACHER] = unit(transforms.widen(teacher))
    count = max(len(array) for array in rows.values())
    rows = {name: spread(array, count) for name, array in rows.items()}
    encoded.append(EncodedVideo(frame_times(record, count), rows))
  return encoded


def encode_captions(
  records: Sequence[Mapping[str, Any]], scorers: Sequence[str], student: StudentEncoder | None
) -> list[dict[str, np.ndarray] | None]:
  """Encodes the captions of records as queries.

  Returns:
    For each record scorer → `[k, H]` float32 unit vectors; None where it has no captions, or lacks features of them
    that a scorer needs.
  """
  taught = TEACHER in scorers or (student is not None and student.taught)
  usable = [
    len(record['token_lengths']) > 0 and (not taught or sources.has_rows(record, 'teacher_text')) for record in records
  ]
  some = [record for record, use in zip(records, usable, strict=True) if use]
  branches: dict[str, np.ndarray] = {}
  if student and some:
    seen = [student.inputs(record)['student_tokens'] for record in some]
    lengths = [record['token_lengths'] for record in some]
    cut = [np.split(x, np.cumsum(own)[:-1]) for x, own in zip(seen, lengths, strict=True)]
    branches = student.encode_tokens([tokens for own in cut for tokens in own])
  encoded, first = [], 0
  for record, use in zip(records, usable, strict=True):
    if not use:
      encoded.append(None)
      continue
    own = slice(first, first := first + len(record['token_lengths']))
    vectors = {name: array[own] for name, array in branches.items()}
    if TEACHER in scorers:
      vectors[TEACHER] = unit(transforms.widen(np.asarray(record['teacher_text'])))
    encoded.append({name: vectors[name] for name in scorers})
  return encoded
