"""Extensions as a user adds them: a module of their own and a recipe that names it, through the commands."""

import json

import jax
import numpy as np
import pytest

from dlkd_jax import sharding
from dlkd_jax.data import sources
from dlkd_jax.gallery import encoding, runs
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import read_best
from tests import options as made
from tests.data import pixel_sets
from tests.extensions import diverse_loss
from tests.extensions import recipe as extended
from tests.runs import Commands, commands, records
from tests.training import worlds

__all__ = ['commands']  # The fixture.
RECIPE = 'tests/extensions/recipe.py'
# One program to compile, and a smaller one.
ONE_SHAPE = ('--config.data.packing=False', '--config.data.word_sizes=(16,)')
ONE_SHAPE += ('--config.model.dropout=0.0', '--config.model.input_dropout=0.0')


@pytest.fixture(scope='module')
def student_run(commands, tmp_path_factory):
  """A run of the pooled student with the further term."""
  workdir = tmp_path_factory.mktemp('student')
  mine = Commands(commands.folder, f'{RECIPE}:student')
  mine.run(*mine.training(workdir, '--config.training.epochs=2', *ONE_SHAPE))
  return workdir


def test_a_student_is_trained_and_evaluated(student_run, commands):
  params, _ = read_best(student_run)
  assert set(params) == {f'{b}_{side}' for b in ('inheritance', 'exploration') for side in ('frames', 'tokens')}
  results = json.loads((student_run / 'results.json').read_text())['metrics']
  assert {name.split('/')[1] for name in results} == {'inheritance', 'exploration', 'fused', 'teacher'}
  commands.run('dlkd_jax.main', f'--workdir={student_run}', '--mode=eval')  # By its config.json alone.
  again = json.loads((student_run / 'eval_test.json').read_text())
  assert again['test/fused/SumR'] == results['test/fused/SumR']


def test_an_index_scores_as_the_evaluation_does(student_run):
  """Also by the branch whose vectors do not lie at frames."""
  config, (params, _) = runs.read_config(student_run), read_best(student_run)
  source = recipe.open_split(config, 'test')
  mesh = sharding.make_mesh(jax.devices()[:1])
  evaluator = recipe.make_evaluator(config, recipe.make_student(config), mesh, 'test', keep_scores=True)
  found = evaluator(params)
  sizes = recipe.feature_sizes(source)
  student = encoding.StudentEncoder(config, params, {'Dv': sizes.frames, 'Dq': sizes.tokens}, 'the run')
  names = ('inheritance', 'exploration')
  every = [source[i] for i in range(len(source))]
  videos = encoding.encode_videos(every, names, student, 'resample')
  captions = encoding.encode_captions(every, names, student)
  column = {name: i for i, name in enumerate(found.video_ids)}
  order = [column[sources.text(record['video_id'])] for record in every]
  rows = {name: i for i, name in enumerate(found.caption_ids)}
  for name in names:
    assert all(len(video.rows[name]) == len(video.times) for video in videos)
    assert name == 'inheritance' or all(len(np.unique(video.rows[name], axis=0)) <= 3 for video in videos)
    for record, queries in zip(every, captions, strict=True):
      scores = np.stack([(queries[name] @ video.rows[name].T).max(axis=1) for video in videos], axis=1)
      mine = [rows[sources.text(caption)] for caption in record['caption_ids']]
      np.testing.assert_allclose(scores, found.scores[name][mine][:, order], atol=1e-5)


def test_a_term_is_logged_with_its_schedule(student_run):
  losses = [record for record in records(student_run) if 'loss/total' in record]
  for record in losses:
    total = sum(value for name, value in record.items() if name.startswith('loss/') and name.count('/') == 2)
    assert record['loss/total'] == pytest.approx(total, rel=1e-4)
    assert record['loss/exploration/diverse'] > 0 and 'loss/inheritance/diverse' not in record
  assert losses[0]['schedule/diverse'] == 1.0 and losses[-1]['schedule/diverse'] == pytest.approx(1 - 1 / 120)


@pytest.mark.slow
def test_a_term_on_vectors_is_the_same_on_any_mesh():
  term = recipe.make_terms(extended.get_config('student'))[-1]
  assert term.function is diverse_loss.diverse
  terms = (*made.terms(hard_pool=1), term._replace(schedule=None))
  one, many = (worlds.World(devices, 0.0, terms).run(worlds.make_batch(shards=devices)) for devices in (1, 4))
  for name in ('exploration/diverse', 'exploration/diverse/pairs', 'total'):
    np.testing.assert_allclose(many[1][f'loss/{name}'], one[1][f'loss/{name}'], rtol=1e-5)
  assert one[1]['loss/exploration/diverse/pairs'] == sum(n * (n - 1) for n in worlds.CAPTIONS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), many[0], one[0])


def test_a_third_branch_is_added_by_the_command_line(commands, tmp_path):
  branches = ('inheritance', 'exploration', 'third')
  given = (f'--config.model.branches={branches}', '--config.evaluation.weights=(0.5,0.3,0.2)')
  distilled = f'--config.model.distilled={branches[::2]}'
  commands.run(*commands.training(tmp_path, *given, distilled, '--config.training.epochs=1', *ONE_SHAPE))
  params, _ = read_best(tmp_path)
  assert set(params) == set(branches)
  record = next(record for record in records(tmp_path) if 'loss/total' in record)
  assert {'loss/third/triplet', 'loss/third/nce', 'loss/third/distillation'} <= set(record)
  assert 'loss/exploration/distillation' not in record
  results = json.loads((tmp_path / 'results.json').read_text())['metrics']
  assert {name.split('/')[1] for name in results} == {*branches, 'fused', 'teacher'}
  assert '| third |' in (tmp_path / 'results.md').read_text()


def test_a_teacher_encodes_the_pictures_of_a_training(commands, tmp_path):
  config = extended.get_config('teacher')
  teacher = recipe.plugins.find(config.teacher.name, {}, '')(config.teacher, np.float32)

  def encode(pictures):
    return teacher.encode(teacher.params, teacher.normalise(np.asarray(pictures)))

  name = pixel_sets.write(tmp_path, 4, encode, 6)
  mine = Commands(commands.folder, f'{RECIPE}:teacher')
  data = (f'--config.data.dataset={name}', f'--config.data.data_dir={tmp_path}', '--config.data.batch_videos=4')
  few = ('--config.training.epochs=1', *ONE_SHAPE, *data)
  output = mine.run(*mine.training(tmp_path / 'online', *few))
  assert 'teacher inside the step: a linear map, pictures of 4x4' in output
  record = records(tmp_path / 'online')[0]
  assert record['loss/inheritance/distillation'] > 0 and np.isfinite(record['loss/total'])
