"""What is found of a run on a split: plain values, the content of the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlkd_jax.reporting.bootstrap import Interval
from dlkd_jax.reporting.examples import Example
from dlkd_jax.reporting.fusion import Point
from dlkd_jax.reporting.significance import Comparison
from dlkd_jax.reporting.training_log import TrainingLog


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A metric with intervals.

  Attributes:
    value: the metric.
    captions: 95% interval, captions resampled; None where it was not made.
    videos: 95% interval, videos resampled with all their captions.
  """

  value: float
  videos: Interval
  captions: Interval | None = None


Estimates = Mapping[str, Mapping[str, Estimate]]  # scorer → metric → estimate.


@dataclasses.dataclass(frozen=True)
class SliceFinding:
  """Metrics of the captions of one slice.

  Attributes:
    label: of the slice.
    captions: how many it has.
    metrics: scorer → metric → estimate.
  """

  label: str
  captions: int
  metrics: Estimates


@dataclasses.dataclass(frozen=True)
class MomentFinding:
  """How well a scorer points at the annotated moments.

  Attributes:
    every: columns of `moment_accuracy.COLUMNS` → estimate, of all annotated captions, over their own video.
    first: the same of those whose video the scorer ranks first.
    found_first: how many these are.
    chance: column → value without looking, of all; `chance_first` of those ranked first.
    by_ratio: label of a moment-to-video ratio → captions, and the best frame's estimate.
  """

  every: Mapping[str, Estimate]
  first: Mapping[str, Estimate] | None
  found_first: int
  chance_first: Mapping[str, float] | None
  by_ratio: Mapping[str, tuple[int, Estimate]]


@dataclasses.dataclass(frozen=True)
class FusionFinding:
  """The sweep over fusion weights.

  Attributes:
    split: that the weights were chosen on.
    points: of the grid, on that split.
    first: the student's first branch, whose share is a.
    configured: the student's weights as configured, there.
    chosen: the best without the teacher; `blended`: the best of all, None without a teacher.
    results: name of a choice ('configured', 'chosen', 'blended') → scorer's estimates on the evaluated split.
    comparisons: of the choices with the configured weights, on the evaluated split.
  """

  split: str
  first: str
  points: list[Point]
  configured: Point
  chosen: Point
  blended: Point | None
  results: Estimates
  comparisons: list[Comparison]


@dataclasses.dataclass(frozen=True)
class RunFindings:
  """All that is reported of one run.

  Attributes:
    name, workdir: of the run.
    about: plain facts: data set, split, epochs, seed, sizes.
    primary: the scorer that stands for the student: 'fused', or its only branch.
    metrics: scorer → metric → estimate.
    scorers: paired comparisons of the student with its branches and the teacher.
    slices: kind of slice → its parts.
    relevance: scorer → metric → estimate over all relevant videos; None where these were not given.
    relevant: how many captions were given several relevant videos' list, and the mean number of these.
    moments: scorer → finding; None where no moment is annotated.
    without_looking: column → value of no model, all annotated captions.
    annotated: how many captions have a moment.
    own_times: whether frames have times of their own; else they were spread evenly.
    fusion: None without a validation split, or with one branch and no teacher.
    log: of the training; None where it is gone.
    examples: best and worst queries.
    values: scorer → metric → `[Q]` what each caption adds, to compare runs; not written.
    captions: ids of the Q captions; `clusters` their videos. Not written.
  """

  name: str
  workdir: str
  about: dict[str, Any]
  primary: str
  metrics: Estimates
  scorers: list[Comparison]
  slices: dict[str, list[SliceFinding]]
  relevance: Estimates | None
  relevant: tuple[int, float] | None
  moments: dict[str, MomentFinding] | None
  without_looking: dict[str, float] | None
  annotated: int
  own_times: bool
  fusion: FusionFinding | None
  log: TrainingLog | None
  examples: list[Example]
  values: dict[str, dict[str, np.ndarray]]
  captions: list[str]
  clusters: np.ndarray

  def as_json(self) -> dict[str, Any]:
    """Returns the findings as plain values; what is not finite becomes None."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return plain({name: x for name, x in fields.items() if name not in ('values', 'captions', 'clusters')})


def plain(value: Any) -> Any:
  """Turns findings into what JSON knows: arrays and tuples into lists, named tuples and dataclasses into objects."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, tuple) and hasattr(value, '_asdict'):
    return {name: plain(x) for name, x in value._asdict().items()}
  if isinstance(value, Mapping):
    return {str(name): plain(x) for name, x in value.items()}
  if isinstance(value, list | tuple | range):
    return [plain(x) for x in value]
  if isinstance(value, np.ndarray | np.generic):
    return plain(value.tolist())
  if isinstance(value, float):
    return round(value, 6) if math.isfinite(value) else None
  return value
