"""Variants of a recipe: what each changes, and that nothing is trained twice under two names."""

import itertools
import json

import pytest

from configs import charades, common
from dlkd_jax import begun, config_defaults
from dlkd_jax import config as config_lib
from dlkd_jax.reporting import variants


def fields(config):
  return json.loads(config.to_json_best_effort())


def of(argument=None, epochs=None):
  config = variants.prepare(charades.get_config(argument), epochs)
  return config, {variant.name: variant for variant in variants.variants_of(config)}


@pytest.mark.parametrize(
  ('name', 'argument'),
  [
    ('hard_labels', 'hard'),
    ('single', 'single'),
    ('no_teacher', 'no_teacher'),
    ('random_split', 'random_split'),
    ('uniform_negatives', 'uniform_negatives'),
    ('single_no_teacher', 'single,no_teacher'),
  ],
)
def test_variants_are_the_arguments_of_recipes(name, argument):
  config, found = of(epochs=7)
  ours = variants.configure(config, found[name], 3)
  assert fields(ours) == fields(charades.get_config(f'{argument},seed=3,epochs=7'))


def test_every_argument_of_recipes_is_a_variant_or_another_recipe():
  variants_too = {'hard', 'single', 'no_teacher', 'random_split', 'uniform_negatives'}
  recipes = {'anchored', 'plus', *config_defaults.PLUS}
  assert variants_too | recipes | {'debug', 'seed', 'epochs'} == set(common.ARGUMENTS)


def test_only_named_fields_change_and_all_are_valid():
  config, found = of()
  for variant in found.values():
    changed = variants.configure(config, variant, config.seed)
    config_lib.validate(changed)
    lines = begun.differences(fields(config), fields(changed))
    assert {line.split(':')[0] for line in lines} == set(variant.changes)


@pytest.mark.parametrize(
  'argument', [None, 'hard', 'single', 'no_teacher', 'uniform_negatives', 'random_split', 'single,no_teacher']
)
def test_no_two_variants_are_alike(argument):
  config, found = of(argument)
  every = [fields(variants.configure(config, variant, 0)) for variant in found.values()]
  assert all(one != other for i, one in enumerate(every) for other in every[:i])
  assert next(iter(found)) == 'recipe' and len(found) >= 7


def test_a_variant_that_is_the_recipe_is_left_out():
  assert 'soft_labels' not in of()[1] and 'hard_labels' not in of('hard')[1] and 'soft_labels' in of('hard')[1]
  assert 'uniform_negatives' not in of('uniform_negatives', epochs=4)[1]  # Of another length before.


def test_fields_without_effect_are_not_varied():
  assert not any(name.startswith(('decay', 'kl')) for name in of('no_teacher')[1])
  assert 'teacher' in of('no_teacher')[1] and 'dual' in of('single')[1]
  assert 'random_split' not in of('hard')[1] and 'stop_target_gradient' not in of('hard')[1]


def test_choosing():
  _, found = of()
  chosen = variants.choose(list(found.values()), ['single', 'recipe'])
  assert [variant.name for variant in chosen] == ['recipe', 'single']
  assert len(variants.choose(list(found.values()), [])) == len(found)
  with pytest.raises(ValueError, match="no variant 'softer'; there are recipe, hard_labels"):
    variants.choose(list(found.values()), ['softer'])
  with pytest.raises(ValueError, match="'soft_labels' changes nothing"):
    variants.choose(list(found.values()), ['soft_labels'])


def test_the_recipe_is_not_touched():
  config = charades.get_config('uniform_negatives')
  before = fields(config)
  variants.prepare(config, 3)
  assert fields(config) == before


def test_the_ladder_adds_the_pieces_of_plus_up_and_takes_each_away_again():
  config = variants.prepare(charades.get_config(), 20)
  found = {variant.name: variant for variant in variants.ladder_of(config)}
  pieces = list(config_defaults.PLUS)
  rungs = [f'plus_{i}_{piece}' for i, piece in enumerate(pieces, 1)]
  assert list(found) == ['recipe', *rungs, *(f'without_{piece}' for piece in pieces[:-1])]
  assert [found[name].against for name in rungs] == ['recipe', *rungs[:-1]]
  assert {found[name].against for name in found if name.startswith('without')} == {rungs[-1]}
  for before, after in itertools.pairwise(rungs):
    assert found[before].changes.items() < found[after].changes.items() or 'name' in str(found[after].changes)
  every = [fields(variants.configure(config, variant, 0)) for variant in found.values()]
  assert all(one != other for i, one in enumerate(every) for other in every[:i])
  for variant in found.values():
    config_lib.validate(variants.configure(config, variant, 0))
  by_hand = config.copy_and_resolve_references()
  with by_hand.unlocked():
    for piece in config_defaults.PLUS.values():
      piece(by_hand)
  assert fields(variants.configure(config, found[rungs[-1]], config.seed)) == fields(by_hand)
  assert len(variants.choose(list(found.values()), ['recipe', rungs[0]])) == 2


def test_the_ladder_leaves_out_pieces_that_have_nothing_to_act_on():
  config = variants.prepare(charades.get_config('single,no_teacher'), 20)
  names = [variant.name for variant in variants.ladder_of(config)]
  assert not any('diversity' in name or 'relations' in name for name in names) and 'plus_1_budget' in names
