"""Students of the rendered films, trained by the ordinary loop: with a teacher, without one, and of a single branch."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from dlkd_jax import doors
from dlkd_jax.config_defaults import load_recipe
from dlkd_jax.demo.settings import DemoSettings
from dlkd_jax.training import train as training

# Name → arguments of the recipe.
KINDS = {'distilled': '', 'no_teacher': 'no_teacher', 'single': 'single'}


def config_of(kind: str, seed: int, settings: DemoSettings, data_dir: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the configuration of one training.

  Args:
    kind: of `KINDS`.
    seed: of everything.
    settings: sizes of the demonstration.
    data_dir: where `custom_prvr` is.
  """
  arguments = [KINDS[kind], f'seed={seed}', f'epochs={settings.epochs}' if settings.epochs else '']
  config = load_recipe('demo', ','.join(filter(None, arguments)))
  with config.unlocked():
    config.data.data_dir = str(data_dir)
  return config


def train_all(settings: DemoSettings, data_dir: pathlib.Path, runs: pathlib.Path) -> None:
  """Trains every kind with every seed into `<runs>/<kind>_<seed>`; what is finished is left alone.

  Raises:
    FileNotFoundError: the data set was not built.
    OSError: something cannot be written.
  """
  # The trainings of one kind differ in their seeds alone: compiled once, they share the programs.
  doors.keep_compiled(runs / 'compiled')
  for seed in range(settings.students):
    for kind in KINDS:
      workdir = runs / f'{kind}_{seed}'
      if not (workdir / 'results.json').exists():
        print(f'\nstudent {kind}, seed {seed}', flush=True)
        training.train(config_of(kind, seed, settings, data_dir), workdir)


def read_results(settings: DemoSettings, runs: pathlib.Path) -> dict[str, list[dict[str, float]]]:
  """Returns kind → the final metrics of each seed, as `results.json` holds them.

  Raises:
    FileNotFoundError: a training is not finished.
  """
  return _of_each(settings, runs, lambda run: json.loads((run / 'results.json').read_text(encoding='utf-8'))['metrics'])


def read_ranks(settings: DemoSettings, runs: pathlib.Path) -> dict[str, list[dict[str, np.ndarray]]]:
  """Returns kind → of each seed what `ranks.npz` holds; errors are those of `read_results`."""

  def read(run: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(run / 'ranks.npz', allow_pickle=False) as kept:
      return dict(kept)

  return _of_each(settings, runs, read)


def _of_each(settings: DemoSettings, runs: pathlib.Path, read: Callable[[pathlib.Path], Any]) -> dict[str, list[Any]]:
  return {kind: [read(runs / f'{kind}_{seed}') for seed in range(settings.students)] for kind in KINDS}
