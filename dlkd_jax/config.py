"""Configurations: strict arguments of `get_config`, validation with errors that say what to change, comparison.

A configuration is an `ml_collections.ConfigDict` as `configs/common.py` defines it.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import ml_collections

from dlkd_jax import files
from dlkd_jax.errors import UserError

# Fields that may differ when a run is resumed: they change what is reported or where data lies, not the result.
_FREE_ON_RESUME = (
  'data.data_dir',
  'data.read_threads',
  'data.prefetch_batches',
  'mesh',
  'logging',
  'evaluation.block_',
)


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
      raise UserError(f'unknown config argument {name!r} in {arg!r}; expected some of {", ".join(sorted(defaults))}.')
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


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks the values that the parts of the program do not check for themselves.

  Raises:
    ValueError: a value is out of range; the message names all such fields and what to change.
  """
  problems = []

  def require(condition, field, expected):
    if not condition:
      value = config
      for name in field.split('.'):
        value = value[name]
      problems.append(f'config.{field} is {value!r}, expected {expected}')

  for field in ('model.input_dropout', 'model.dropout'):
    group, name = field.split('.')
    require(0.0 <= config[group][name] <= 0.99, field, 'a share in [0, 0.99]')
  require(0.0 <= config.optimizer.warmup < 1.0, 'optimizer.warmup', 'a share in [0, 1)')
  require(config.schedules.epochs >= 1, 'schedules.epochs', 'at least 1')
  require(config.loss.temperature > 0, 'loss.temperature', 'a positive number')
  teacher_temperature = config.loss.teacher_temperature
  require(teacher_temperature is None or teacher_temperature > 0, 'loss.teacher_temperature', 'unset or positive')
  online = config.teacher.online
  require(not online or config.teacher.clip, 'teacher.clip', 'the folder of a CLIP model, since teacher.online is True')
  require(not online or config.loss.teacher, 'loss.teacher', 'True, since teacher.online is')
  require(config.teacher.micro_batch >= 1, 'teacher.micro_batch', 'at least 1')
  for field in ('schedules.alpha_start', 'schedules.beta_start'):
    group, name = field.split('.')
    require(0.0 <= config[group][name] <= 1.0, field, 'a share in [0, 1]')
  heads = config.model.heads
  require(heads >= 1, 'model.heads', 'at least 1')
  require(heads < 1 or config.model.hidden % heads == 0, 'model.hidden', f'a multiple of {heads} heads')
  require(config.training.epochs >= 1, 'training.epochs', 'at least 1')
  require(config.training.micro_batches >= 1, 'training.micro_batches', 'at least 1')
  require(config.mesh.model >= 1, 'mesh.model', 'at least 1')
  precisions = ('auto', 'float32', 'bfloat16')
  require(config.model.precision in precisions, 'model.precision', f'one of {", ".join(precisions)}')
  forms = ('auto', 'plain', 'blocked', 'pallas')
  require(config.similarity.form in forms, 'similarity.form', f'one of {", ".join(forms)}')
  require(config.training.patience >= 1, 'training.patience', 'at least 1')
  require(config.training.checkpoint_every_steps >= 0, 'training.checkpoint_every_steps', '0 or more')
  require(config.logging.every_steps >= 1, 'logging.every_steps', 'at least 1')
  require(config.optimizer.learning_rate > 0, 'optimizer.learning_rate', 'a positive rate')
  require(config.loss.hard_pool >= 1, 'loss.hard_pool', 'at least 1')
  require(0.0 <= config.evaluation.inheritance_weight <= 1.0, 'evaluation.inheritance_weight', 'a share in [0, 1]')
  if problems:
    raise UserError('; '.join(problems) + '.')


def differences(saved: dict[str, Any], current: dict[str, Any], prefix: str = '') -> list[str]:
  """Lists the fields in which two configurations differ, as lines `field: saved → current`."""
  lines = []
  for name in sorted(set(saved) | set(current)):
    old, new, field = saved.get(name, '(absent)'), current.get(name, '(absent)'), f'{prefix}{name}'
    if isinstance(old, dict) and isinstance(new, dict):
      lines += differences(old, new, f'{field}.')
    elif old != new:
      lines.append(f'{field}: {old!r} → {new!r}')
  return lines


def write_or_compare(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes the configuration of a new run to `workdir/config.json`, or checks that a resumed run has the same.

  Raises:
    ValueError: the work directory holds a run of another configuration; the message lists the differences.
  """
  path = workdir / 'config.json'
  current = json.loads(config.to_json_best_effort())
  if path.exists():
    lines = [
      line for line in differences(json.loads(path.read_text()), current) if not line.startswith(_FREE_ON_RESUME)
    ]
    if lines:
      raise UserError(
        f'{workdir} holds a run of another configuration (saved → now):\n  '
        + '\n  '.join(lines)
        + '\nResume with the saved values, or choose another --workdir.'
      )
    return
  files.write_json(path, current)
