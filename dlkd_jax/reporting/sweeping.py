"""Trains the variants of a recipe, each over several seeds, each run in a folder of its own by the ordinary loop.

Seeds come first: all variants are trained with one seed before any is with the next, so that a sweep that is not
finished is a table all the same. What is finished is left alone; what was interrupted goes on where it was.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from dlkd_jax import config as config_lib
from dlkd_jax.config_fields import ROUNDING_ALONE
from dlkd_jax.multihost import StopRequest, log
from dlkd_jax.reporting import bootstrap
from dlkd_jax.reporting.variants import Variant, configure
from dlkd_jax.training import monitoring
from dlkd_jax.training import train as training

FINISHED, STARTED, ABSENT = 'finished', 'started', 'not started'


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  Attributes:
    variant: what it trains.
    seed: with which seed.
    folder: its work directory.
    config: its configuration.
  """

  variant: Variant
  seed: int
  folder: pathlib.Path
  config: ml_collections.ConfigDict

  @property
  def state(self) -> str:
    """'finished', 'started' or 'not started'."""
    if (self.folder / 'results.json').is_file():
      return FINISHED
    return STARTED if (self.folder / 'config.json').is_file() else ABSENT

  def results(self) -> dict[str, Any]:
    """Reads what the run gave: `best_epoch`, `epochs`, and `metrics` by names as `test/fused/SumR`."""
    return json.loads((self.folder / 'results.json').read_text(encoding='utf-8'))

  def values(self, split: str, scorer: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads what each caption adds to SumR, `[Q]` in the order of their ids, and the number of its video `[Q]`.

    None for a run of a version that kept no ranks.
    """
    path = self.folder / 'ranks.npz'
    if not path.is_file():
      return None
    with np.load(path, allow_pickle=False) as kept:
      return bootstrap.caption_values(kept[f'{split}/{scorer}'])['SumR'], kept[f'{split}/video']


def plan(
  config: ml_collections.ConfigDict, variants: Sequence[Variant], seeds: Sequence[int], workdir: pathlib.Path
) -> list[Run]:
  """Returns the runs of a sweep in the order in which they are made.

  Raises:
    UserError: a folder holds a run of another configuration; nothing was changed.
  """
  runs = [make_run(config, variant, seed, workdir) for seed in seeds for variant in variants]
  for run in runs:
    if run.state != ABSENT:
      config_lib.settle(run.config, run.folder, free=ROUNDING_ALONE)
  return runs


def make_run(config: ml_collections.ConfigDict, variant: Variant, seed: int, workdir: pathlib.Path) -> Run:
  """Returns one run of a sweep below its work directory."""
  return Run(variant, seed, workdir / variant.name / f'seed_{seed}', configure(config, variant, seed))


def finished_runs(
  config: ml_collections.ConfigDict, variants: Sequence[Variant], workdir: pathlib.Path
) -> dict[str, list[Run]]:
  """Finds all finished runs of a sweep's folder, of whatever seeds: variant → runs by rising seed.

  Raises:
    ValueError: one of them is of another configuration.
  """
  found: dict[str, list[Run]] = {}
  for variant in variants:
    folders = (workdir / variant.name).glob('seed_*')
    seeds = sorted(int(match[1]) for folder in folders if (match := re.fullmatch(r'seed_(\d+)', folder.name)))
    runs = [run for run in plan(config, [variant], seeds, workdir) if run.state == FINISHED]
    if runs:
      found[variant.name] = runs
  return found


def train_all(runs: Sequence[Run], stop: StopRequest, after_each: Callable[[], None]) -> list[str]:
  """Trains every run that is not finished.

  Args:
    runs: in order.
    stop: whether to stop early.
    after_each: called when a run was finished.

  Returns:
    For each run that failed by itself, because its loss became NaN or infinite, what happened.

  Raises:
    Stopped: it was asked to stop; the same sweep goes on from there.
    ValueError, OSError, CheckpointError: as `dlkd_jax.training.train.train`.
  """
  failed = []
  for number, run in enumerate(runs, 1):
    if run.state == FINISHED:
      continue
    log(f'\n[{number}/{len(runs)}] {run.variant.name}, seed {run.seed}: {run.variant.about}')
    try:
      training.train(run.config, run.folder, stop)
    except monitoring.NonFiniteLossError as error:
      failed.append(f'{run.variant.name}, seed {run.seed}: {error}')
      log(f'error: {failed[-1]}')
      continue
    finally:
      # Programs of the next variant are others; those of a hundred trainings would fill the memory.
      jax.clear_caches()
      gc.collect()
    after_each()
  return failed
