"""Analyses a run on a split: everything that the report says of it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dlkd_jax.models.students import learns_from_teacher
from dlkd_jax.reporting import bootstrap, examples, fusion, moment_accuracy, relevance, significance, slices
from dlkd_jax.reporting.findings import (
  Estimate,
  FusionFinding,
  MomentFinding,
  RunFindings,
  SliceFinding,
)
from dlkd_jax.reporting.frame_curves import pair_curves
from dlkd_jax.reporting.split_data import SplitData, read_split
from dlkd_jax.reporting.trained_run import TrainedRun
from dlkd_jax.reporting.training_log import read_log
from dlkd_jax.retrieval.metrics import FUSED, TEACHER
from dlkd_jax.training import recipe

RATIO, LENGTH, WORDS = 'moment-to-video ratio', 'video length', 'caption length'
_SLICE_METRICS = ('R@1', 'R@10', 'SumR', 'mAP')
_MULTIPLE_METRICS = ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'mAP')


@dataclasses.dataclass(frozen=True)
class Options:
  """How to analyse.

  Attributes:
    split: to evaluate.
    relevant: file of relevant videos; None: each caption has its own video alone.
    samples: of the bootstrap.
    permutations: of the paired tests.
    examples: best and worst queries to show, of each.
    seed: of all draws.
  """

  split: str = 'test'
  relevant: pathlib.Path | None = None
  samples: int = bootstrap.SAMPLES
  permutations: int = significance.PERMUTATIONS
  examples: int = examples.EXAMPLES
  seed: int = 0


def analyse(run: TrainedRun, options: Options, say: Callable[[str], None] = lambda _: None) -> RunFindings:
  """Evaluates a run and finds everything that the report says of it.

  Args:
    run: opened.
    options: what to evaluate.
    say: told what is being done.

  Raises:
    FileNotFoundError: the data set or the file of relevant videos is absent.
    ValueError: the data set lacks the split, a record cannot be evaluated, or the file does not fit the split.
  """
  say(f'{run.name}: scoring {options.split}')
  data = read_split(run, options.split)
  judged = None
  if options.relevant is not None:
    judged = relevance.read_relevant(options.relevant, data.caption_ids, data.video_ids, data.own)
  primary = FUSED if FUSED in data.ranks else next(name for name in data.ranks if name != TEACHER)
  say(f'{run.name}: intervals')
  values = {name: bootstrap.caption_values(ranks) for name, ranks in data.ranks.items()}
  chosen = examples.choose(data, primary, options.examples)
  annotated = data.annotated
  say(f'{run.name}: frame curves')
  pairs = [(int(row), int(data.own[row])) for row in annotated]
  curves = pair_curves(run, data, pairs + examples.pairs_of(data, primary, chosen))
  moments, without = _moments(data, curves, options) if len(annotated) else (None, None)
  say(f'{run.name}: fusion weights')
  return RunFindings(
    name=run.name,
    workdir=str(run.workdir),
    about=_about(run, data),
    primary=primary,
    metrics=_estimates(data, options),
    scorers=compare_with(values, primary, [x for x in values if x != primary], data.own, options),
    slices=_slices(data, options),
    relevance=None if judged is None else _multiple(data, judged, options),
    relevant=None if judged is None else (judged.given, float(np.mean([len(x) for x in judged.columns]))),
    moments=moments,
    without_looking=without,
    annotated=len(annotated),
    own_times=bool(data.videos) and all(video.own_times for video in data.videos),
    fusion=_fusion(run, data, options),
    log=read_log(run.workdir),
    examples=examples.describe(data, primary, chosen, curves),
    values=values,
    captions=data.caption_ids,
    clusters=data.own,
  )


def _about(run: TrainedRun, data: SplitData) -> dict[str, Any]:
  durations = np.array([video.duration for video in data.videos])
  return {
    'dataset': run.config.data.dataset,
    'split': data.name,
    'captions': len(data.caption_ids),
    'videos': len(data.video_ids),
    'median_duration': float(np.nanmedian(durations)) if np.isfinite(durations).any() else None,
    'epoch': run.epoch,
    'epochs': run.epochs,
    'seed': run.config.seed,
    'soft_labels': run.config.loss.soft_labels,
    'branches': list(run.config.model.branches),
    'teacher': learns_from_teacher(run.config),
    'weights': {name: float(weight) for name, weight in data.weights.items()},
  }


def compare_with(
  values: Mapping[str, Mapping[str, np.ndarray]],
  first: str,
  others: Sequence[str],
  clusters: np.ndarray,
  options: Options,
  metrics: Sequence[str] = significance.METRICS,
) -> list[significance.Comparison]:
  """Compares one side with others, on the same captions; see `significance.compare`."""
  pairs = [(first, name) for name in others]
  samples, permutations = options.samples, options.permutations
  return significance.compare(values, pairs, clusters, metrics, permutations, samples, options.seed)


def _estimates(data: SplitData, options: Options) -> dict[str, dict[str, Estimate]]:
  """All metrics of all scorers, with both kinds of intervals."""
  both = [
    bootstrap.rank_intervals(data.ranks, clusters, options.samples, seed=options.seed) for clusters in (data.own, None)
  ]
  return {
    name: {metric: Estimate(metrics[metric], both[0][name][metric], both[1][name][metric]) for metric in metrics}
    for name, metrics in data.metrics().items()
  }


def mean_estimates(
  values: Mapping[str, np.ndarray], clusters: np.ndarray, options: Options, names: Sequence[str]
) -> dict[str, Estimate]:
  """Estimates of metrics that are means over captions, `[Q]` each, with intervals over videos."""
  columns = np.stack([values[name] for name in names], axis=1)
  intervals = bootstrap.mean_intervals(columns, clusters, options.samples, seed=options.seed)
  return {name: Estimate(float(x), y) for name, x, y in zip(names, columns.mean(axis=0), intervals, strict=True)}


def _slices(data: SplitData, options: Options) -> dict[str, list[SliceFinding]]:
  ratios, durations = slices.moment_ratios(data.moments, data.durations), data.durations
  kinds: dict[str, list[slices.Slice]] = {}
  if np.isfinite(ratios).any():
    kinds[RATIO] = slices.by_edges(ratios, slices.RATIO_EDGES)
  if np.isfinite(durations).any():
    kinds[LENGTH] = slices.by_quantiles(durations, 's')
  else:
    frames = np.array([len(video.student_times) for video in data.videos], np.float64)
    kinds[LENGTH] = slices.by_quantiles(frames[data.own], 'frames')
  kinds[WORDS] = slices.by_quantiles(slices.words(data.texts), 'words')
  return {kind: [_slice(data, part, options) for part in parts] for kind, parts in kinds.items()}


def _slice(data: SplitData, part: slices.Slice, options: Options) -> SliceFinding:
  metrics = {
    name: mean_estimates(bootstrap.caption_values(ranks[part.rows]), data.own[part.rows], options, _SLICE_METRICS)
    for name, ranks in data.ranks.items()
  }
  return SliceFinding(part.label, int(part.rows.sum()), metrics)


def _multiple(data: SplitData, judged: relevance.Relevance, options: Options) -> dict[str, dict[str, Estimate]]:
  found = {}
  for name in data.ranks:
    values = relevance.multiple_values(data.scores, {name: 1.0}, judged)
    found[name] = mean_estimates(values, data.own, options, _MULTIPLE_METRICS)
  return found


def _moments(data: SplitData, curves, options: Options) -> tuple[dict[str, MomentFinding], dict[str, float]]:
  """Judges every scorer's curves over the own videos of all annotated captions."""
  rows, columns = data.annotated, moment_accuracy.COLUMNS
  videos, own = [data.videos[data.own[row]] for row in rows], data.own[rows]
  parts = slices.by_edges(slices.moment_ratios(data.moments[rows], data.durations[rows]), slices.RATIO_EDGES)

  def look(table: np.ndarray, some: np.ndarray) -> dict[str, Estimate]:
    return mean_estimates(dict(zip(columns, table[some].T, strict=True)), own[some], options, columns)

  def blind(some: np.ndarray) -> dict[str, float]:
    times = [videos[i].student_times for i in np.flatnonzero(some)]
    values = moment_accuracy.without_looking(times, data.durations[rows][some], data.moments[rows][some])
    return dict(zip(columns, map(float, values.mean(axis=0)), strict=True))

  found = {}
  for name in data.ranks:
    times = [video.teacher_times if name == TEACHER else video.student_times for video in videos]
    of_own = [curves[name][int(row), int(data.own[row])] for row in rows]
    table = moment_accuracy.judge(of_own, times, data.durations[rows], data.moments[rows]).percent()
    first = data.ranks[name][rows] == 1
    ratios = {part.label: (int(part.rows.sum()), look(table, part.rows)[columns[0]]) for part in parts}
    found[name] = MomentFinding(
      every=look(table, np.ones(len(rows), bool)),
      first=look(table, first) if first.any() else None,
      found_first=int(first.sum()),
      chance_first=blind(first) if first.any() else None,
      by_ratio=ratios,
    )
  return found, blind(np.ones(len(rows), bool))


def _fusion(run: TrainedRun, data: SplitData, options: Options) -> FusionFinding | None:
  """Chooses weights on validation, and ranks the evaluated split by them."""
  if not recipe.names(run.config, ('val',)) or (FUSED not in data.ranks and TEACHER not in data.ranks):
    return None
  on = data if data.name == 'val' else read_split(run, 'val')
  student = {name: weight for name, weight in data.weights.items() if name != TEACHER}
  points = fusion.sweep(on.scores, on.own, student)
  first, *_ = student
  of_student = sum(student.values())
  share = student[first] / of_student if of_student else 1.0
  teacher = data.weights.get(TEACHER, 0.0) / sum(data.weights.values())
  configured = fusion.point(on.scores, on.own, student, share, teacher)
  choices = {'configured': configured, 'chosen': fusion.best(points, teacher=False)}
  if TEACHER in data.ranks:
    choices['blended'] = fusion.best(points, teacher=True)
  ranks = {name: fusion.ranks_of(data.scores, point.weights, data.own) for name, point in choices.items()}
  intervals = bootstrap.rank_intervals(ranks, data.own, options.samples, seed=options.seed)
  results = {
    name: {metric: Estimate(value, intervals[name][metric]) for metric, value in metrics.items()}
    for name, metrics in ((name, fusion.metrics_from_ranks(x).as_dict()) for name, x in ranks.items())
  }
  values = {name: bootstrap.caption_values(x) for name, x in ranks.items()}
  pairs = [(name, 'configured') for name in choices if name != 'configured']
  comparisons = significance.compare(
    values, pairs, data.own, ('SumR',), options.permutations, options.samples, options.seed
  )
  return FusionFinding(
    split=on.name,
    first=first,
    points=points,
    configured=configured,
    chosen=choices['chosen'],
    blended=choices.get('blended'),
    results=results,
    comparisons=comparisons,
  )
