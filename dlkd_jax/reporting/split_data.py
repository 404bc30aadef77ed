"""A split as a run sees it: its captions and videos, and every score, in an order that depends on ids alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from dlkd_jax import annotations
from dlkd_jax.data import sources, transforms
from dlkd_jax.reporting.trained_run import TrainedRun
from dlkd_jax.retrieval.metrics import metrics_from_ranks
from dlkd_jax.training import recipe


@dataclasses.dataclass(frozen=True)
class Video:
  """What a split tells of a video besides its features.

  Attributes:
    duration: seconds, NaN where unknown.
    student_times: `[n]` seconds of the frames as the student sees them, at most `data.max_frames`; without a duration
      and times of their own, shares of the video.
    teacher_times: the same of the teacher's frames; empty where it has none.
    seconds: whether those are seconds.
    own_times: whether the records tell them; else frames are spread evenly over the duration.
  """

  duration: float
  student_times: np.ndarray
  teacher_times: np.ndarray
  seconds: bool
  own_times: bool


@dataclasses.dataclass(frozen=True)
class SplitData:
  """A split, for Q captions by rising id and V videos by rising id.

  Attributes:
    name: 'val', 'test' or 'train'.
    caption_ids, texts: of the captions.
    moments: `[Q, 2]` annotated start and end in seconds, NaN where unknown.
    video_ids: of the videos.
    videos: what is known of each.
    own: `[Q]` column of each caption's own video.
    ranks: scorer → `[Q]` ranks from 1; scorers are the branches, 'fused' and 'teacher', as far as they exist.
    scores: scorer → `[Q, V]` float32.
    weights: scorer → weight of the fused score, as configured.
  """

  name: str
  caption_ids: list[str]
  texts: list[str]
  moments: np.ndarray
  video_ids: list[str]
  videos: list[Video]
  own: np.ndarray
  ranks: dict[str, np.ndarray]
  scores: dict[str, np.ndarray]
  weights: Mapping[str, float]

  @property
  def durations(self) -> np.ndarray:
    """Seconds of each caption's own video, `[Q]`, NaN where unknown."""
    return np.array([video.duration for video in self.videos])[self.own]

  @property
  def annotated(self) -> np.ndarray:
    """Rows of captions whose moment is known, and whose frames have times in seconds."""
    seconds = np.array([video.seconds for video in self.videos])[self.own]
    return np.flatnonzero(np.isfinite(self.moments).all(axis=1) & seconds)

  def metrics(self) -> dict[str, dict[str, float]]:
    """Scorer → metric → value."""
    return {name: metrics_from_ranks(ranks).as_dict() for name, ranks in self.ranks.items()}


def read_split(run: TrainedRun, split: str) -> SplitData:
  """Evaluates a run on a split, the teacher alone beside it, and keeps all scores.

  Raises:
    FileNotFoundError: the data set was not built.
    ValueError: it has no such split, or a record of it cannot be evaluated; the message names it.
  """
  evaluator = recipe.make_evaluator(run.config, run.student, run.mesh, split, teacher=True, keep_scores=True)
  result = evaluator(run.params)
  about, videos = _read_records(recipe.open_split(run.config, split), run.config.data.max_frames)
  rows, columns = (np.argsort(np.array(ids), kind='stable') for ids in (result.caption_ids, result.video_ids))
  caption_ids, video_ids = [result.caption_ids[i] for i in rows], [result.video_ids[i] for i in columns]
  place = np.empty(len(columns), np.int64)
  place[columns] = np.arange(len(columns))
  return SplitData(
    name=split,
    caption_ids=caption_ids,
    texts=[about[name][0] for name in caption_ids],
    moments=np.array([about[name][1] for name in caption_ids], np.float64).reshape(-1, 2),
    video_ids=video_ids,
    videos=[videos[name] for name in video_ids],
    own=place[result.own_columns[rows]],
    ranks={name: ranks[rows] for name, ranks in result.ranks.items()},
    # One matrix after the other: of a large split all of them twice would be gigabytes.
    scores={name: result.scores.pop(name)[np.ix_(rows, columns)] for name in list(result.scores)},
    weights=recipe.make_evaluation_options(run.config, run.mesh, True).weights,
  )


def _read_records(source, max_frames: int) -> tuple[dict[str, tuple[str, np.ndarray]], dict[str, Video]]:
  """Reads text and moment of each caption, and what is known of each video."""
  captions, videos = {}, {}
  for index in range(len(source)):
    record = source[index]
    texts, ids = sources.texts(record['captions']), sources.texts(record['caption_ids'])
    moments = annotations.possible(record['moments'], record['duration'])  # Sets of before hold what was written.
    captions |= {name: (text, x) for name, text, x in zip(ids, texts, moments, strict=True)}
    videos[sources.text(record['video_id'])] = describe_video(record, max_frames)
  return captions, videos


def describe_video(record: sources.Record, max_frames: int) -> Video:
  """Finds the times of a video's frames, as the student and the teacher see them.

  Frames without times of their own are spread evenly over the duration. Where frames are averaged because there are
  more than `max_frames`, so are their times.
  """
  duration = float(record['duration'])
  known, own = np.isfinite(duration) and duration > 0, sources.has_rows(record, 'times')
  frames = len(record['student_frames'])
  evenly = lambda count: annotations.even_times(count, duration if known else 1.0)  # noqa: E731
  student = np.asarray(record['times'], np.float64) if own else evenly(frames)
  count = len(record['teacher_frames']) if sources.has_rows(record, 'teacher_frames') else 0
  same = count == frames
  teacher = student if same else evenly(count) if count else np.zeros(0)
  shrink = lambda times: transforms.resample_frames(times[:, None].astype(np.float32), max_frames)[:, 0]  # noqa: E731
  return Video(
    duration=duration if known else float('nan'),
    student_times=shrink(student).astype(np.float64) if frames else student,
    teacher_times=shrink(teacher).astype(np.float64) if count else teacher,
    seconds=known or (own and (same or not count)),
    own_times=own,
  )
