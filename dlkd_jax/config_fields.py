"""Every field of a configuration: default, meaning, what it may hold, and where it may differ from a trained run's.

`config_defaults` has the recipes' arguments, `config` what is done with the configuration of a run.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_collections
from ml_collections import config_dict

# Names of scores that are no branch's.
_RESERVED = 'teacher', 'fused'
_MOST = 2**31 - 1  # Steps, sizes and counts are int32 on devices.


class Rule(NamedTuple):
  """What a field may hold: a test of a value, and the same in words."""

  holds: Callable[[Any], bool]
  expected: str


def _whole(least: int, most: int = _MOST) -> Rule:
  limits = f'{least} or more' if most == _MOST else f'{least} to {most}'
  return Rule(lambda x: type(x) is int and least <= x <= most, f'a whole number, {limits}')


def _number(holds: Callable[[float], bool], expected: str) -> Rule:
  return Rule(lambda x: type(x) in (int, float) and math.isfinite(x) and holds(x), expected)


def _one_of(*choices: str) -> Rule:
  return Rule(lambda x: type(x) is str and x in choices, f'one of {", ".join(choices)}')


def _several(each: Callable[[Any], bool], together: Callable[[Any], bool], expected: str) -> Rule:
  return Rule(lambda x: isinstance(x, tuple | list) and all(map(each, x)) and together(x), expected)


def _branches(least: int) -> Rule:
  named = lambda name: type(name) is str and name.isidentifier() and name not in _RESERVED  # noqa: E731
  once = lambda x: len(set(x)) == len(x) >= least  # noqa: E731
  return _several(named, once, "names, each once, as ('inheritance','exploration')")


_FLAG = Rule(lambda x: type(x) is bool, 'True or False')
_TEXT = Rule(lambda x: type(x) is str and x != '' and '\0' not in x, 'a name')
_SHARE = _number(lambda x: 0.0 <= x <= 1.0, 'a share in [0, 1]')
_SHARE_BELOW_ONE = _number(lambda x: 0.0 <= x < 1.0, 'a share in [0, 1)')
_DROPOUT = _number(lambda x: 0.0 <= x <= 0.99, 'a share in [0, 0.99]')
_WEIGHT = _number(lambda x: x >= 0.0, 'a number of 0 or more')
_POSITIVE = _number(lambda x: x > 0, 'a positive number')
_STEPS = _several(_whole(1).holds, lambda x: len(x) in (0, 2), '(first step, how many), or ()')
_SIZES = _several(
  _whole(1).holds, lambda x: len(x) and list(x) == sorted(set(x)), 'rising whole numbers from 1, as (32,64)'
)
_WEIGHTS = _several(
  _WEIGHT.holds, lambda x: any(x) or len(x) == 0, 'numbers of 0 or more, not all 0, as (0.7,0.3), or ()'
)
_DECAYS = 'none', 'exp', 'linear', 'sigmoid'
_PRECISION, _FORM = _one_of('auto', 'float32', 'bfloat16'), _one_of('auto', 'plain', 'blocked', 'pallas')

# Field → default, what it may hold, what it is. A type in place of a default: unset, or a value of this type.
FIELDS: dict[str, tuple[Any, Rule, str]] = {
  'seed': (0, _whole(0, 2**32 - 1), 'of initialisation, data order, dropout and draws'),
  'data.dataset': ('', _TEXT, 'name that dlkd build gave it, as charades_prvr'),
  'data.data_dir': ('data', _TEXT, 'folder that the data sets were built in'),
  'data.batch_videos': (128, _whole(1), 'videos a batch, with all their captions'),
  'data.max_frames': (128, _whole(1), 'longer videos are resampled to this many frames'),
  'data.max_words': (30, _whole(1), 'longer captions are cut to this many tokens'),
  'data.packing': (True, _FLAG, 'several videos share a row of max_frames frames, several captions a row of tokens'),
  'data.row_words': (64, _whole(1), 'tokens of such a row'),
  'data.slots': (8, _whole(1), 'most videos, or captions, that share a row'),
  'data.frame_sizes': ((32, 64, 96, 128), _SIZES, 'lengths that videos are padded to in evaluation'),
  'data.word_sizes': ((16, 30), _SIZES, 'lengths that captions are padded to in evaluation'),
  'data.sort_by_captions': (True, _FLAG, 'order a batch by captions per video, as the release does'),
  'data.max_videos': (int, _whole(1), 'use only the first so many videos of each split'),
  'data.read_threads': (4, _whole(1, 4096), 'threads that read one batch'),
  'data.prefetch_batches': (2, _whole(0, 4096), 'batches made ahead'),
  'data.on_device': (True, _FLAG, 'features of the training split stay on the devices, where they fit'),
  'model.name': ('dldkd', _TEXT, "dldkd, anchored, plus, or 'package.module:Class' of a student of your own"),
  'model.hidden': (384, _whole(1), 'size of the space in which queries and frames meet'),
  'model.heads': (4, _whole(1), 'attention heads'),
  'model.input_dropout': (0.2, _DROPOUT, 'share of input features dropped'),
  'model.dropout': (0.2, _DROPOUT, 'share of inner features dropped'),
  'model.branches': (('inheritance', 'exploration'), _branches(1), 'each of its own parameters, losses and scores'),
  'model.distilled': (('inheritance',), _branches(0), 'those of them that learn from the teacher'),
  'model.precision': ('auto', _PRECISION, 'of matrix products; auto: bfloat16 on a TPU or GPU, float32 elsewhere'),
  'similarity.form': ('auto', _FORM, 'auto: pallas on a TPU, blocked elsewhere'),
  'similarity.block_rows': (int, _whole(1), 'rows of frames a block; unset: by memory'),
  'loss.margin': (0.1, _number(lambda x: 0.0 <= x <= 2.0, 'a difference of cosines in [0, 2]'), 'of the triplet loss'),
  'loss.hard_pool': (20, _whole(1), 'best-scoring wrong videos among which a negative is drawn'),
  'loss.hard_negative_start_epoch': (0, _whole(0), 'negatives are drawn among all wrong ones before this epoch'),
  'loss.triplet_weight': (1.0, _WEIGHT, "weight of each branch's triplet loss"),
  'loss.nce_weight': (0.04, _WEIGHT, "weight of each branch's contrastive loss"),
  'loss.distillation_weight': (0.1, _WEIGHT, 'weight of the distillation, times the scheduled w'),
  'loss.soft_labels': (True, _FLAG, 'soft alignment (DL-DKD++); False: hard labels (DL-DKD)'),
  'loss.random_split': (False, _FLAG, 'draw the rows that keep hard labels at random'),
  'loss.stop_target_gradient': (False, _FLAG, 'no gradient through soft targets that follow the student itself'),
  'loss.kl_captions': (float, _POSITIVE, 'mean divergence a caption times this; unset: the sum'),
  'loss.temperature': (0.2, _POSITIVE, 'of the frame distributions, in cosine'),
  'loss.teacher_temperature': (float, _POSITIVE, "of the teacher's soft targets; unset: 1 and 0.2"),
  'loss.teacher': (True, _FLAG, 'distil from the teacher'),
  'teacher.online': (False, _FLAG, "encode the records' pictures in each step, instead of reading frozen features"),
  'teacher.name': ('clip', _TEXT, "what encodes them: clip, or 'package.module:function' (training/online_teacher.py)"),
  'teacher.clip': (str, _TEXT, 'folder, or hf:OWNER/NAME, of the CLIP or SigLIP that encodes them'),
  'teacher.micro_batch': (64, _whole(1), 'pictures that a device encodes at once'),
  'schedules.distillation': ('exp', _one_of(*_DECAYS), 'shape of w, the weight of the distillation over the epochs'),
  'schedules.alpha': ('sigmoid', _one_of(*_DECAYS, 'cosine'), 'share of hard labels'),
  'schedules.alpha_start': (0.8, _SHARE, 'alpha at epoch 0'),
  'schedules.beta': ('sigmoid', _one_of(*_DECAYS, 'cosine'), 'one-hot part of soft labels'),
  'schedules.beta_start': (0.8, _SHARE, 'beta at epoch 0'),
  'schedules.epochs': (120, _whole(1), 'length of the linear and cosine curves, in epochs'),
  'optimizer.learning_rate': (3e-4, _POSITIVE, 'highest rate'),
  'optimizer.warmup': (0.01, _SHARE_BELOW_ONE, 'share of all steps over which the rate rises from 0'),
  'optimizer.weight_decay': (0.01, _WEIGHT, 'decoupled, on all but biases and LayerNorm parameters'),
  'optimizer.max_norm': (1.0, _POSITIVE, 'largest gradient norm of one parameter tensor'),
  'training.epochs': (120, _whole(0), 'at most'),
  'training.patience': (10, _whole(1), 'epochs without a new best SumR on validation before the training stops'),
  'training.min_epochs': (0, _whole(0), 'it does not stop before so many'),
  'training.average': (0.0, _SHARE_BELOW_ONE, 'decay, a step, of averaged parameters, validated, too; 0: none'),
  'training.micro_batches': (1, _whole(1), 'parts that a batch is encoded in; the losses see it whole all the same'),
  'training.checkpoint_every_steps': (0, _whole(0), 'besides one after each epoch; 0: only those'),
  'mesh.model': (1, _whole(1), 'devices that share the parameters, each holding a part; 1: each holds them whole'),
  'evaluation.weights': (
    (0.7, 0.3),
    _WEIGHTS,
    'of each of model.branches in the fused score, and of the teacher where there is one more; (): found on validation',
  ),
  'evaluation.block_videos': (32, _whole(1), 'videos encoded at once'),
  'evaluation.block_captions': (128, _whole(1), 'captions encoded at once'),
  'logging.every_steps': (20, _whole(1), 'steps between two progress lines and log records'),
  'logging.profile_steps': ((), _STEPS, '(first step, how many) to write a profiler trace of; empty: none'),
}
# Groups that take fields of any name: those of a student and of a teacher of another name.
_OPEN_GROUPS = 'model.options', 'teacher.options'


def _or_unset(rule: Rule) -> Rule:
  return Rule(lambda x: x is None or rule.holds(x), f'unset, or {rule.expected}')


RULES = {field: _or_unset(rule) if isinstance(x, type) else rule for field, (x, rule, _) in FIELDS.items()}


def base(dataset: str) -> ml_collections.ConfigDict:
  """Returns what the paper's recipes share, for one data set: the defaults."""
  config = ml_collections.ConfigDict()
  for field, (default, *_) in FIELDS.items():
    group, _, name = field.rpartition('.')
    if group and group not in config:
      config[group] = ml_collections.ConfigDict()
    fields = config[group] if group else config
    fields[name] = config_dict.placeholder(default) if isinstance(default, type) else default
  config.data.dataset = dataset
  for group, name in (('model', 'options'), ('teacher', 'options'), ('loss', 'terms')):
    config[group][name] = ml_collections.ConfigDict()
  return config


# Fields that change the results of a training by rounding at most: where data lies, what is reported, how arrays are
# laid out and summed. A name that ends with a dot stands for a group.
_DATA = (
  'data_dir',
  'read_threads',
  'prefetch_batches',
  'on_device',
  'packing',
  'row_words',
  'slots',
  'frame_sizes',
  'word_sizes',
)
_TRAINING = 'teacher.micro_batch', 'training.micro_batches', 'training.checkpoint_every_steps'
ROUNDING_ALONE = (
  *(f'data.{name}' for name in _DATA),
  *_TRAINING,
  'similarity.',
  'mesh.',
  'evaluation.block_',
  'logging.',
)
# Fields that may differ when a run is resumed. Where the precision is 'auto', a run goes on with what it began with.
FREE_ON_RESUME = (*ROUNDING_ALONE, 'model.precision', 'training.patience', 'training.min_epochs')
# Fields that are found when a run begins where they are left open.
FOUND = ('model.precision', 'model.options.residual', 'model.options.teacher_features', 'evaluation.weights')
# Fields of a trained run that an evaluation may set anew.
FREE_IN_EVALUATION = (*ROUNDING_ALONE, 'data.dataset', 'data.max_videos', 'model.precision', 'evaluation.')
# Those of them that an evaluation's results depend on, by more than rounding of sums.
CHANGE_RESULTS = ('data.dataset', 'data.max_videos', 'model.precision', 'evaluation.weights')
# Fields of former runs → what says the same now, as `modernised` maps it.
REPLACED = {'model.dual': 'model.branches', 'evaluation.inheritance_weight': 'evaluation.weights'}


# What a term of `config.loss.terms` has: default, what it may hold. All else is handed on to its function.
_TERM: dict[str, tuple[Any, Rule]] = {
  'function': (None, Rule(lambda x: _TEXT.holds(x) and ':' in x, "'package.module:name'")),
  'weight': (1.0, _WEIGHT),
  'schedule': ('none', _one_of(*_DECAYS, 'cosine')),
  'from_epoch': (0, _whole(0)),
  'branches': ((), _branches(0)),
  'needs_teacher': (False, _FLAG),
  'own_curves': (False, _FLAG),
}
TERM = {name: default for name, (default, _) in _TERM.items()}
# Names in the logs that are no term's to have.
_TAKEN = ('triplet', 'nce', 'distillation', 'alpha', 'beta', 'hard_negatives', 'learning_rate')


def _plain(x: Any) -> bool:
  return isinstance(x, bool | int | float | str | None) or (isinstance(x, tuple | list) and all(map(_plain, x)))


_PLAIN = Rule(_plain, 'a plain value')


def rule_of(field: str) -> Rule | None:
  """Returns the rule of a field, which may be one of the groups that take fields of any name; None: there is none."""
  group, _, name = field.rpartition('.')
  if group in _OPEN_GROUPS:
    return _PLAIN
  if group.startswith('loss.terms.') and group.count('.') == 2:
    term = group.removeprefix('loss.terms.')
    if not term.isidentifier() or term in _TAKEN:
      return None
    return _TERM[name][1] if name in _TERM else _PLAIN
  return RULES.get(field)


def modernised(fields: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of a former run, {'model.dual': True, …}, under their names of today."""
  fields = dict(fields)
  dual, share = (fields.pop(field, None) for field in REPLACED)
  if type(dual) is bool:
    fields['model.branches'] = ('inheritance', 'exploration')[: 1 + dual]
  if dual is False:
    fields['evaluation.weights'] = (1.0,)
  elif _SHARE.holds(share):
    fields['evaluation.weights'] = (share, round(1.0 - share, 12))
  return fields


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
  """Returns what may have been meant, as ' (did you mean data.dataset?)', or '' where nothing is near."""
  found = difflib.get_close_matches(name, list(known), count)
  return f' (did you mean {" or ".join(found)}?)' if found else ''
