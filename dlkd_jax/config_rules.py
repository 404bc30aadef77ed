"""What every field of a configuration may hold, and where it may differ from that of a trained run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

# Fields that change the results of a training by rounding at most: where data lies, what is reported, how arrays are
# laid out and summed. A name that ends with a dot stands for a group.
ROUNDING_ALONE = (
  'data.data_dir',
  'data.read_threads',
  'data.prefetch_batches',
  'data.packing',
  'data.row_words',
  'data.slots',
  'data.frame_sizes',
  'data.word_sizes',
  'similarity.',
  'teacher.micro_batch',
  'training.micro_batches',
  'training.checkpoint_every_steps',
  'mesh.',
  'evaluation.block_',
  'logging.',
)
# Fields that may differ when a run is resumed. Where the precision is 'auto', a run goes on with what it began with.
FREE_ON_RESUME = (*ROUNDING_ALONE, 'model.precision', 'training.patience', 'training.min_epochs')
# Fields of a trained run that an evaluation may set anew.
FREE_IN_EVALUATION = (
  'data.data_dir',
  'data.dataset',
  'data.max_videos',
  'data.read_threads',
  'data.prefetch_batches',
  'data.frame_sizes',
  'data.word_sizes',
  'model.precision',
  'similarity.',
  'mesh.',
  'evaluation.',
  'logging.',
)
# Those of them that an evaluation's results depend on, by more than rounding of sums.
CHANGE_RESULTS = ('data.dataset', 'data.max_videos', 'model.precision', 'evaluation.weights')
# Fields of former runs → what says the same now, as `modernised` maps it.
REPLACED = {'model.dual': 'model.branches', 'evaluation.inheritance_weight': 'evaluation.weights'}
# Names of scores that are no branch's.
_RESERVED = 'teacher', 'fused'
_MOST = 2**31 - 1  # Steps, sizes and counts are int32 on devices.


class Rule(NamedTuple):
  """What a field may hold.

  Attributes:
    holds: whether a value is one of these.
    expected: in words.
  """

  holds: Callable[[Any], bool]
  expected: str


def _whole(least: int, most: int = _MOST) -> Rule:
  limits = f'{least} or more' if most == _MOST else f'{least} to {most}'
  return Rule(lambda x: type(x) is int and least <= x <= most, f'a whole number, {limits}')


def _number(holds: Callable[[float], bool], expected: str) -> Rule:
  return Rule(lambda x: type(x) in (int, float) and math.isfinite(x) and holds(x), expected)


def _optional(rule: Rule) -> Rule:
  return Rule(lambda x: x is None or rule.holds(x), f'unset, or {rule.expected}')


def _one_of(*choices: str) -> Rule:
  return Rule(lambda x: type(x) is str and x in choices, f'one of {", ".join(choices)}')


def _sizes() -> Rule:
  def holds(x):
    whole = isinstance(x, tuple | list) and all(type(size) is int and 1 <= size <= _MOST for size in x)
    return whole and list(x) == sorted(set(x)) and len(x) > 0

  return Rule(holds, 'rising whole numbers from 1, as (32,64)')


def _branches(least: int) -> Rule:
  def holds(x):
    named = isinstance(x, tuple | list) and all(type(name) is str and name.isidentifier() for name in x)
    return named and len(set(x)) == len(x) >= least and not {*x} & {*_RESERVED}

  return Rule(holds, "names, each once, as ('inheritance','exploration')")


def _weights(x: Any) -> bool:
  return isinstance(x, tuple | list) and all(map(_WEIGHT.holds, x)) and (any(x) or len(x) == 0)


_FLAG = Rule(lambda x: type(x) is bool, 'True or False')
_TEXT = Rule(lambda x: type(x) is str and x != '' and '\0' not in x, 'a name')
_SHARE = _number(lambda x: 0.0 <= x <= 1.0, 'a share in [0, 1]')
_DROPOUT = _number(lambda x: 0.0 <= x <= 0.99, 'a share in [0, 0.99]')
_WEIGHT = _number(lambda x: x >= 0.0, 'a number of 0 or more')
_POSITIVE = _number(lambda x: x > 0, 'a positive number')
_STEPS = Rule(
  lambda x: isinstance(x, tuple | list) and (len(x) == 0 or (len(x) == 2 and all(_whole(1).holds(step) for step in x))),
  '(first step, how many), or ()',
)
_DECAYS = 'none', 'exp', 'linear', 'sigmoid'

# Every field of `config_defaults.base` has a rule.
RULES: dict[str, Rule] = {
  'seed': _whole(0, 2**32 - 1),
  'data.dataset': _TEXT,
  'data.data_dir': _TEXT,
  'data.batch_videos': _whole(1),
  'data.max_frames': _whole(1),
  'data.max_words': _whole(1),
  'data.packing': _FLAG,
  'data.row_words': _whole(1),
  'data.slots': _whole(1),
  'data.frame_sizes': _sizes(),
  'data.word_sizes': _sizes(),
  'data.sort_by_captions': _FLAG,
  'data.max_videos': _optional(_whole(1)),
  'data.read_threads': _whole(1, 4096),
  'data.prefetch_batches': _whole(0, 4096),
  'model.name': _TEXT,
  'model.hidden': _whole(1),
  'model.heads': _whole(1),
  'model.input_dropout': _DROPOUT,
  'model.dropout': _DROPOUT,
  'model.branches': _branches(1),
  'model.distilled': _branches(0),
  'model.precision': _one_of('auto', 'float32', 'bfloat16'),
  'similarity.form': _one_of('auto', 'plain', 'blocked', 'pallas'),
  'similarity.block_rows': _optional(_whole(1)),
  'loss.margin': _number(lambda x: 0.0 <= x <= 2.0, 'a difference of cosines in [0, 2]'),
  'loss.hard_pool': _whole(1),
  'loss.hard_negative_start_epoch': _whole(0),
  'loss.triplet_weight': _WEIGHT,
  'loss.nce_weight': _WEIGHT,
  'loss.distillation_weight': _WEIGHT,
  'loss.soft_labels': _FLAG,
  'loss.random_split': _FLAG,
  'loss.stop_target_gradient': _FLAG,
  'loss.kl_captions': _optional(_POSITIVE),
  'loss.temperature': _POSITIVE,
  'loss.teacher_temperature': _optional(_POSITIVE),
  'loss.teacher': _FLAG,
  'teacher.online': _FLAG,
  'teacher.name': _TEXT,
  'teacher.clip': _optional(_TEXT),
  'teacher.micro_batch': _whole(1),
  'schedules.distillation': _one_of(*_DECAYS),
  'schedules.alpha': _one_of(*_DECAYS, 'cosine'),
  'schedules.alpha_start': _SHARE,
  'schedules.beta': _one_of(*_DECAYS, 'cosine'),
  'schedules.beta_start': _SHARE,
  'schedules.epochs': _whole(1),
  'optimizer.learning_rate': _POSITIVE,
  'optimizer.warmup': _number(lambda x: 0.0 <= x < 1.0, 'a share in [0, 1)'),
  'optimizer.weight_decay': _WEIGHT,
  'optimizer.max_norm': _POSITIVE,
  'training.epochs': _whole(0),
  'training.patience': _whole(1),
  'training.min_epochs': _whole(0),
  'training.average': _number(lambda x: 0.0 <= x < 1.0, 'a share in [0, 1)'),
  'training.micro_batches': _whole(1),
  'training.checkpoint_every_steps': _whole(0),
  'mesh.model': _whole(1),
  'evaluation.weights': Rule(_weights, 'numbers of 0 or more, not all 0, as (0.7,0.3), or ()'),
  'evaluation.block_videos': _whole(1),
  'evaluation.block_captions': _whole(1),
  'logging.every_steps': _whole(1),
  'logging.profile_steps': _STEPS,
}

# What a term of `config.loss.terms` has, with the defaults; all else is handed on to its function.
TERM = {
  'function': None,
  'weight': 1.0,
  'schedule': 'none',
  'from_epoch': 0,
  'branches': (),
  'needs_teacher': False,
  'own_curves': False,
}
_TERM_RULES = {
  'function': Rule(lambda x: _TEXT.holds(x) and ':' in x, "'package.module:name'"),
  'weight': _WEIGHT,
  'schedule': _one_of(*_DECAYS, 'cosine'),
  'from_epoch': _whole(0),
  'branches': _branches(0),
  'needs_teacher': _FLAG,
  'own_curves': _FLAG,
}
# Names in the logs that are no term's to have.
_TAKEN = ('triplet', 'nce', 'distillation', 'alpha', 'beta', 'hard_negatives', 'learning_rate')


def _plain(x: Any) -> bool:
  return isinstance(x, bool | int | float | str | None) or (isinstance(x, tuple | list) and all(map(_plain, x)))


_PLAIN = Rule(_plain, 'a plain value')


def rule_of(field: str) -> Rule | None:
  """Returns the rule of a field, which may be one of the groups that take fields of any name; None: there is none."""
  group, _, name = field.rpartition('.')
  if group in ('model.options', 'teacher.options'):
    return _PLAIN
  if group.startswith('loss.terms.') and group.count('.') == 2:
    term = group.removeprefix('loss.terms.')
    return _TERM_RULES.get(name, _PLAIN) if term.isidentifier() and term not in _TAKEN else None
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
