"""What a recipe is made of: the defaults (`config_fields`), and the arguments that every recipe takes.

A recipe is a file with `get_config(arg)`, as those in the folder `configs`, which is installed as `dlkd_jax/configs`.

`--config=configs/tvr.py:hard,seed=3` calls `get_config('hard,seed=3')`; the arguments are

| argument | meaning |
|---|---|
| debug | a small model, 256 videos and 2 epochs: a check of the whole path, not a result |
| hard | hard one-hot labels (DL-DKD) instead of soft alignment (DL-DKD++) |
| single | the first branch alone |
| anchored | a student that starts from closed-form anchors, for few captions (dlkd_jax/models/anchored.py) |
| plus | those parts of later models that were measured to help: `KEPT` |
| budget | random negatives first, and time to learn before the training stops |
| average | averaged parameters are validated, too, and the better ones kept |
| clips | branches that are not distilled see means of four frames |
| widths | attention at several widths in time, and feed-forward parts |
| diversity | captions of one video differ, and fit different vectors of it, in branches that are not distilled |
| relations | distances and angles among the teacher's sentences, in distilled branches |
| blend | weights of the branches, and of the teacher, in the fused score are found on validation behind the training |
| no_teacher | no distillation, and soft labels that follow the student itself; needs no teacher features |
| random_split | draw the rows that keep hard labels at random, instead of taking the first of the sorted batch |
| uniform_negatives | draw the triplet's negatives among all wrong ones in every epoch, not among the best-scoring |
| seed=N | seed of initialisation, data order, dropout and draws |
| epochs=N | length of the training and of its learning-rate schedule |
"""

from __future__ import annotations

import pathlib
import runpy
from typing import Any

import ml_collections
from ml_collections import config_dict

from dlkd_jax.config_fields import base, nearest
from dlkd_jax.errors import UserError

_HERE = pathlib.Path(__file__).resolve().parent
# Folder of the recipes: beside the package in a checkout, within it where it is installed.
RECIPES = _HERE / 'configs' if (_HERE / 'configs').is_dir() else _HERE.parent / 'configs'

ARGUMENTS = {
  'debug': False,
  'hard': False,
  'single': False,
  'anchored': False,
  'plus': False,
  'budget': False,
  'average': False,
  'clips': False,
  'widths': False,
  'diversity': False,
  'relations': False,
  'blend': False,
  'no_teacher': False,
  'random_split': False,
  'uniform_negatives': False,
  'seed': 0,
  'epochs': 0,  # 0: the recipe's own.
}


def finish(config: ml_collections.ConfigDict, arg: str | None, anchored: bool = False) -> ml_collections.ConfigDict:
  """Puts the arguments (module docstring) that were given into a recipe and locks it.

  Args:
    config: the recipe.
    arg: the arguments.
    anchored: whether this recipe's student is the anchored one, unless an argument asks for what only another has.

  Raises:
    ValueError: an argument is unknown or has a wrong value.
  """
  arguments = parse_arguments(arg, **ARGUMENTS)
  given = {item.partition('=')[0] for item in (arg or '').split(',')}
  # These arguments are of a student that starts from nothing.
  anchored = anchored and not given & {'anchored', 'hard', 'plus', 'random_split', 'single', 'uniform_negatives', *PLUS}
  anchored = anchored or arguments.anchored
  if 'seed' in given:
    config.seed = arguments.seed
  if 'hard' in given:
    config.loss.soft_labels = not arguments.hard
  if 'single' in given:
    paper = base('')
    config.model.branches = config.model.branches[:1] if arguments.single else paper.model.branches
    config.evaluation.weights = (1.0,) if arguments.single else paper.evaluation.weights
  if 'no_teacher' in given:
    config.loss.teacher = not arguments.no_teacher
  if anchored:
    _start_from_anchors(config)
  if 'random_split' in given:
    config.loss.random_split = arguments.random_split
  if arguments.debug:
    config.model.hidden = 32
    config.data.max_videos = 256
    config.data.batch_videos = 32
    config.training.epochs = 2
  if arguments.epochs:
    config.training.epochs = arguments.epochs
  pieces = [name for name in PLUS if arguments[name] or (arguments.plus and name in KEPT)]
  if pieces and arguments.anchored:
    raise UserError(f'anchored and {pieces[0]} make two different students; give one of these arguments: {arg!r}')
  for name in pieces:
    PLUS[name](config)
  if 'uniform_negatives' in given:
    config.loss.hard_negative_start_epoch = config.training.epochs if arguments.uniform_negatives else 0
  return config.lock()


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
  """Random negatives first, and time to learn before the training stops."""
  epochs = config.training.epochs
  config.loss.hard_negative_start_epoch = round(0.2 * epochs)
  config.training.update(patience=max(20, config.training.patience), min_epochs=round(0.6 * epochs))


def _average(config: ml_collections.ConfigDict) -> None:
  """Averaged parameters."""
  config.training.average = 0.99


def _clips(config: ml_collections.ConfigDict) -> None:
  """Branches that are not distilled see means of four frames."""
  config.model.name, config.model.options.frames_per_clip = 'plus', 4


def _widths(config: ml_collections.ConfigDict) -> None:
  """Attention at several widths, and feed-forward parts."""
  config.model.name = 'plus'
  config.model.options.update(widths=(0.0, 0.25, 1.0, 3.0), width_temperature=0.6, feed_forward=4)


def _diversity(config: ml_collections.ConfigDict) -> None:
  """Captions of one video differ, and fit different vectors of it, in the branches that are not distilled."""
  free = tuple(name for name in config.model.branches if name not in config.model.distilled)
  if free:
    _add_term(config, 'diverse', 'diversity:diverse', 0.003, branches=free, margin=0.2, sharpness=32.0)
    _add_term(config, 'matching', 'diversity:matching', 0.1, branches=free, own_curves=True, captions=16)


def _relations(config: ml_collections.ConfigDict) -> None:
  """Distances and angles among the teacher's sentences, in the distilled branches."""
  taught = {'branches': tuple(config.model.distilled), 'needs_teacher': True}
  if config.loss.teacher and taught['branches']:
    _add_term(config, 'text_distance', 'relational:text_distance', 15.0, **taught)
    _add_term(config, 'text_angle', 'relational:text_angle', 30.0, **taught, captions=128)


def _blend(config: ml_collections.ConfigDict) -> None:
  """Weights of the branches, and of the teacher where there is one, are found on validation."""
  if len(config.model.branches) > 1 or config.loss.teacher:
    config.evaluation.weights = ()


def _add_term(config: ml_collections.ConfigDict, name: str, function: str, weight: float, **more: Any) -> None:
  entry = {'function': f'dlkd_jax.losses.{function}', 'weight': weight, **more}
  config.loss.terms[name] = ml_collections.ConfigDict(entry)


# Parts of later models, arguments by these names: what puts each into a recipe whose number of epochs stands. They come
# in the order in which `dlkd_jax.sweep --ladder` adds them up.
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


def load_recipe(name: str, arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe `configs/<name>.py`, wherever the command runs."""
  return runpy.run_path(str(RECIPES / f'{name}.py'))['get_config'](arg)


def parse_arguments(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
  """Parses the part of `--config=configs/tvr.py:hard,seed=3` behind the colon.

  Args:
    arg: comma-separated names of switches and `name=value` pairs, or None.
    **defaults: every argument that is allowed, with its default, which gives its type (bool, int, float or str).

  Returns:
    The defaults with the given arguments put in.

  Raises:
    ValueError: an argument is unknown, given twice, or its value has the wrong type.
  """
  parsed = ml_collections.ConfigDict(defaults)
  seen = set()
  for item in filter(None, (arg or '').split(',')):
    name, has_value, text = item.partition('=')
    if name not in defaults:
      raise UserError(
        f'unknown config argument {name!r} in {arg!r}{nearest(name, defaults)}; expected some of '
        f'{", ".join(sorted(defaults))}.'
      )
    if name in seen:
      raise UserError(f'config argument {name!r} is given twice in {arg!r}.')
    seen.add(name)
    parsed[name] = _convert(name, text if has_value else None, type(defaults[name]))
  return parsed


def _convert(name: str, text: str | None, kind: type) -> Any:
  if kind is bool:
    values = {None: True, 'true': True, 'false': False}
    if text in values:
      return values[text]
  elif text is not None:
    try:
      return kind(text)
    except ValueError:
      pass
  expected = 'no value, true or false' if kind is bool else f'{name}=<{kind.__name__}>'
  raise UserError(f'config argument {name!r} has the value {text!r}; expected {expected}.')
