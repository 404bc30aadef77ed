"""What all recipes share: every field with its default and unit, and the arguments that every recipe takes.

A recipe is a file with `get_config(arg)`, as those in the folder `configs`, which is installed as `dlkd_jax/configs`.

`--config=configs/tvr.py:hard,seed=3` calls `get_config('hard,seed=3')`; the arguments are

| argument | meaning |
|---|---|
| debug | a small model, 256 videos and 2 epochs: a check of the whole path, not a result |
| hard | hard one-hot labels (DL-DKD) instead of soft alignment (DL-DKD++) |
| single | the first branch alone |
| anchored | a student that starts from closed-form anchors, for few captions (dlkd_jax/models/anchored.py) |
| plus | what later models of the field add, as far as it was measured to help; see `PLUS` |
| no_teacher | no distillation, and soft labels that follow the student itself; needs no teacher features |
| random_split | draw the rows that keep hard labels at random, instead of taking the first of the sorted batch |
| uniform_negatives | draw the triplet's negatives among all wrong ones in every epoch, not among the best-scoring |
| seed=N | seed of initialisation, data order, dropout and draws |
| epochs=N | length of the training and of its learning-rate schedule |
"""

from __future__ import annotations

import difflib
import pathlib
import runpy
from collections.abc import Iterable
from typing import Any

import ml_collections
from ml_collections import config_dict

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
  'no_teacher': False,
  'random_split': False,
  'uniform_negatives': False,
  'seed': 0,
  'epochs': 0,  # 0: the recipe's own.
}


def base(dataset: str) -> ml_collections.ConfigDict:
  """Returns what the paper's recipes share, for one data set, with every field commented."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # of initialisation, data order, dropout and draws

  config.data = ml_collections.ConfigDict()
  config.data.dataset = dataset  # name that tfds_builders.build gave it, as charades_prvr
  config.data.data_dir = 'data'  # folder that the data sets were built in
  config.data.batch_videos = 128  # videos a batch, with all their captions
  config.data.max_frames = 128  # longer videos are resampled to this many frames
  config.data.max_words = 30  # longer captions are cut to this many tokens
  config.data.packing = True  # several videos share a row of max_frames frames, several captions a row of tokens
  config.data.row_words = 60  # tokens of such a row
  config.data.slots = 8  # most videos, or captions, that share a row
  config.data.frame_sizes = (32, 64, 96, 128)  # lengths that videos are padded to in evaluation
  config.data.word_sizes = (16, 30)  # lengths that captions are padded to in evaluation
  config.data.sort_by_captions = True  # order a batch by captions per video, as the release does
  config.data.max_videos = config_dict.placeholder(int)  # use only the first so many videos of each split
  config.data.read_threads = 4  # threads that read one batch
  config.data.prefetch_batches = 2  # batches made ahead

  config.model = ml_collections.ConfigDict()
  config.model.name = 'dldkd'  # the student: dldkd, anchored, plus, or 'package.module:Class' (models/students.py)
  config.model.hidden = 384  # size of the space in which queries and frames meet
  config.model.heads = 4  # attention heads
  config.model.input_dropout = 0.2  # share of input features dropped
  config.model.dropout = 0.2  # share of inner features dropped
  config.model.branches = ('inheritance', 'exploration')  # each of its own parameters, losses and scores
  config.model.distilled = ('inheritance',)  # those of them that learn from the teacher
  config.model.precision = 'auto'  # of matrix products: float32, bfloat16, or auto: bfloat16 on a TPU or GPU
  config.model.options = ml_collections.ConfigDict()  # fields of a student of another name

  config.similarity = ml_collections.ConfigDict()
  config.similarity.form = 'auto'  # plain, blocked, pallas, or auto: pallas on a TPU, blocked elsewhere
  config.similarity.block_rows = config_dict.placeholder(int)  # rows of frames a block; unset: by memory

  config.loss = ml_collections.ConfigDict()
  config.loss.margin = 0.1  # of the triplet loss, in cosine
  config.loss.hard_pool = 20  # best-scoring wrong videos among which a negative is drawn
  config.loss.hard_negative_start_epoch = 0  # negatives are drawn among all wrong ones before this epoch
  config.loss.triplet_weight = 1.0  # weight of each branch's triplet loss
  config.loss.nce_weight = 0.04  # weight of each branch's contrastive loss
  config.loss.distillation_weight = 0.1  # weight of the distillation, times the scheduled w
  config.loss.soft_labels = True  # soft alignment (DL-DKD++); False: hard labels (DL-DKD)
  config.loss.random_split = False  # draw the rows that keep hard labels at random
  config.loss.stop_target_gradient = False  # no gradient through soft targets that follow the student itself
  config.loss.kl_captions = config_dict.placeholder(float)  # mean divergence a caption times this; unset: the sum
  config.loss.temperature = 0.2  # of the frame distributions, in cosine
  config.loss.teacher_temperature = config_dict.placeholder(float)  # of the teacher's soft targets; unset: 1 and 0.2
  config.loss.teacher = True  # distil from the teacher
  config.loss.terms = ml_collections.ConfigDict()  # further ones: name → function, weight, … (config_rules.TERM)

  config.teacher = ml_collections.ConfigDict()
  config.teacher.online = False  # encode the records' pictures in each step, instead of reading frozen features
  config.teacher.name = 'clip'  # what encodes them: clip, or 'package.module:function' (training/online_teacher.py)
  config.teacher.clip = config_dict.placeholder(str)  # folder of the CLIP model that encodes them
  config.teacher.micro_batch = 64  # pictures that a device encodes at once
  config.teacher.options = ml_collections.ConfigDict()  # what a function of another name reads

  config.schedules = ml_collections.ConfigDict()
  config.schedules.distillation = 'exp'  # w: none, exp, linear or sigmoid
  config.schedules.alpha = 'sigmoid'  # share of hard labels: none, exp, linear, sigmoid or cosine
  config.schedules.alpha_start = 0.8  # alpha at epoch 0
  config.schedules.beta = 'sigmoid'  # one-hot part of soft labels: none, exp, linear, sigmoid or cosine
  config.schedules.beta_start = 0.8  # beta at epoch 0
  config.schedules.epochs = 120  # length of the linear and cosine curves, in epochs

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.learning_rate = 3e-4  # highest rate
  config.optimizer.warmup = 0.01  # share of all steps over which the rate rises from 0
  config.optimizer.weight_decay = 0.01  # decoupled, on all but biases and LayerNorm parameters
  config.optimizer.max_norm = 1.0  # largest gradient norm of one parameter tensor

  config.training = ml_collections.ConfigDict()
  config.training.epochs = 120  # at most
  config.training.patience = 10  # epochs without a new best SumR on validation before the training stops
  config.training.min_epochs = 0  # it does not stop before so many
  config.training.average = 0.0  # decay, a step, of averaged parameters, which are validated, too; 0: none
  config.training.micro_batches = 1  # parts that a batch is encoded in; the losses see it whole all the same
  config.training.checkpoint_every_steps = 0  # besides one after each epoch; 0: only those

  config.mesh = ml_collections.ConfigDict()
  config.mesh.model = 1  # devices that share the parameters, each holding a part; 1: every device holds them whole

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.weights = (0.7, 0.3)  # of each of model.branches in the fused score; (): fitted with the anchors
  config.evaluation.block_videos = 32  # videos encoded at once
  config.evaluation.block_captions = 128  # captions encoded at once

  config.logging = ml_collections.ConfigDict()
  config.logging.every_steps = 20  # steps between two progress lines and log records
  config.logging.profile_steps = ()  # (first step, how many) to write a profiler trace of; empty: none
  return config


def finish(config: ml_collections.ConfigDict, arg: str | None) -> ml_collections.ConfigDict:
  """Puts the arguments (module docstring) that were given into a recipe and locks it.

  Raises:
    ValueError: an argument is unknown or has a wrong value.
  """
  arguments = parse_arguments(arg, **ARGUMENTS)
  given = {item.partition('=')[0] for item in (arg or '').split(',')}
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
  if arguments.anchored:
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
  if arguments.plus:
    if arguments.anchored:
      raise UserError(f'the arguments anchored and plus make two different students; give one of them: {arg!r}')
    for piece in PLUS.values():
      piece(config)
  if 'uniform_negatives' in given:
    config.loss.hard_negative_start_epoch = config.training.epochs if arguments.uniform_negatives else 0
  return config.lock()


def _start_from_anchors(config: ml_collections.ConfigDict) -> None:
  """Puts the anchored student into a recipe: what learns is small, so it learns fast, from all pairs of a batch."""
  config.model.update(name='anchored', hidden=256, dropout=0.3, distilled=())
  # The inheritance branch is fitted to the teacher; nothing is distilled in training.
  config.model.branches = (*(['inheritance'] if config.loss.teacher else []), 'exploration')
  config.evaluation.weights = ()
  config.loss.update(triplet_weight=0.0, nce_weight=0.0, distillation_weight=0.0)
  function = 'dlkd_jax.losses.total:cosine_contrastive'
  config.loss.terms.cosine = ml_collections.ConfigDict({'function': function, 'temperature': 0.1})
  config.optimizer.update(learning_rate=2e-4, warmup=0.05, weight_decay=0.05)
  config.training.epochs = config.training.patience = 15


def _budget(config: ml_collections.ConfigDict) -> None:
  """Random negatives first, time to learn before stopping, and averaged parameters."""
  epochs = config.training.epochs
  config.loss.hard_negative_start_epoch = round(0.2 * epochs)
  config.training.update(patience=max(20, config.training.patience), min_epochs=round(0.6 * epochs), average=0.99)


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


def _add_term(config: ml_collections.ConfigDict, name: str, function: str, weight: float, **more: Any) -> None:
  entry = {'function': f'dlkd_jax.losses.{function}', 'weight': weight, **more}
  config.loss.terms[name] = ml_collections.ConfigDict(entry)


# The pieces of the argument `plus`: name → what puts it into a recipe whose number of epochs stands. Each is an option
# by itself, in the order in which `dlkd_jax.sweep --ladder` adds them up.
PLUS = {'budget': _budget, 'clips': _clips, 'widths': _widths, 'diversity': _diversity, 'relations': _relations}


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


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
  """Returns what may have been meant, as ' (did you mean data.dataset?)', or '' where nothing is near."""
  found = difflib.get_close_matches(name, list(known), count)
  return f' (did you mean {" or ".join(found)}?)' if found else ''
