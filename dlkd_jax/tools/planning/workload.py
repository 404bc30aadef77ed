"""What a batch holds on average, and the static shapes that batches of such content take."""

from __future__ import annotations

import dataclasses

import numpy as np

from dlkd_jax.data.batch import Batch, Feature, PipelineOptions, batch_shapes
from dlkd_jax.data.packing import make_plan
from dlkd_jax.data.sources import Lengths
from dlkd_jax.tools.lengths import MODELS, SIZES

_BATCHES = 3


@dataclasses.dataclass(frozen=True)
class Workload:
  """The content of a data set.

  Attributes:
    model: of lengths, a name of `dlkd_jax.tools.lengths.MODELS`.
    captions: mean of a video, None for the model's own.
    sizes: feature sizes Dv, Dq, Dt; None for those that go with the model.
  """

  model: str = 'tvr'
  captions: float | None = None
  sizes: tuple[int, int, int] | None = None

  @property
  def features(self) -> tuple[int, int, int]:
    """Feature sizes Dv, Dq, Dt."""
    return self.sizes or SIZES[self.model]

  def lengths(self, videos: int) -> Lengths:
    """Returns the lengths of so many videos, always the same ones."""
    found = MODELS[self.model](videos)
    if self.captions is None:
      return found
    # Whole numbers whose mean is what was asked for, evenly spread.
    captions = np.diff(np.floor(np.arange(videos + 1) * self.captions)).astype(np.int64)
    tokens = np.resize(found.tokens, int(captions.sum()))
    return Lengths(found.student, found.teacher, captions, tokens)


def abstract_batch(workload: Workload, options: PipelineOptions) -> Batch:
  """Returns the shapes of a batch, as a tree of `jax.ShapeDtypeStruct` without shardings.

  It is the largest of the shapes that a run would compile for, which is the one that the memory must hold. Features
  are stored as float16.

  Args:
    workload: what batches hold.
    options: of the pipeline: videos of a batch, limits, packing, and the shares that it is split into.
  """
  videos = options.batch_videos
  lengths = workload.lengths(_BATCHES * videos)
  batches = [np.arange(start * videos, (start + 1) * videos) for start in range(_BATCHES)]
  plan = make_plan(batches, lengths, options)
  names = ('student_frames', 'student_tokens', *(('teacher_frames', 'teacher_text') if options.teacher else ()))
  student, token, teacher = workload.features
  widths = {'student_frames': student, 'student_tokens': token, 'teacher_frames': teacher, 'teacher_text': teacher}
  averaged = lengths.averages(options)
  features = {name: Feature(widths[name], np.float32 if averaged.get(name) else np.float16) for name in names}
  return batch_shapes(plan.levels[-1], options.shards, features)
