"""Recipes, their arguments, validation, and the check of a resumed run."""

import importlib
import json

import pytest

from configs import common
from dlkd_jax import config as config_lib
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.training import recipe
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
ARGUMENTS = [None, '', *(name if isinstance(v, bool) else f'{name}=3' for name, v in common.ARGUMENTS.items())]


def get_config(name, arg=None):
  return importlib.import_module(f'configs.{name}').get_config(arg)


@pytest.fixture
def config():
  return get_config('tvr')


def test_arguments_have_the_types_of_their_defaults():
  parsed = config_lib.parse_arguments('a,b=3,c=0.5,d=x=y', a=False, b=0, c=1.0, d='', e=True)
  assert parsed.to_dict() == {'a': True, 'b': 3, 'c': 0.5, 'd': 'x=y', 'e': True}
  assert config_lib.parse_arguments('e=false', e=True).e is False
  for nothing in (None, ''):
    assert config_lib.parse_arguments(nothing, a=False, b=7).to_dict() == {'a': False, 'b': 7}


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('typo', "unknown config argument 'typo'.*expected some of a, b, c"),
    ('b=1,b=2', "'b' is given twice"),
    ('a,a', "'a' is given twice"),
    ('b', "'b' has the value None; expected b=<int>"),
    ('b=1.5', "'b' has the value '1.5'; expected b=<int>"),
    ('b=', "'b' has the value ''"),
    ('a=yes', "'a' has the value 'yes'; expected no value, true or false"),
    ('c=x', 'expected c=<float>'),
  ],
)
def test_wrong_arguments_are_refused(arg, message):
  with pytest.raises(ValueError, match=message):
    config_lib.parse_arguments(arg, a=False, b=0, c=1.0)


def test_there_are_recipes():
  assert set(PUBLISHED) <= set(RECIPES)


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
  assert recipe.make_student(config).dual is config.model.dual
  assert recipe.make_loss_options(config).margin == config.loss.margin
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
  assert (config.model.hidden, config.model.heads, config.model.dual) == (384, 4, True)
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
  assert config.evaluation.inheritance_weight == 0.7


def test_arguments_reach_their_fields():
  config = get_config('tvr', 'hard,single,no_teacher,random_split,uniform_negatives,seed=3,epochs=5')
  assert config.loss.hard_negative_start_epoch == config.training.epochs  # Never.
  assert not (config.loss.soft_labels or config.model.dual or config.loss.teacher)
  assert config.loss.random_split and config.seed == 3 and config.training.epochs == 5
  debug = get_config('tvr', 'debug')
  assert debug.training.epochs == 2 and debug.data.max_videos == 256 and debug.model.hidden < 384
  assert get_config('tvr', 'debug,epochs=4').training.epochs == 4


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('model.dropout', 1.0),
    ('model.input_dropout', -0.1),
    ('model.hidden', 30),
    ('optimizer.warmup', 1.0),
    ('optimizer.learning_rate', 0.0),
    ('schedules.alpha_start', 1.1),
    ('schedules.beta_start', -0.1),
    ('training.epochs', 0),
    ('training.patience', 0),
    ('training.checkpoint_every_steps', -1),
    ('logging.every_steps', 0),
    ('loss.hard_pool', 0),
    ('evaluation.inheritance_weight', 1.5),
    ('teacher.micro_batch', 0),
  ],
)
def test_values_out_of_range_are_named(config, field, value):
  group, name = field.split('.')
  config[group][name] = value
  with pytest.raises(ValueError, match=rf'config\.{field} is {value}, expected') as error:
    config_lib.validate(config)
  assert str(error.value).count('config.') == 1


def test_a_teacher_inside_the_step_needs_a_model_and_distillation(config):
  config.teacher.online, config.loss.teacher = True, False
  with pytest.raises(ValueError, match=r'teacher\.clip is None, expected the folder of a CLIP.*loss\.teacher is False'):
    config_lib.validate(config)
  config.teacher.clip, config.loss.teacher = 'models/clip', True
  config_lib.validate(config)


def test_all_problems_are_named_at_once(config):
  config.model.dropout, config.training.epochs = 2.0, 0
  with pytest.raises(ValueError, match=r'model\.dropout.*training\.epochs'):
    config_lib.validate(config)


def test_same_configuration_resumes(config, tmp_path):
  config_lib.write_or_compare(config, tmp_path / 'run')
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert saved['loss']['margin'] == 0.1 and saved['loss']['kl_captions'] is None
  config_lib.write_or_compare(get_config('tvr'), tmp_path / 'run')
  assert json.loads((tmp_path / 'run' / 'config.json').read_text()) == saved


def test_differing_configuration_is_refused_with_the_differences(config, tmp_path):
  config_lib.write_or_compare(config, tmp_path)
  config.loss.margin, config.seed, config.data.data_dir = 0.3, 4, 'elsewhere'
  with pytest.raises(ValueError) as error:
    config_lib.write_or_compare(config, tmp_path)
  message = str(error.value)
  assert 'loss.margin: 0.1 → 0.3' in message and 'seed: 0 → 4' in message
  assert 'data_dir' not in message and str(tmp_path) in message


def test_what_does_not_change_the_result_may_differ(config, tmp_path):
  config_lib.write_or_compare(config, tmp_path)
  config.data.data_dir, config.data.read_threads, config.data.prefetch_batches = 'elsewhere', 9, 9
  config.logging.every_steps, config.evaluation.block_videos, config.evaluation.block_captions = 1, 8, 8
  config_lib.write_or_compare(config, tmp_path)


def test_fields_that_appeared_or_went_are_differences():
  saved, current = {'a': {'x': 1, 'old': 2}, 'b': 3}, {'a': {'x': 1, 'new': 4}, 'b': {'y': 1}}
  lines = config_lib.differences(saved, current)
  assert lines == ["a.new: '(absent)' → 4", "a.old: 2 → '(absent)'", "b: 3 → {'y': 1}"]
