"""What a recipe is made of: the defaults (`config_fields`), and the arguments that every recipe takes.

A recipe is a file with `get_config(arg)`, as those in the folder `configs`, which is installed as `dlkd_jax/configs`.
`--config=configs/tvr.py:hard,seed=3` calls `get_config('hard,seed=3')`. configs/README.md says what the arguments mean.
"""

from __future__ import annotations

import pathlib
import re
import runpy
from typing import Any

import ml_collections
from ml_collections import config_dict

from dlkd_jax.config_fields import base, nearest
from dlkd_jax.errors import UserError

_HERE = pathlib.Path(__file__).resolve().parent
# Folder of the recipes: beside the package in a checkout, within it where it is installed.
RECIPES = _HERE / 'configs' if (_HERE / 'configs').is_dir() else _HERE.parent / 'configs'


def _start_from_anchors(config: ml_collections.ConfigDict) -> None:
  """Puts the anchored student into a recipe: what learns is small, so it learns fast, from all pairs of a batch."""
  config.model.update(name='anchored', hidden=256, dropout=0.3, distilled=())
  taught = config.loss.teacher
  config.model.branches = ('inheritance', 'exploration', 'teacher_inheritance', 'teacher_exploration')
  config.model.branches = config.model.branches if taught else ('exploration',)
  config.model.options.residual = 'auto'  # what learns: linear, full, or auto: by the number of captions
  config.model.options.teacher_features = config_dict.placeholder(int)  # that such branches see; unset: those there are
  config.loss.teacher = False  # The anchors are fitted to the teacher; nothing is distilled in training.
  config.evaluation.weights = ()
  config.loss.update(triplet_weight=0.0, nce_weight=0.0, distillation_weight=0.0)
  function = 'dlkd_jax.losses.total:cosine_contrastive'
  config.loss.terms.cosine = ml_collections.ConfigDict({'function': function, 'temperature': 0.1})
  config.optimizer.update(learning_rate=2e-4, warmup=0.05, weight_decay=0.05)
  config.training.epochs = config.training.patience = 15


def _budget(config: ml_collections.ConfigDict) -> None:
  epochs = config.training.epochs
  config.loss.hard_negative_start_epoch = round(0.2 * epochs)
  config.training.update(patience=max(20, config.training.patience), min_epochs=round(0.6 * epochs))


def _average(config: ml_collections.ConfigDict) -> None:
  config.training.average = 0.99


def _clips(config: ml_collections.ConfigDict) -> None:
  config.model.name, config.model.options.frames_per_clip = 'plus', 4


def _widths(config: ml_collections.ConfigDict) -> None:
  config.model.name = 'plus'
  config.model.options.update(widths=(0.0, 0.25, 1.0, 3.0), width_temperature=0.6, feed_forward=4)


def _diversity(config: ml_collections.ConfigDict) -> None:
  free = tuple(name for name in config.model.branches if name not in config.model.distilled)
  if free:
    _add_term(config, 'diverse', 'diversity:diverse', 0.003, branches=free, margin=0.2, sharpness=32.0)
    _add_term(config, 'matching', 'diversity:matching', 0.1, branches=free, own_curves=True, captions=16)


def _relations(config: ml_collections.ConfigDict) -> None:
  taught = {'branches': tuple(config.model.distilled), 'needs_teacher': True}
  if config.loss.teacher and taught['branches']:
    _add_term(config, 'text_distance', 'relational:text_distance', 15.0, **taught)
    _add_term(config, 'text_angle', 'relational:text_angle', 30.0, **taught, captions=128)


def _blend(config: ml_collections.ConfigDict) -> None:
  if len(config.model.branches) > 1 or config.loss.teacher:
    config.evaluation.weights = ()


def _add_term(config: ml_collections.ConfigDict, name: str, function: str, weight: float, **more: Any) -> None:
  entry = {'function': f'dlkd_jax.losses.{function}', 'weight': weight, **more}
  config.loss.terms[name] = ml_collections.ConfigDict(entry)


# Parts of later models, arguments by these names, in the order in which `dlkd sweep --ladder` adds them up. Each is
# put into a recipe whose number of epochs stands.
PLUS = {
  'budget': _budget,
  'average': _average,
  'clips': _clips,
  'widths': _widths,
  'diversity': _diversity,
  'relations': _relations,
  'blend': _blend,
}
# What `plus` switches on; dlkd_jax/reporting/README.md has the measurements.
KEPT = ('budget', 'widths', 'blend')
_SWITCHES = 'debug', 'hard', 'single', 'anchored', 'plus', *PLUS, 'no_teacher', 'random_split', 'uniform_negatives'
# Argument → its value where it is not given; 0 epochs: the recipe's own.
ARGUMENTS: dict[str, bool | int] = {**dict.fromkeys(_SWITCHES, False), 'seed': 0, 'epochs': 0}
# What only a student that starts from nothing has a use for.
_NOT_ANCHORED = {'hard', 'plus', 'random_split', 'single', 'uniform_negatives', *PLUS}


def finish(config: ml_collections.ConfigDict, arg: str | None, anchored: bool = False) -> ml_collections.ConfigDict:
  """Puts the arguments that were given into a recipe and locks it.

  With `anchored` the recipe's student is the anchored one, unless an argument asks for what only another has.

  Raises:
    UserError: an argument is unknown or has a wrong value.
  """
  given = parse_arguments(arg)
  if 'seed' in given:
    config.seed = given['seed']
  if 'hard' in given:
    config.loss.soft_labels = not given['hard']
  if 'single' in given:
    paper = base('')
    config.model.branches = config.model.branches[:1] if given['single'] else paper.model.branches
    config.evaluation.weights = (1.0,) if given['single'] else paper.evaluation.weights
  if 'no_teacher' in given:
    config.loss.teacher = not given['no_teacher']
  if given.get('anchored', anchored and not given.keys() & _NOT_ANCHORED):
    _start_from_anchors(config)
  if 'random_split' in given:
    config.loss.random_split = given['random_split']
  if given.get('debug'):
    config.model.hidden = 32
    config.data.update(max_videos=256, batch_videos=32)
    config.training.epochs = 2
  config.training.epochs = given.get('epochs') or config.training.epochs
  pieces = [name for name in PLUS if given.get(name) or (given.get('plus') and name in KEPT)]
  if pieces and given.get('anchored'):
    raise UserError(f'anchored and {pieces[0]} make two different students; give one of these arguments: {arg!r}')
  for name in pieces:
    PLUS[name](config)
  if 'uniform_negatives' in given:
    config.loss.hard_negative_start_epoch = config.training.epochs if given['uniform_negatives'] else 0
  return config.lock()


def parse_arguments(arg: str | None) -> dict[str, bool | int]:
  """Returns the values of the arguments that are given: names of switches, and `name=value`, between commas.

  Raises:
    UserError: an argument is unknown, given twice, or its value has the wrong type.
  """
  given: dict[str, bool | int] = {}
  for item in filter(None, (arg or '').split(',')):
    name, equals, text = item.partition('=')
    if name not in ARGUMENTS:
      known = ', '.join(sorted(ARGUMENTS))
      raise UserError(
        f'unknown config argument {name!r} in {arg!r}{nearest(name, ARGUMENTS)}; expected some of {known}.'
      )
    if name in given:
      raise UserError(f'config argument {name!r} is given twice in {arg!r}.')
    if isinstance(ARGUMENTS[name], bool):
      values, expected = {'': True, '=true': True, '=false': False}, 'no value, true or false'
      value = values.get(equals + text)
    else:
      value, expected = int(text) if re.fullmatch(r'-?\d+', text) else None, f'{name}=<int>'
    if value is None:
      raise UserError(f'config argument {name!r} has the value {text if equals else None!r}; expected {expected}.')
    given[name] = value
  return given


def load_recipe(name: str, arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe `configs/<name>.py`, wherever the command runs."""
  return runpy.run_path(str(RECIPES / f'{name}.py'))['get_config'](arg)
