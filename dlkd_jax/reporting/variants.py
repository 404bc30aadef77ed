"""The ablations: named changes of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_collections

from dlkd_jax.config import flatten
from dlkd_jax.config_defaults import PLUS
from dlkd_jax.errors import UserError

RECIPE = 'recipe'


class Variant(NamedTuple):
  """One variant of a recipe.

  Attributes:
    name: of its folder, and in `--only`.
    about: what it is, for the table.
    changes: fields that differ from the recipe's, by their full names.
    against: the variant that it is compared with.
  """

  name: str
  about: str
  changes: dict[str, Any]
  against: str = RECIPE


_PAPER = ('inheritance', 'exploration'), (0.7, 0.3)


def _first_branch(config: ml_collections.ConfigDict) -> dict[str, Any]:
  found = not len(config.evaluation.weights)  # Behind the training.
  return {'model.branches': tuple(config.model.branches[:1]), 'evaluation.weights': () if found else (1.0,)}


def _several_branches(config: ml_collections.ConfigDict) -> dict[str, Any]:
  own = tuple(config.model.branches), tuple(config.evaluation.weights)
  return dict(zip(('model.branches', 'evaluation.weights'), own if len(own[0]) > 1 else _PAPER, strict=True))


# In the order in which they are trained: what matters most comes first.
_VARIANTS: tuple[tuple[str, str, dict[str, Any] | Callable], ...] = (
  (RECIPE, 'the recipe as it is', {}),
  ('hard_labels', 'hard one-hot labels (DL-DKD)', {'loss.soft_labels': False}),
  ('soft_labels', 'soft alignment (DL-DKD++)', {'loss.soft_labels': True}),
  ('single', 'the first branch alone', _first_branch),
  ('dual', 'several branches', _several_branches),
  ('no_teacher', 'no distillation; soft labels follow the student', {'loss.teacher': False}),
  ('teacher', 'with distillation', {'loss.teacher': True}),
  ('uniform_negatives', 'negatives among all wrong ones', {'loss.hard_negative_start_epoch': 'epochs'}),
  ('hard_negatives', 'negatives among the best-scoring wrong ones', {'loss.hard_negative_start_epoch': 0}),
  ('decay_none', 'w constant', {'schedules.distillation': 'none'}),
  ('decay_exp', 'w falls exponentially', {'schedules.distillation': 'exp'}),
  ('decay_linear', 'w falls linearly', {'schedules.distillation': 'linear'}),
  ('decay_sigmoid', 'w falls along a sigmoid', {'schedules.distillation': 'sigmoid'}),
  ('kl_mean', 'divergence: mean over captions, not their sum', {'loss.kl_captions': 1.0}),
  ('stop_target_gradient', 'no gradient through soft targets', {'loss.stop_target_gradient': True}),
  ('random_split', 'rows that keep hard labels drawn at random', {'loss.random_split': True}),
  ('position_split', 'rows that keep hard labels by position', {'loss.random_split': False}),
  ('single_no_teacher', 'one branch, no teacher', lambda config: _first_branch(config) | {'loss.teacher': False}),
)
# Fields without effect unless another has a value, so that varying them would train the recipe again.
_NEEDS = {
  'schedules.distillation': ('loss.teacher', True),
  'loss.kl_captions': ('loss.teacher', True),
  'loss.stop_target_gradient': ('loss.soft_labels', True),
  'loss.random_split': ('loss.soft_labels', True),
}
NAMES = tuple(name for name, _, _ in _VARIANTS)


def prepare(config: ml_collections.ConfigDict, epochs: int | None = None) -> ml_collections.ConfigDict:
  """Returns a copy of a recipe for a sweep, with another length of the training where one is given."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    if epochs is not None:
      config.training.epochs = epochs
    # Uniform negatives to the end are written as the number of epochs, whatever number meant it.
    start = config.loss.hard_negative_start_epoch
    config.loss.hard_negative_start_epoch = min(start, config.training.epochs)
  return config.lock()


def variants_of(config: ml_collections.ConfigDict) -> list[Variant]:
  """Returns the recipe and every variant that differs from it, in a field that has an effect in it.

  Args:
    config: the recipe, as `prepare` returns it.
  """
  found = []
  for name, about, changes in _VARIANTS:
    changes = changes(config) if callable(changes) else changes
    values = {field: config.training.epochs if value == 'epochs' else value for field, value in changes.items()}
    values = {field: value for field, value in values.items() if _matters(config, field)}
    if name == RECIPE or any(_value(config, field) != value for field, value in values.items()):
      found.append(Variant(name, about, values))
  # A change of a recipe that has half of it already may repeat a simpler variant.
  effective = [{f: v for f, v in x.changes.items() if _value(config, f) != v} for x in found]
  return [variant for i, variant in enumerate(found) if effective[i] not in effective[:i]]


def ladder_of(config: ml_collections.ConfigDict) -> list[Variant]:
  """Returns the recipe, with one piece of `plus` more at a time, and with all of them but one.

  A variant of the first kind is compared with the one before it, one of the second with all pieces. Pieces that the
  recipe has already, or that have nothing to act on in it, are left out.

  Args:
    config: the recipe, as `prepare` returns it.
  """
  found, names = [Variant(RECIPE, 'the recipe as it is', {})], []
  for piece in PLUS:
    changes = _changes(config, [*names, piece])
    if changes != found[-1].changes:
      names.append(piece)
      found.append(Variant(f'plus_{len(names)}_{piece}', f'and {piece}', changes, found[-1].name))
  if len(names) > 1:
    every = found[-1].name
    for piece in names[:-1]:
      rest = [name for name in names if name != piece]
      found.append(Variant(f'without_{piece}', f'all but {piece}', _changes(config, rest), every))
  return found


def _changes(config: ml_collections.ConfigDict, pieces: Sequence[str]) -> dict[str, Any]:
  """Returns the fields that pieces of `plus` change in a recipe."""
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    for piece in pieces:
      PLUS[piece](changed)
  before, after = flatten(config), flatten(changed)
  return {field: value for field, value in after.items() if field not in before or before[field] != value}


def choose(variants: Sequence[Variant], only: Sequence[str]) -> list[Variant]:
  """Returns the variants that are named, in their own order; all where none is named.

  Raises:
    ValueError: a name is unknown, or that variant is the recipe itself.
  """
  there = [variant.name for variant in variants]
  unknown = [name for name in only if name not in (*NAMES, *there)]
  if unknown:
    raise UserError(f'there is no variant {unknown[0]!r}; there are {", ".join(dict.fromkeys((*NAMES, *there)))}')
  same = [name for name in only if name not in there]
  if same:
    raise UserError(f'{same[0]!r} changes nothing that {", ".join(there)} do not change: this recipe is that already')
  return [variant for variant in variants if not only or variant.name in only]


def configure(config: ml_collections.ConfigDict, variant: Variant, seed: int) -> ml_collections.ConfigDict:
  """Returns the configuration of one run: the recipe with the variant's changes and a seed."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for field, value in variant.changes.items():
      _put(config, field, value)
    config.seed = seed
  return config.lock()


def _put(config: ml_collections.ConfigDict, field: str, value: Any) -> None:
  """Sets a field, also one in a group of any names, which may not be there yet."""
  *groups, name = field.split('.')
  for group in groups:
    if group not in config:
      config[group] = ml_collections.ConfigDict()
    config = config[group]
  config[name] = value


def _matters(config: ml_collections.ConfigDict, field: str) -> bool:
  needed, value = _NEEDS.get(field, (field, None))
  return value is None or _value(config, needed) == value


def _value(config: ml_collections.ConfigDict, field: str) -> Any:
  value: Any = config
  for name in field.split('.'):
    value = value[name]
  return value
