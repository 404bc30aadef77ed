"""The record: what one video looks like in every data set here, and how it is stored.

| feature | shape | |
|---|---|---|
| video_id | text | |
| student_frames | [n, Dv] | float16, or float32 on request |
| teacher_frames | [m, Dt] | same type; 0 rows in a split without teacher; absent without teacher |
| teacher_pixels | [m, S, S, 3] uint8 | what the teacher saw, resized and cropped for it, RGB; absent unless asked for |
| student_tokens | [sum(token_lengths), Dq] | same type; tokens of all captions, one after another |
| token_lengths | [k] int32 | tokens of each caption |
| teacher_text | [k, Dt] | same type; 0 rows or absent like teacher_frames |
| captions | k texts | |
| caption_ids | k texts | |
| moments | [k, 2] float32 | start and end in seconds, NaN where unknown |
| duration | float32 | seconds, NaN where unknown |
| times | [n] float32 | seconds of each student frame; only in sets that were extracted from videos |
| start | float32 | seconds at which the picture begins; times of a record without it may count from there, not from 0 |

A video that is only searched has k = 0 captions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.arrays import to_storage

FEATURES = ('student_frames', 'teacher_frames', 'student_tokens', 'teacher_text')

_TARGET_SHARD_BYTES = 384 << 20
_FEWEST_SHARDS = 4
_SAMPLED_VIDEOS = 16


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Features a row, as found in the data.

  Attributes:
    student: Dv of the frames.
    tokens: Dq of the tokens.
    teacher: Dt; None without a teacher.
    times: whether the records tell the time of each student frame.
    start: whether they tell when the picture begins, as players have it.
    pixels: S, width and height of the pictures that the teacher saw; None where they are not kept.
  """

  student: int
  tokens: int
  teacher: int | None
  times: bool = False
  start: bool = False
  pixels: int | None = None

  def as_json(self) -> dict[str, int | None]:
    """Returns the sizes under the names of the documentation: Dv, Dq, Dt, and S where there is one."""
    return {'Dv': self.student, 'Dq': self.tokens, 'Dt': self.teacher} | ({'S': self.pixels} if self.pixels else {})


class Source(Protocol):
  """Where records come from: files, or a generator."""

  def sizes(self) -> Sizes:
    """Returns the features a row."""

  def videos(self) -> Mapping[str, list[str]]:
    """Returns split → video ids, in the order they are to be written."""

  def record(self, split: str, video: str) -> dict[str, Any]:
    """Returns one record with features in any float type; raises PackError where it is bad."""

  def description(self) -> dict[str, Any]:
    """Returns plain values that tell this source from another, kept with the data set."""


def schema(sizes: Sizes, dtype: np.dtype) -> tfds.features.FeaturesDict:
  """Returns the TFDS features of a record; features are stored as raw bytes."""

  def rows(dims: int) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None, dims), dtype=dtype, encoding='bytes')

  features = {
    'video_id': tfds.features.Text(),
    'student_frames': rows(sizes.student),
    'student_tokens': rows(sizes.tokens),
    'token_lengths': tfds.features.Tensor(shape=(None,), dtype=np.int32),
    'captions': tfds.features.Sequence(tfds.features.Text()),
    'caption_ids': tfds.features.Sequence(tfds.features.Text()),
    'moments': tfds.features.Tensor(shape=(None, 2), dtype=np.float32, encoding='bytes'),
    'duration': tfds.features.Scalar(dtype=np.float32),
  }
  if sizes.teacher is not None:
    features |= {'teacher_frames': rows(sizes.teacher), 'teacher_text': rows(sizes.teacher)}
  if sizes.times:
    features['times'] = tfds.features.Tensor(shape=(None,), dtype=np.float32, encoding='bytes')
  if sizes.start:
    features['start'] = tfds.features.Scalar(dtype=np.float32)
  if sizes.pixels is not None:
    shape = (None, sizes.pixels, sizes.pixels, 3)
    features['teacher_pixels'] = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding='bytes')
  return tfds.features.FeaturesDict(features)


def store(record: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
  """Returns the record with its features in the type they are stored in.

  Raises:
    RangeError: a value does not fit `dtype`; the message names feature and video.
  """
  video = record['video_id']
  return {
    name: to_storage(value, dtype, f'{name} of video {video!r}') if name in FEATURES else value
    for name, value in record.items()
  }


def choose_num_shards(source: Source, split: str, dtype: np.dtype, fewest: int = _FEWEST_SHARDS) -> int:
  """Returns how many files keep one near 384 MB: `fewest` at least, but never more than videos."""
  videos = source.videos()[split]
  if not videos:
    return 0
  sample = videos[:: max(1, len(videos) // _SAMPLED_VIDEOS)]
  size = 0
  for video in sample:
    record = source.record(split, video)
    size += sum(record[name].size for name in FEATURES if name in record) * dtype.itemsize
    size += record['teacher_pixels'].size if 'teacher_pixels' in record else 0
  total = size / len(sample) * len(videos)
  return min(len(videos), max(fewest, round(total / _TARGET_SHARD_BYTES)))
