"""Records as batches take them: checked, at most so many frames and words, each feature in one type."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dlkd_jax.data import sources, transforms
from dlkd_jax.data.batch import Feature, PipelineOptions
from dlkd_jax.data.sources import Lengths, Record, Source
from dlkd_jax.errors import UserError


class Prepared(Sequence):
  """What batches take of the records of a source.

  Attributes:
    features: width and type of each array of features; a picture is so many numbers.
    lengths: of the records, as stored.
    options: of the pipeline.
  """

  def __init__(self, source: Source, lengths: Lengths, options: PipelineOptions):
    """Takes records, and looks at the first; raises UserError where training cannot use it."""
    self.lengths, self.options = lengths, options
    self.features = _features(source[0], lengths, options)
    self._source, self._checked = source, np.zeros(len(source), bool)  # Those that are known to be as they should.
    self._kept: dict[int, dict[str, np.ndarray]] = {}
    self._room = 0.0

  def __len__(self) -> int:
    return len(self._source)

  def keep(self, room: float) -> None:
    """Keeps what is read from now on in so many bytes of memory, for those who read it again."""
    self._room = room

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns the features of a record: rows of frames, of tokens, one caption after another, and of captions.

    Raises:
      UserError: the record lacks what training needs, holds NaN or infinities, or has other lengths than were listed.
      DamagedFileError: it cannot be read.
    """
    if (kept := self._kept.get(index)) is not None:
      return kept
    record = self._source[index]
    if not self._checked[index]:
      self._check(record, index)
    found = self._prepare(record)
    size = sum(array.nbytes for array in found.values())
    if size <= self._room:
      self._room -= size
      self._kept[index] = found
    return found

  def _prepare(self, record: Record) -> dict[str, np.ndarray]:
    options = self.options
    student, found = record['student_frames'], {}
    if options.teacher:
      student, teacher = transforms.at_common_length(student, record['teacher_frames'])
      found['teacher_text'] = record['teacher_text']
      if options.pixels:
        chosen = transforms.middle_rows(len(record['teacher_frames']), len(teacher))
        chosen = chosen[transforms.middle_rows(len(chosen), options.max_frames)]
        found['teacher_pixels'] = record['teacher_pixels'][chosen].reshape(len(chosen), -1)
      else:
        found['teacher_frames'] = transforms.at_most(teacher, options.max_frames)
    within = transforms.places_within(np.asarray(record['token_lengths']))
    found['student_tokens'] = record['student_tokens'][within < options.max_words]
    found['student_frames'] = transforms.at_most(student, options.max_frames)
    return found | {name: record[name] for name in self.features if name == 'query_anchors'}

  def _check(self, record: Record, index: int) -> None:
    """Checks that training can use a record and that it is as long as listed."""
    sources.check_trainable(record, self.options)
    found, listed = sources.record_lengths(record), self.lengths.of(index)
    if found[::2] != listed[::2] or (self.options.teacher and found[1] != listed[1]):
      raise UserError(
        f'video {sources.text(record["video_id"])!r} has {found[0]} student and {found[1]} teacher frames and captions '
        f'of {found[2]} tokens; listed are {listed[0]}, {listed[1]} and {listed[2]}: the lengths are of other records; '
        'build the data set again, or remove its lengths-*.npz files'
      )
    for name, expected in self.features.items():
      width, dtype = math.prod(record[name].shape[1:]), record[name].dtype
      if width != expected.width or expected.dtype not in (dtype, np.float32):
        raise UserError(
          f'video {sources.text(record["video_id"])!r} has {name} of {width} features; expected {expected.width}, as '
          f'the others have, and {expected.dtype} (these are {dtype}); build the data set again'
        )
    with sources.naming_bad_rows(record):
      for name in self.features:
        transforms.check_finite(record[name])
    self._checked[index] = True


def _features(record: Record, lengths: Lengths, options: PipelineOptions) -> dict[str, Feature]:
  """Returns width and type of each array of features of a batch."""
  sources.check_trainable(record, options)
  teacher = ('teacher_pixels' if options.pixels else 'teacher_frames', 'teacher_text') if options.teacher else ()
  averaged = lengths.averages(options)

  def dtype(name: str) -> np.dtype:
    stored = record[name].dtype
    exact = stored in (np.float16, np.uint8) and not averaged.get(name)
    return stored if exact else np.dtype(np.float32)

  anchors = ('query_anchors',) if 'query_anchors' in record else ()
  names = ('student_frames', 'student_tokens', *anchors, *teacher)
  return {name: Feature(math.prod(record[name].shape[1:]), dtype(name)) for name in names}
