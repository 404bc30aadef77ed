"""The configuration of a run on the disk: going on with it, evaluating it, and what older and newer programs wrote."""

import functools
import json

import pytest

from configs import charades, common, tvr
from dlkd_jax import begun, config_fields
from dlkd_jax import config as config_lib
from dlkd_jax.errors import UserError
from dlkd_jax.training import recipe

FIELDS = config_lib.flatten(common.base('some_prvr'))


@pytest.fixture
def config():
  return tvr.get_config()


def test_same_configuration_resumes(config, tmp_path):
  config_lib.write(config, tmp_path / 'run')
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert saved['loss']['margin'] == 0.1 and saved['loss']['kl_captions'] is None
  assert config_lib.settle(tvr.get_config(), tmp_path / 'run').notes == []


def test_differing_configuration_is_refused_with_the_differences(config, tmp_path):
  config_lib.write(config, tmp_path)
  config.loss.margin, config.seed, config.data.data_dir = 0.3, 4, 'elsewhere'
  with pytest.raises(UserError) as error:
    config_lib.settle(config, tmp_path)
  message = str(error.value)
  assert 'loss.margin: 0.1 → 0.3' in message and 'seed: 0 → 4' in message
  assert 'data_dir' not in message and str(tmp_path) in message


def test_what_does_not_change_the_result_may_differ(config, tmp_path):
  config_lib.write(config, tmp_path)
  config.data.data_dir, config.data.read_threads, config.data.prefetch_batches = 'elsewhere', 9, 9
  config.logging.every_steps, config.evaluation.block_videos, config.evaluation.block_captions = 1, 8, 8
  config.training.patience, config.data.slots, config.similarity.form = 99, 2, 'plain'
  found = config_lib.settle(config, tmp_path)
  assert config_lib.flatten(found.config) == config_lib.flatten(config)
  assert any('training.patience: 10 → 99' in note for note in found.notes)


def test_every_free_field_is_a_field():
  for start in (*config_fields.FREE_ON_RESUME, *config_fields.FREE_IN_EVALUATION, *config_fields.CHANGE_RESULTS):
    assert any(field.startswith(start) for field in FIELDS), start


def edit(workdir, **changes):
  """Changes fields of a saved configuration, `group__name`; None takes one away."""
  path = workdir / 'config.json'
  content = json.loads(path.read_text())
  for name, value in changes.items():
    group, field = name.split('__')
    content[group].pop(field, None)
    if value is not None:
      content[group][field] = value
  path.write_text(json.dumps(content))


def test_a_run_goes_on_with_the_precision_that_it_began_with(config, tmp_path):
  on = lambda platform: functools.partial(recipe.resolved, platform=platform)  # noqa: E731
  config_lib.write(recipe.resolved(config, 'gpu'), tmp_path)
  saved = json.loads((tmp_path / 'config.json').read_text())
  assert (saved['model']['precision'], saved['similarity']['form']) == ('bfloat16', 'blocked')
  found = config_lib.settle(config, tmp_path, on('cpu'))
  assert found.config.model.precision == 'bfloat16' and found.notes == []
  found = config_lib.settle(config, tmp_path, on('tpu'))
  assert found.config.similarity.form == 'pallas' and "similarity.form: 'blocked' → 'pallas'" in found.notes[0]
  config.model.precision = 'float32'
  found = config_lib.settle(config, tmp_path, on('cpu'))
  assert found.config.model.precision == 'float32' and 'model.precision' in found.notes[0]
  edit(tmp_path, model__precision='auto', similarity__form='auto')  # As runs were begun before.
  config.model.precision = 'auto'
  found = config_lib.settle(config, tmp_path, on('cpu'))
  assert found.config.model.precision == 'float32' and found.notes == []


def test_a_field_that_is_newer_than_the_run_has_its_default(config, tmp_path):
  config_lib.write(config, tmp_path)
  edit(tmp_path, loss__margin=None, loss__kl_captions=None, data__slots=None, data__frame_sizes=None)
  assert config_lib.settle(config, tmp_path).notes == []
  config.loss.margin = 0.3
  found = config_lib.settle(config, tmp_path)
  assert found.config.loss.margin == 0.1 and '0.1 in place of 0.3' in found.notes[0]
  found = config_lib.read_run(tmp_path)
  assert config_lib.flatten(found.config) == FIELDS | {'data.dataset': 'tvr_prvr'} and found.notes == []


def test_sizes_that_are_newer_than_the_run_fit_its_limits(config, tmp_path):
  config_lib.write(config, tmp_path)
  edit(tmp_path, data__frame_sizes=None, data__word_sizes=None, data__row_words=None)
  edit(tmp_path, data__max_frames=70, data__max_words=90)
  data = config_lib.read_run(tmp_path).config.data
  assert (data.frame_sizes, data.word_sizes, data.row_words) == ((32, 64, 70), (16, 30, 90), 90)


def test_a_field_that_is_gone_is_ignored_with_a_note(config, tmp_path):
  config_lib.write(config, tmp_path)
  edit(tmp_path, loss__former=3)
  for found in (config_lib.settle(config, tmp_path), config_lib.read_run(tmp_path)):
    assert found.notes == ['loss.former of the run (3) is no setting any more, and is ignored']


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"data"', 'damaged'),
    ('[]', 'damaged'),
    ('{"data": {"dataset": "x"}}', r'lacks data\.data_dir, .*model\.hidden'),
    ({'model__heads': 'four'}, r"config\.json: model\.heads is 'four', expected a whole number"),
    ({'model__heads': 0}, r'config\.json: config\.model\.heads is 0, expected a whole number, 1 or more'),
  ],
)
def test_damaged_configurations_of_runs(config, tmp_path, content, message):
  config_lib.write(config, tmp_path)
  if isinstance(content, str):
    (tmp_path / 'config.json').write_text(content)
  else:
    edit(tmp_path, **content)
  with pytest.raises(UserError, match=message):
    config_lib.read_run(tmp_path)


def test_an_evaluation_takes_the_settings_of_the_run(config, tmp_path):
  with config.unlocked():
    config.model.heads, config.evaluation.weights, config.seed = 2, (0.6, 0.4), 5
  config_lib.write(config, tmp_path)
  own = config_lib.flatten(config)
  for asked, given in ((None, None), (config, None), (charades.get_config(), [])):
    found = config_lib.for_evaluation(asked, tmp_path, given)
    assert config_lib.flatten(found.config) == own and found.suffix == ''
  assert 'model.heads 2, not 4' in found.notes[0] and 'tvr_prvr' in found.notes[0]


def test_an_evaluation_may_set_some_fields_anew_and_says_so(config, tmp_path):
  config_lib.write(config, tmp_path)
  config.data.data_dir, config.evaluation.block_videos = 'there', 3
  found = config_lib.for_evaluation(config, tmp_path)
  assert (found.config.data.data_dir, found.config.evaluation.block_videos, found.suffix) == ('there', 3, '')
  assert len(found.notes) == 2 and "data.data_dir: 'data' → 'there'" in found.notes[0]
  config.evaluation.weights, config.data.dataset = (0.5, 0.5), 'other_prvr/small'
  found = config_lib.for_evaluation(config, tmp_path, ['evaluation.weights', 'data.dataset'])
  assert found.suffix == '_dataset=other_prvr-small_weights=0.5-0.5'
  assert found.config.data.data_dir == 'data'


@pytest.mark.parametrize(('field', 'value'), [('model.heads', 2), ('data.max_frames', 64), ('seed', 3)])
def test_an_evaluation_refuses_what_makes_the_run_another(config, tmp_path, field, value):
  config_lib.write(config, tmp_path)
  config.update_from_flattened_dict({field: value})
  for given in (None, [field]):
    with pytest.raises(UserError, match=rf'(?s){field}: \S+ → {value}.*leave these settings out'):
      config_lib.for_evaluation(config, tmp_path, given)


def test_fields_that_appeared_or_went_are_differences():
  saved, current = {'a': {'x': 1, 'old': 2}, 'b': 3}, {'a': {'x': 1, 'new': 4}, 'b': {'y': 1}}
  lines = begun.differences(saved, current)
  assert lines == ["a.new: '(absent)' → 4", "a.old: 2 → '(absent)'", "b: 3 → {'y': 1}"]


@pytest.mark.parametrize(
  ('dual', 'share', 'branches', 'weights'),
  [(True, 0.7, ('inheritance', 'exploration'), (0.7, 0.3)), (False, 0.7, ('inheritance',), (1.0,))],
)
def test_a_run_from_before_branches_had_names(config, tmp_path, dual, share, branches, weights):
  config.model.branches, config.evaluation.weights = branches, weights
  config_lib.write(config, tmp_path)
  edit(tmp_path, model__branches=None, model__distilled=None, evaluation__weights=None)
  edit(tmp_path, model__dual=dual, evaluation__inheritance_weight=share)
  found = config_lib.read_run(tmp_path)
  assert (found.config.model.branches, found.config.evaluation.weights, found.notes) == (branches, weights, [])
  assert config_lib.settle(config, tmp_path).notes == []
  config.evaluation.weights = (1.0,) * len(branches)
  if dual:
    with pytest.raises(UserError, match=r'evaluation\.weights: \(0\.7, 0\.3\) → \(1\.0, 1\.0\)'):
      config_lib.settle(config, tmp_path)


def test_groups_of_any_field_are_part_of_a_run(config, tmp_path):
  with config.unlocked():
    config.loss.terms = {'spread': {'function': 'math:fsum', 'sizes': (1, 2)}}
  config_lib.write(config, tmp_path)
  found = config_lib.read_run(tmp_path)
  assert config_lib.flatten(found.config) == config_lib.flatten(config) and found.notes == []
  assert config_lib.settle(config, tmp_path).notes == []
  with pytest.raises(UserError, match=r"loss\.terms\.spread\.function: 'math:fsum' → '\(absent\)'"):
    config_lib.settle(tvr.get_config(), tmp_path)
  with config.unlocked():
    config.model.options = {'width': 3}
  with pytest.raises(UserError, match=r"model\.options\.width: '\(absent\)' → 3"):
    config_lib.settle(config, tmp_path)


def test_branches_weights_and_the_distilled_fit(config):
  with config.unlocked():
    config.model.branches = ('first', 'second', 'third')
  with pytest.raises(UserError, match=r'evaluation\.weights is .*expected 3, one for each .*; .*model\.distilled is '):
    config_lib.validate(config)
  config.evaluation.weights, config.model.distilled = (0.5, 0.3, 0.2), ('second', 'third')
  config_lib.validate(config)
