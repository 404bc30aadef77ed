"""Recipes, their arguments, validation, and the options that are made of them."""

import dataclasses
import importlib
import json
import math
import re

import numpy as np
import pytest

from dlkd_jax import config as config_lib
from dlkd_jax import config_defaults, config_fields
from dlkd_jax.data.batch import PipelineOptions
from dlkd_jax.errors import UserError
from dlkd_jax.models.dldkd import Branch, DlDkdStudent
from dlkd_jax.retrieval.evaluate import EvaluationOptions
from dlkd_jax.training import recipe
from dlkd_jax.training.objective import ObjectiveOptions
from tests.paths import repository

RECIPES = sorted(
  path.stem for path in (repository() / 'configs').glob('*.py') if 'def get_config' in path.read_text(encoding='utf-8')
)
# learning rate, dropout, margin
PUBLISHED = {
  'tvr': ('tvr_prvr', 3e-4, 0.2, 0.1),
  'activitynet': ('activitynet_prvr', 2.5e-4, 0.25, 0.2),
  'charades': ('charades_prvr', 2.4e-4, 0.15, 0.2),
}
ARGUMENTS = [None, '', *(name if isinstance(v, bool) else f'{name}=3' for name, v in config_defaults.ARGUMENTS.items())]


def get_config(name, arg=None):
  return importlib.import_module(f'configs.{name}').get_config(arg)


@pytest.fixture
def config():
  return get_config('tvr')


def test_arguments_have_the_types_of_their_defaults():
  parsed = config_defaults.parse_arguments('hard,seed=3,single=false,plus=true')
  assert parsed == {'hard': True, 'seed': 3, 'single': False, 'plus': True} and parsed['hard'] is True
  assert config_defaults.parse_arguments(None) == config_defaults.parse_arguments('') == {}


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('hrad', r"unknown config argument 'hrad' in 'hrad' \(did you mean hard\?\); expected some of anchored, average, "),
    ('seed=1,seed=2', "'seed' is given twice"),
    ('hard,hard', "'hard' is given twice"),
    ('seed', "'seed' has the value None; expected seed=<int>"),
    ('seed=1.5', "'seed' has the value '1.5'; expected seed=<int>"),
    ('seed=', "'seed' has the value ''"),
    ('hard=yes', "'hard' has the value 'yes'; expected no value, true or false"),
    ('hard=', "'hard' has the value ''"),
  ],
)
def test_wrong_arguments_are_refused(arg, message):
  with pytest.raises(ValueError, match=message):
    config_defaults.parse_arguments(arg)


@pytest.mark.parametrize('arg', ARGUMENTS)
@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_loads_with_every_argument(name, arg):
  config = get_config(name, arg)
  config_lib.validate(config)
  for group in (config, config.data, config.model, config.loss, config.training):
    with pytest.raises((AttributeError, KeyError)):
      group.typo = 1
  json.loads(config.to_json_best_effort())
  # The parts of a run can be made of it.
  assert recipe.make_student(config).branches == config.model.branches
  assert ('margin', config.loss.margin) in recipe.make_terms(config)[0].options
  assert isinstance(recipe.make_pipeline_options(config, 1, teacher=True), PipelineOptions)
  recipe.make_optimizer(config, 10)
  recipe.make_coefficients(config, 10)


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_refuses_an_unknown_argument(name):
  with pytest.raises(ValueError, match='unknown config argument'):
    get_config(name, 'epoch=3')


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_values(name):
  config = get_config(name)
  dataset, rate, dropout, margin = PUBLISHED[name]
  assert config.data.dataset == dataset and config.optimizer.learning_rate == rate and config.loss.margin == margin
  assert config.model.input_dropout == config.model.dropout == dropout
  assert (config.model.hidden, config.model.heads) == (384, 4)
  data = config.data
  assert (data.batch_videos, data.max_frames, data.max_words, data.sort_by_captions) == (128, 128, 30, True)
  loss = config.loss
  assert (loss.hard_pool, loss.hard_negative_start_epoch, loss.nce_weight, loss.distillation_weight) == (
    20,
    0,
    0.04,
    0.1,
  )
  assert (loss.soft_labels, loss.random_split, loss.stop_target_gradient, loss.teacher) == (True, False, False, True)
  assert loss.temperature == 0.2 and loss.kl_captions is None and loss.teacher_temperature is None
  s = config.schedules
  assert (s.distillation, s.alpha, s.beta, s.alpha_start, s.beta_start) == ('exp', 'sigmoid', 'sigmoid', 0.8, 0.8)
  assert s.epochs == config.training.epochs == 120 and config.training.patience == 10
  assert (config.optimizer.warmup, config.optimizer.weight_decay, config.optimizer.max_norm) == (0.01, 0.01, 1.0)
  assert config.model.branches == ('inheritance', 'exploration') and config.model.distilled == ('inheritance',)
  assert config.evaluation.weights == (0.7, 0.3)


def test_what_a_recipe_sets_stands_where_no_argument_is_given():
  def recipe_of_its_own():
    config = config_defaults.base('own_prvr')
    config.loss.soft_labels = config.loss.teacher = False
    config.model.branches, config.evaluation.weights = ('inheritance',), (1.0,)
    config.loss.random_split, config.seed, config.loss.hard_negative_start_epoch = True, 7, 5
    return config

  values = ('loss.soft_labels', 'loss.teacher', 'loss.random_split', 'seed')
  branches = 'model.branches', 'evaluation.weights'
  for arg in (None, '', 'debug', 'epochs=3'):
    flat = config_lib.flatten(config_defaults.finish(recipe_of_its_own(), arg))
    assert [flat[field] for field in values] == [False, False, True, 7]
    assert [flat[field] for field in branches] == [('inheritance',), (1.0,)]
    assert flat['loss.hard_negative_start_epoch'] == 5
  given = 'hard=false,single=false,no_teacher=false,random_split=false,seed=0,uniform_negatives=false'
  flat = config_lib.flatten(config_defaults.finish(recipe_of_its_own(), given))
  assert [flat[field] for field in values] == [True, True, False, 0]
  assert [flat[field] for field in branches] == [('inheritance', 'exploration'), (0.7, 0.3)]
  assert flat['loss.hard_negative_start_epoch'] == 0


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_state_what_has_an_effect(name):
  flat, default = config_lib.flatten(get_config(name)), config_lib.flatten(config_defaults.base(''))
  text = (repository() / 'configs' / f'{name}.py').read_text(encoding='utf-8')
  for field in re.findall(r'^  config\.([a-z_.]+) = ', text, re.MULTILINE):
    assert flat[field] != default[field], f'{field} is the default'


def test_arguments_reach_their_fields():
  config = get_config('tvr', 'hard,single,no_teacher,random_split,uniform_negatives,seed=3,epochs=5')
  assert config.loss.hard_negative_start_epoch == config.training.epochs  # Never.
  assert not (config.loss.soft_labels or config.loss.teacher)
  assert (config.model.branches, config.evaluation.weights) == (('inheritance',), (1.0,))
  assert config.loss.random_split and config.seed == 3 and config.training.epochs == 5
  debug = get_config('tvr', 'debug')
  assert debug.training.epochs == 2 and debug.data.max_videos == 256 and debug.model.hidden < 384
  assert get_config('tvr', 'debug,epochs=4').training.epochs == 4


def test_plus_is_what_was_kept_of_its_pieces_for_the_length_of_the_training():
  assert set(config_defaults.KEPT) < set(config_defaults.PLUS) <= set(config_defaults.ARGUMENTS)
  config = get_config('charades', 'plus,epochs=50')
  assert config.loss.hard_negative_start_epoch == 10 and config.training.min_epochs == 30
  assert config.training.patience == 20
  uniform = get_config('charades', 'plus,uniform_negatives,epochs=50')
  assert uniform.loss.hard_negative_start_epoch == 50
  with pytest.raises(UserError, match='anchored and budget make two different students'):
    get_config('custom', 'anchored,plus')
  assert get_config('tvr', 'clips').model.options.to_dict() == {'frames_per_clip': 4}


def test_recipes_of_own_videos_start_from_anchors():
  for name in ('custom', 'composites'):
    names = [get_config(name, arg).model.name for arg in (None, 'seed=1', 'anchored=false', 'hard', 'single')]
    assert names == ['anchored', 'anchored', 'dldkd', 'dldkd', 'dldkd']
  assert get_config('custom').model.branches[2:] == ('teacher_inheritance', 'teacher_exploration')
  assert get_config('custom', 'no_teacher').model.branches == ('exploration',)


def set_field(config, field, value):
  """Puts in whatever the type of the field; recipes can."""
  with config.unlocked(), config.ignore_type():
    config.update_from_flattened_dict({field: value})
  return config


def problems_with(config, field, value):
  with pytest.raises(UserError) as error:
    config_lib.validate(set_field(config.copy_and_resolve_references(), field, value))
  return str(error.value)


FIELDS = config_lib.flatten(config_defaults.base('some_prvr'))
# Fields that may be unset hold numbers otherwise, but for the name of a folder.
NUMBERS = sorted(
  field
  for field, value in FIELDS.items()
  if (isinstance(value, int | float) and not isinstance(value, bool)) or (value is None and field != 'teacher.clip')
)


def test_every_field_has_a_rule_and_every_rule_a_field():
  assert FIELDS.keys() == config_fields.RULES.keys()
  assert len(NUMBERS) > 30


@pytest.mark.parametrize('field', NUMBERS)
def test_no_number_may_be_senseless(config, field):
  whole = isinstance(FIELDS[field], int) or field in ('data.max_videos', 'similarity.block_rows')
  senseless = (-1, True, 10**40, 1.5) if whole else (-1.0,)
  for value in (float('nan'), float('inf'), -float('inf'), -0.5, '3', (3,), *senseless):
    message = problems_with(config, field, value)
    assert f'config.{field} is {value!r}, expected ' in message and message.count('config.') == 1
    assert ('a whole number' in message) == whole
  if FIELDS[field] is not None:
    assert f'config.{field} is None' in problems_with(config, field, None)


@pytest.mark.parametrize(
  ('field', 'values'),
  [
    ('model.dropout', (1.0,)),
    ('optimizer.warmup', (1.0,)),
    ('optimizer.learning_rate', (0.0,)),
    ('optimizer.max_norm', (0.0,)),
    ('schedules.alpha_start', (1.1,)),
    ('schedules.alpha', ('steps', None)),
    ('schedules.distillation', ('cosine',)),
    ('schedules.epochs', (0,)),
    ('training.epochs', (-1,)),
    ('loss.margin', (2.5,)),
    ('loss.temperature', (0.0,)),
    ('loss.kl_captions', (0.0,)),
    ('seed', (2**32,)),
    ('evaluation.weights', ((1.5,), (-1.0, 0.5), (0, 0), 0.7)),
    ('model.branches', ((), ('a', 'a'), ('a', 'teacher'), ('a,b',), 'ab')),
    ('model.distilled', (('other',), 'inheritance')),
    ('evaluation.block_videos', (0,)),
    ('data.max_videos', (0,)),
    ('data.frame_sizes', ((), (0, 128), (128, 64), (64, 64, 128), (1.5, 128), 128)),
    ('data.word_sizes', ((-1,), (4, 2))),
    ('data.dataset', ('', 3, None)),
    ('data.packing', (1, 'yes')),
    ('model.precision', ('float16',)),
    ('similarity.form', ('dense',)),
    ('logging.profile_steps', ((5,), (0, 3), (1, 2, 3), (1, -1))),
  ],
)
def test_values_out_of_range_are_named(config, field, values):
  for value in values:
    message = problems_with(config, field, value)
    assert f'config.{field} is {value!r}, expected ' in message and message.count('config.') == 1


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('model.hidden', 30, 'model.hidden is 30, expected a multiple of 4 heads'),
    ('data.max_frames', 100, r'data.frame_sizes is \(32, 64, 96, 128\), expected sizes that end with 100'),
    ('data.max_words', 20, r'data.word_sizes is \(16, 30\), expected sizes that end with 20'),
    ('data.row_words', 20, r'data.row_words is 20, expected 30 or more'),
  ],
)
def test_fields_that_disagree_are_named(config, field, value, message):
  assert re.search(message, problems_with(config, field, value))


def test_a_schedule_may_be_shorter_than_the_training(config):
  config.schedules.epochs = 20
  config_lib.validate(config)


def test_fields_that_there_are_not_and_fields_that_are_missing(config):
  with config.unlocked():
    config.loss.margn = 0.3
    del config.data.slots
  with pytest.raises(
    UserError, match=r'no field config\.loss\.margn \(did you mean loss\.margin.*data\.slots is missing'
  ):
    config_lib.validate(config)


@pytest.mark.parametrize('group', ['model', 'data', 'similarity'])
def test_options_are_made_of_exactly_the_fields_of_a_group(config, group):
  makers = {
    'model': recipe.make_student,
    'data': lambda config: recipe.make_pipeline_options(config, 1, teacher=True),
    'similarity': recipe.make_objective_options,
  }
  with config.unlocked():
    config[group].new_field = 1
  with pytest.raises(TypeError, match='new_field'):
    makers[group](config)
  with config.unlocked():
    del config[group].new_field
    last = {'model': 'heads', 'data': 'slots', 'similarity': 'block_rows'}[group]
    del config[group][last]
  with pytest.raises(TypeError, match=last):
    makers[group](config)


@pytest.mark.parametrize('kind', [DlDkdStudent, Branch, PipelineOptions, ObjectiveOptions, EvaluationOptions])
def test_options_have_no_defaults_of_their_own(kind):
  fields = [field for field in dataclasses.fields(kind) if field.init and field.name not in ('parent', 'name')]
  assert fields and all(field.default is field.default_factory is dataclasses.MISSING for field in fields)


def test_every_field_of_the_loss_reaches_a_term(config):
  options = {name for term in recipe.make_terms(config) for name, _ in term.options} - {'distilled'}
  elsewhere = {'triplet_weight', 'nce_weight', 'distillation_weight', 'hard_negative_start_epoch', 'teacher', 'terms'}
  assert options | elsewhere == set(config.loss) and not options & elsewhere


def with_term(config, **entry):
  with config.unlocked():
    config.loss.terms = {'spread': entry}
  return config


def test_further_terms_of_the_loss(config):
  made = with_term(
    config, function='math:fsum', weight=0.5, schedule='linear', from_epoch=3, branches=('exploration',), k=2
  )
  config_lib.validate(made)
  term = recipe.make_terms(made)[-1]
  assert (term.name, term.function, term.weight, term.branches) == ('spread', math.fsum, 0.5, ('exploration',))
  assert term.options == (('k', 2),) and not term.needs_teacher
  schedule = recipe.make_coefficients(made, 2)
  values = [float(schedule(step)['spread']) for step in (0, 5, 6, 8)]
  np.testing.assert_allclose(values, [0.0, 0.0, 1.0, 1 - 1 / 120], rtol=1e-6)
  assert recipe.make_terms(with_term(config, function='math:fsum'))[-1].branches == config.model.branches
  for function, message in (('nowhere:f', 'cannot be imported'), ('math:nothing', 'cannot be imported')):
    with pytest.raises(UserError, match=rf'config\.loss\.terms\.spread\.function names .*{message}'):
      recipe.make_terms(with_term(config, function=function))


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    ({'weight': 1.0}, r'loss\.terms\.spread has no function'),
    ({'function': 'f'}, r"spread\.function is 'f', expected 'package\.module:name'"),
    ({'function': 'a:f', 'weight': -1.0}, r'spread\.weight is -1\.0, expected a number of 0 or more'),
    ({'function': 'a:f', 'schedule': 'step'}, r"spread\.schedule is 'step', expected one of none"),
    ({'function': 'a:f', 'branches': ('other',)}, r"spread\.branches is \('other',\), expected some of model"),
    ({'function': 'a:f', 'deep': {'er': 1}}, r'there is no field config\.loss\.terms\.spread\.deep\.er'),
  ],
)
def test_terms_that_are_refused(config, entry, message):
  with pytest.raises(UserError, match=message):
    config_lib.validate(with_term(config, **entry))


def test_students_and_teachers_of_other_names(config):
  with config.unlocked():
    config.model.name, config.model.options = 'dldkd', {'width': 3}
  config_lib.validate(config)
  with pytest.raises(UserError, match=r"'dldkd' has no option width \(config\.model\.options\)"):
    recipe.make_student(config)
  for name, message in (
    ('dldk', "expected dldkd, anchored, plus or 'package"),
    ('math:fsum', 'no class of a Flax module'),
  ):
    config.model.name = name
    with pytest.raises(UserError, match=message):
      recipe.make_student(config)
  config.teacher.online, config.teacher.name = True, 'my.tower:load'  # Reads what it wants of teacher.options.
  config_lib.validate(config)


def test_a_teacher_inside_the_step_needs_a_model_and_distillation(config):
  config.teacher.online, config.loss.teacher = True, False
  with pytest.raises(ValueError, match=r'teacher\.clip is None, expected the folder of a CLIP.*loss\.teacher is False'):
    config_lib.validate(config)
  config.teacher.clip, config.loss.teacher = 'models/clip', True
  config_lib.validate(config)


def test_all_problems_are_named_at_once(config):
  config.model.dropout, config.training.epochs = 2.0, -1
  with pytest.raises(ValueError, match=r'model\.dropout.*training\.epochs'):
    config_lib.validate(config)
