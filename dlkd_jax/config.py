"""Configurations: validation, and the configuration of a run on the disk.

A configuration is an `ml_collections.ConfigDict` as `config_fields.base` makes it; the defaults stand there alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections

from dlkd_jax import config_fields, files
from dlkd_jax.config_fields import RULES, base, nearest, rule_of
from dlkd_jax.errors import UserError

# Without these nothing can be said of a student; other fields may be newer than its training.
_NEEDED = (
  *(f'data.{name}' for name in ('dataset', 'data_dir', 'max_frames', 'max_words')),
  *(f'model.{name}' for name in ('hidden', 'heads', 'branches')),
  'evaluation.weights',
)
# Where a recipe has other values of these than the run, an evaluation says so.
_TOLD = 'model.', 'data.data', 'data.max_', 'evaluation.weights'
_Resolve = Callable[[ml_collections.ConfigDict], ml_collections.ConfigDict]


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns {'data.dataset': value, …} of a configuration, with tuples for lists."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = tuple(value) if isinstance(value, list) else value
  return flat


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks that a configuration has exactly the fields that there are, and that each holds what it may.

  Raises:
    UserError: a field is unknown, missing or out of range; the message names all such fields and what to change.
  """
  values = flatten(config)
  rules = RULES | {field: rule for field in values if (rule := rule_of(field))}
  problems = [f'there is no field config.{field}{nearest(field, RULES)}' for field in values.keys() - rules.keys()]
  problems += [f'config.{field} is missing, expected {RULES[field].expected}' for field in RULES.keys() - values.keys()]
  problems += [
    f'config.{field} is {values[field]!r}, expected {rule.expected}'
    for field, rule in rules.items()
    if field in values and not rule.holds(values[field])
  ]
  if not problems:
    problems = list(_disagreements(config))
  if problems:
    raise UserError('; '.join(problems) + '.')


def _disagreements(config: ml_collections.ConfigDict) -> Iterable[str]:
  """Yields what is wrong with fields beside each other, each of them being right."""
  data, model, weights, teacher = config.data, config.model, config.evaluation.weights, config.teacher
  branches = ', '.join(model.branches)
  one_each = f'{len(model.branches)}, one for each of model.branches ({branches}), or one more, for the teacher'
  holds = {
    'model.hidden': (model.hidden % model.heads == 0, f'a multiple of {model.heads} heads'),
    'evaluation.weights': (len(weights) in (0, len(model.branches), len(model.branches) + 1), one_each),
    'model.distilled': ({*model.distilled} <= {*model.branches}, f'some of model.branches ({branches})'),
    'data.row_words': (
      not data.packing or data.row_words >= data.max_words,
      f'{data.max_words} or more, the longest caption (data.max_words)',
    ),
    'teacher.clip': (
      not teacher.online or teacher.name != 'clip' or teacher.clip is not None,
      'the folder of a CLIP model, since teacher.online is True',
    ),
    'loss.teacher': (not teacher.online or config.loss.teacher, 'True, since teacher.online is'),
  }
  for sizes, limit in (('frame_sizes', 'max_frames'), ('word_sizes', 'max_words')):
    ends = f'sizes that end with {data[limit]}, which data.{limit} is'
    holds[f'data.{sizes}'] = data[sizes][-1] == data[limit], ends
  values = flatten(config)
  for field, (right, expected) in holds.items():
    if not right:
      yield f'config.{field} is {values[field]!r}, expected {expected}'
  for name, term in config.loss.terms.items():
    if 'function' not in term:
      yield f"config.loss.terms.{name} has no function, expected 'package.module:name'"
    if not {*term.get('branches', ())} <= {*model.branches}:
      yield f'config.loss.terms.{name}.branches is {term.branches!r}, expected some of model.branches ({branches})'


class RunConfig(NamedTuple):
  """A configuration, locked, that follows from that of a run."""

  config: ml_collections.ConfigDict
  notes: list[str]  # What differs from what was asked for, or from what the run began with, to be printed.
  suffix: str = ''  # Part of a name that tells results under this configuration from those under the run's own.


def read_run(workdir: files.Path) -> RunConfig:
  """Reads the configuration that a training wrote to its work directory.

  Raises:
    FileNotFoundError: the folder holds no run.
    UserError: the file is damaged, or holds what no training writes.
  """
  return restore(_saved(workdir), str(workdir / 'config.json'))


def restore(content: Mapping[str, Any], origin: str) -> RunConfig:
  """Returns the configuration that `content`, read from JSON, is of.

  A field that is newer than it has its default; one that is gone is left out, with a note.

  Raises:
    UserError: it lacks what every training had, or a value is not allowed; the message begins with `origin`.
  """
  saved = config_fields.modernised(flatten(content))
  if absent := [field for field in _NEEDED if field not in saved]:
    raise UserError(f'{origin} is not the configuration of a training: it lacks {", ".join(absent)}')
  config, notes = base(''), []
  for field, value in saved.items():
    if not (rule := rule_of(field)):
      notes.append(_gone(field, value))
      continue
    try:
      _put(config, field, value)
    except (TypeError, ValueError):
      wanted = rule.expected
      raise UserError(f'{origin}: {field} is {value!r}, expected {wanted}; restore it from a copy') from None
  for field, limit in (('frame_sizes', config.data.max_frames), ('word_sizes', config.data.max_words)):
    if f'data.{field}' not in saved:  # The defaults are those of the default limits.
      _put(config, f'data.{field}', (*(size for size in config.data[field] if size < limit), limit))
  if 'data.row_words' not in saved:
    _put(config, 'data.row_words', max(config.data.row_words, config.data.max_words))
  try:
    validate(config)
  except UserError as error:
    raise UserError(f'{origin}: {error} Restore it from a copy.') from None
  return RunConfig(config.lock(), notes)


def settle(
  config: ml_collections.ConfigDict,
  workdir: files.Path,
  resolve: _Resolve = lambda config: config,
  free: tuple[str, ...] = config_fields.FREE_ON_RESUME,
) -> RunConfig:
  """Returns the configuration that a run begins or goes on with.

  A run goes on with the precision that it began with unless another is asked for, and with the default of a field that
  is newer than it. `free` are the fields and groups that may differ; `resolve` puts values in place of 'auto'.

  Raises:
    UserError: the configuration is wrong, or that of the run in the work directory differs; the message says how.
  """
  validate(config)
  if not (workdir / 'config.json').exists():
    return RunConfig(resolve(config), [])
  content = _saved(workdir)
  run, notes, _ = restore(content, str(workdir / 'config.json'))
  own, saved, asked = flatten(run), config_fields.modernised(flatten(content)), flatten(config)
  # Left open now, and found when the run began.
  found = [
    field for field in config_fields.FOUND if field in asked and _open(asked[field]) and not _open(own.get(field))
  ]
  config = resolve(with_values(config, {field: own[field] for field in found})).copy_and_resolve_references()
  now, wrong = flatten(config), []
  for field in sorted(own.keys() | now.keys()):
    before, after = own.get(field, '(absent)'), now.get(field, '(absent)')
    if before in (after, 'auto'):
      continue
    if field.startswith(free):
      notes.append(f'the run goes on with another {field}: {before!r} → {after!r}')
    elif field in RULES and field not in saved:
      notes.append(f'{field} is newer than the run, which goes on with {before!r} in place of {after!r}')
      _put(config, field, before)
    else:
      wrong.append(f'{field}: {before!r} → {after!r}')
  _refuse(workdir, 'saved → now', wrong, 'Resume with the saved values, or choose another --workdir.')
  return RunConfig(config.lock(), notes)


def _open(value: Any) -> bool:
  """Whether a field is left open, to be found when a run begins."""
  return value in ('auto', (), None)


def with_values(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Returns a locked copy with other values of some fields, {'model.heads': 2, …}."""
  config = config.copy_and_resolve_references()
  for field, value in values.items():
    _put(config, field, value)
  return config.lock()


def write(config: ml_collections.ConfigDict, workdir: files.Path) -> None:
  """Writes the configuration of a run to its work directory."""
  files.write_json(workdir / 'config.json', json.loads(config.to_json_best_effort()))


def for_evaluation(
  asked: ml_collections.ConfigDict | None,
  workdir: files.Path,
  given: Collection[str] | None = None,
  resolve: _Resolve = lambda config: config,
) -> RunConfig:
  """Returns the configuration to evaluate a run with: the run's own, and in it what may be chosen anew.

  `given` are the fields of `asked` that were asked for by name (None: all); others are a recipe's, and do not count.

  Raises:
    FileNotFoundError: the folder holds no run.
    UserError: its configuration is damaged, or a field differs that makes the run what it is.
  """
  run, notes, _ = read_run(workdir)
  own = flatten(resolve(run))
  config = run.copy_and_resolve_references()
  wrong, unused = [], []
  for field, value in flatten(asked or {}).items():
    by_name = given is None or field in given
    if field not in RULES or value == own[field] or (value in ('auto', ()) and (given is None or not by_name)):
      continue
    if not by_name:
      unused += [f'{field} {own[field]!r}, not {value!r}'] * field.startswith(_TOLD)
    elif field.startswith(config_fields.FREE_IN_EVALUATION):
      _put(config, field, value)
    else:
      wrong.append(f'{field}: {own[field]!r} → {value!r}')
  remedy = 'A run is evaluated as it was trained: leave these settings out, or choose the --workdir of another run.'
  _refuse(workdir, 'the run → asked for', wrong, remedy)
  if unused:
    notes.append(f"the run's own settings are taken where the recipe has others: {'; '.join(unused)}")
  validate(config)
  config = resolve(config)
  now = flatten(config)
  differing = [field for field in now if own[field] != now[field]]
  notes += [f'evaluated with another {field}: {own[field]!r} → {now[field]!r}' for field in differing]
  suffix = ''
  for field in config_fields.CHANGE_RESULTS:
    if field in differing:
      value = re.sub(r'[^\w.=-]+', '-', str(now[field]).replace(' ', '').strip('(,)'))
      suffix += f'_{field.split(".")[-1]}={value}'
  return RunConfig(config.lock(), notes, suffix)


def _gone(field: str, value: Any) -> str:
  return f'{field} of the run ({value!r}) is no setting any more, and is ignored'


def _refuse(workdir: files.Path, what: str, lines: list[str], remedy: str) -> None:
  if lines:
    listed = '\n  '.join(lines)
    raise UserError(f'{workdir} holds a run of another configuration ({what}):\n  {listed}\n{remedy}')


def _saved(workdir: files.Path) -> dict[str, Any]:
  """Reads a configuration as it was written, whatever fields it has."""
  path = workdir / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(f'{path} is absent: {workdir} holds no config.json; expected the --workdir of a training')
  try:
    if isinstance(content := json.loads(path.read_text(encoding='utf-8')), dict):
      return content
    problem = 'no object of JSON'
  except ValueError as error:
    problem = str(error)
  raise UserError(f'{path} is not the configuration of a training: it is damaged ({problem}); restore it from a copy')


def _put(config: ml_collections.ConfigDict, field: str, value: Any) -> None:
  *groups, name = field.split('.')
  with config.unlocked():
    for group in groups:
      if group not in config:  # Of those that take groups of any name.
        config[group] = ml_collections.ConfigDict()
      config = config[group]
    config.update({name: value})
