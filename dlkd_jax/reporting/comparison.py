"""Several runs side by side: what differs in their configurations, what several seeds give, and paired tests."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from dlkd_jax import begun
from dlkd_jax.config_fields import ROUNDING_ALONE
from dlkd_jax.reporting import significance
from dlkd_jax.reporting.analysis import Options
from dlkd_jax.reporting.findings import RunFindings
from dlkd_jax.reporting.moment_accuracy import COLUMNS
from dlkd_jax.retrieval.metrics import TEACHER
from dlkd_jax.training import recipe

_ALL_PAIRS_UP_TO = 6  # Runs; of more, each is compared with the first alone.
_NOT_THE_RECIPE = ('seed', *ROUNDING_ALONE)
_METRICS = ('R@1', 'R@5', 'R@10', 'R@100', 'SumR', 'mAP')
BEST_FRAME, BEST_FRAME_FIRST = 'best frame', 'best frame, ranked first'


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that differ in their seed alone.

  Attributes:
    name: what their names have in common.
    runs: their names.
    values: metric of the student → its value in each run; `BEST_FRAME` and `BEST_FRAME_FIRST`, in percent, where
      moments are annotated.
    teacher: the same of the teacher alone, which is the same in each run.
  """

  name: str
  runs: list[str]
  values: Mapping[str, list[float]]
  teacher: Mapping[str, list[float]]


@dataclasses.dataclass(frozen=True)
class RunComparison:
  """Several runs side by side.

  Attributes:
    differences: run → fields in which it differs from the first, as `field: first → this`.
    groups: of runs that differ in their seed alone.
    runs: paired comparisons of runs.
    of_groups: paired comparisons of groups, whose captions' values are means over the runs; empty where no group has
      several runs, or there is one group.
    obstacle: why runs were not compared, or None.
  """

  differences: Mapping[str, list[str]]
  groups: list[Group]
  runs: list[significance.Comparison]
  of_groups: list[significance.Comparison]
  obstacle: str | None


def compare_runs(
  findings: Sequence[RunFindings], configs: Sequence[ml_collections.ConfigDict], options: Options
) -> RunComparison:
  """Compares the students of several runs on the same split.

  Args:
    findings: of each run.
    configs: of each run.
    options: of the tests.
  """
  # Runs keep what 'auto' meant to them; those that were begun before this was so keep 'auto'.
  contents = [json.loads(recipe.resolved(config).to_json_best_effort()) for config in configs]
  names = [found.name for found in findings]
  differences = {name: begun.differences(contents[0], content) for name, content in zip(names, contents, strict=True)}
  groups = _groups(findings, contents)
  obstacle = _obstacle(findings)
  if obstacle:
    return RunComparison(differences, groups, [], [], obstacle)
  values = {found.name: found.values[found.primary] for found in findings}
  # Seeds of one recipe are alike but for chance; to compare them would only raise the others' p values.
  group_of = {run: group.name for group in groups for run in group.runs}
  pairs = [(a, b) for a, b in _pairs(names) if len(groups) == 1 or group_of[a] != group_of[b]]
  clusters = findings[0].clusters
  of_groups: list[significance.Comparison] = []
  if len(groups) > 1 and any(len(group.runs) > 1 for group in groups):
    means = {
      group.name: {m: np.mean([values[run][m] for run in group.runs], axis=0) for m in significance.METRICS}
      for group in groups
    }
    of_groups = _compare(means, _pairs(list(means)), clusters, options)
  return RunComparison(differences, groups, _compare(values, pairs, clusters, options), of_groups, None)


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
  if len(names) > _ALL_PAIRS_UP_TO:
    return [(names[0], name) for name in names[1:]]
  return list(itertools.combinations(names, 2))


def _compare(values: Mapping[str, Mapping[str, np.ndarray]], pairs, clusters, options: Options):
  samples, permutations = options.samples, options.permutations
  return significance.compare(values, pairs, clusters, significance.METRICS, permutations, samples, options.seed)


def _obstacle(findings: Sequence[RunFindings]) -> str | None:
  """Says why the runs cannot be compared caption by caption, or returns None."""
  first = findings[0]
  for found in findings[1:]:
    if found.captions != first.captions:
      return (
        f'{found.name} was evaluated on {len(found.captions):,} captions of {found.about["dataset"]} and {first.name} '
        f'on {len(first.captions):,} of {first.about["dataset"]}, which are not the same: a paired comparison needs '
        'the same captions.'
      )
  return None


def _groups(findings: Sequence[RunFindings], contents: Sequence[Mapping[str, Any]]) -> list[Group]:
  """Gathers runs that differ in nothing but the seed and what changes no result."""
  gathered: list[tuple[Mapping[str, Any], list[RunFindings]]] = []
  for found, content in zip(findings, contents, strict=True):
    for other, members in gathered:
      lines = begun.differences(dict(other), dict(content))
      # A field that one of them does not know is of an older or newer version of the program.
      if all(line.startswith(_NOT_THE_RECIPE) or '(absent)' in line for line in lines):
        members.append(found)
        break
    else:
      gathered.append((content, [found]))
  groups = [_group(members) for _, members in gathered]
  names = [group.name for group in groups]
  # Two groups whose runs' names begin alike are called by all of these.
  return [dataclasses.replace(x, name=', '.join(x.runs)) if names.count(x.name) > 1 else x for x in groups]


def _group(members: Sequence[RunFindings]) -> Group:
  names = [found.name for found in members]
  same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
  common = ''.join(letters[0] for letters in same).rstrip('_-./ ') or names[0]
  name = names[0] if len(names) == 1 else f'{common} ({len(names)} seeds)'
  teacher = _values(members, TEACHER) if all(TEACHER in found.metrics for found in members) else {}
  return Group(name, names, _values(members, None), teacher)


def _values(members: Sequence[RunFindings], scorer: str | None) -> dict[str, list[float]]:
  """Metric → value in each run, of a scorer; None: of the student."""
  chosen = [scorer or found.primary for found in members]
  values = {m: [f.metrics[s][m].value for f, s in zip(members, chosen, strict=True)] for m in _METRICS}
  if all(found.moments for found in members):
    judged = [found.moments[s] for found, s in zip(members, chosen, strict=True)]
    values[BEST_FRAME] = [x.every[COLUMNS[0]].value for x in judged]
    if all(x.first for x in judged):
      values[BEST_FRAME_FIRST] = [x.first[COLUMNS[0]].value for x in judged]
  return values
