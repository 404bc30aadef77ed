"""Records of random features with given lengths, for benchmarks without a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlkd_jax.data.batch import Batch, PipelineOptions
from dlkd_jax.data.sources import Lengths, Record
from dlkd_jax.data.train_pipeline import train_pipeline
from dlkd_jax.tools import lengths as models


def random_record(index: int, lengths: Lengths, sizes: tuple[int, int, int], rng: np.random.Generator) -> Record:
  """Returns the record of a video with random features, float16, of its lengths and of the sizes Dv, Dq, Dt."""

  def features(rows: int, width: int) -> np.ndarray:
    return rng.standard_normal((rows, width), np.float32).astype(np.float16)

  captions, start = int(lengths.captions[index]), int(lengths.starts[index])
  tokens = lengths.tokens[start : start + captions]
  student, token, teacher = sizes
  return {
    'video_id': f'video_{index:05d}',
    'student_frames': features(int(lengths.student[index]), student),
    'teacher_frames': features(int(lengths.teacher[index]), teacher),
    'student_tokens': features(int(tokens.sum()), token),
    'token_lengths': tokens.astype(np.int32),
    'teacher_text': features(captions, teacher),
    'captions': [f'caption {k} of video {index}' for k in range(captions)],
    'caption_ids': [f'video_{index:05d}#enc#{k}' for k in range(captions)],
    'moments': np.full((captions, 2), np.nan, np.float32),
    'duration': np.float32(np.nan),
  }


class RandomSource(Sequence):
  """A source whose records are made when they are read; the same index gives the same record."""

  def __init__(self, lengths: Lengths, sizes: tuple[int, int, int]):
    """Takes the lengths of the records, and Dv, Dq, Dt."""
    self._lengths, self._sizes = lengths, sizes

  def __len__(self) -> int:
    return len(self._lengths)

  def __getitem__(self, index: int) -> Record:
    if not 0 <= index < len(self):
      raise IndexError(index)
    return random_record(index, self._lengths, self._sizes, np.random.default_rng(index))


def random_batch(model: str, options: PipelineOptions) -> Batch:
  """Makes one batch of random features, of as many videos as the options name.

  Args:
    model: name of a model of lengths in `dlkd_jax.tools.lengths`.
    options: of the pipeline. Batches of the same model and number of videos hold the same videos, however laid out.
  """
  lengths = models.MODELS[model](options.batch_videos)
  pipeline = train_pipeline(RandomSource(lengths, models.SIZES[model]), options, seed=0, lengths=lengths)
  iterator = iter(pipeline)
  batch = next(iterator)
  iterator.close()
  return batch
