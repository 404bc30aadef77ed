"""Anchored students: what is fitted on, the same gradients however a batch lies, and runs by commands."""

import json
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax import sharding
from dlkd_jax.config_defaults import base, finish
from dlkd_jax.data import sources
from dlkd_jax.data.batch import unit_rows
from dlkd_jax.data.taught import at_rows
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import encoding, runs
from dlkd_jax.models import anchors
from dlkd_jax.models.anchored import AnchoredStudent, sentences_of
from dlkd_jax.models.students import init_parameters, teacher_features
from dlkd_jax.training import anchoring, recipe
from dlkd_jax.training.checkpoints import Checkpoints, read_best
from dlkd_jax.training.state import objective_and_gradients
from tests import options as made
from tests.data import fakes
from tests.runs import Commands, assert_same_bits, assert_same_end, commands, logged_steps, records, wait_until

__all__ = ['commands']  # The fixture.
H = 4
FAST = ('--config.optimizer.learning_rate=3e-3',)


def test_a_corpus_holds_what_the_student_sees():
  some, options = fakes.source(6), fakes.options(teacher=True)
  for record in some:  # Of as many frames, so that a batch has all of them.
    record['teacher_frames'] = at_rows(record['teacher_frames'], len(record['student_frames']))
  limits = options.max_frames, options.max_words
  found = anchoring.read_corpus(some, *limits, taught=True)
  batch = fakes.collate(some, fakes.options(teacher=True, packing=False, sort_by_captions=False))
  tokens = sentences_of(unit_rows(batch.student_tokens), batch.token_layout)[:, 0]
  np.testing.assert_allclose(found.sentences, tokens[batch.caption_mask], atol=1e-5)
  mask = batch.frame_layout.mask
  np.testing.assert_allclose(found.frames, unit_rows(batch.student_frames)[mask], atol=1e-6)
  np.testing.assert_allclose(found.teacher_frames, unit_rows(batch.teacher_frames)[mask], atol=1e-6)
  np.testing.assert_array_equal(found.counts, mask.sum(axis=1)[: len(some)])
  np.testing.assert_array_equal(found.owners, batch.labels[batch.caption_mask])
  del some[2]['teacher_frames']
  with pytest.raises(UserError, match="'v002' lacks features of the teacher"):
    anchoring.read_corpus(some, *limits, taught=True)
  some[1]['student_frames'] = some[1]['student_frames'][:0]
  with pytest.raises(UserError, match="'v001' has no student frames"):
    anchoring.read_corpus(some, *limits, taught=False)


def gradients(devices, parts, packing, residual='linear'):
  """Loss and gradients of a batch with anchors, on so many devices, in so many parts."""
  some, random, scale = fakes.source(7, 1), np.random.default_rng(0), 1.0 if residual == 'linear' else 0.2
  for record in some:
    record['query_anchors'] = random.normal(size=(len(record['token_lengths']), 2 * H)).astype(np.float32)
  student = AnchoredStudent(H, 0.3, ('inheritance', 'exploration'), jnp.float32, residual)
  params = init_parameters(student, jax.random.key(0), fakes.STUDENT, fakes.TOKEN)
  params = jax.tree.map(
    lambda x: (np.random.default_rng(x.size).normal(size=x.shape) * scale).astype(np.float32), params
  )
  options = fakes.options(packing=packing, shards=devices, row_multiple=parts, teacher=False)
  mesh, terms = sharding.make_mesh(jax.devices()[:devices]), recipe.make_terms(finish(base('none'), 'anchored'))
  batch = sharding.shard_batch(fakes.collate(some, options), mesh)
  run = jax.jit(
    lambda params, batch: objective_and_gradients(
      params,
      student,
      batch,
      key=jax.random.key(3),
      mesh=mesh,
      coefficients=made.coefficients(0.5, 0.5, 1.0) | {'cosine': jnp.ones(())},
      options=made.objective_options(terms, micro_batches=parts),
    )
  )
  losses, found = run(params, batch)
  return float(losses['total']), jax.device_get(found)


@pytest.mark.parametrize('residual', ['linear', 'full'])
def test_gradients_do_not_depend_on_where_captions_lie(residual):
  total, expected = gradients(1, 1, True, residual)
  assert np.abs(expected['exploration']['turn']['kernel']).max() > 1e-3
  assert not any(x.any() for name in expected for x in jax.tree.leaves(expected[name]['sentence_anchor']))
  others = ((1, 1, False), (8, 1, True), (2, 2, True)) if residual == 'linear' else ((2, 2, False),)
  for devices, parts, packing in others:
    again, found = gradients(devices, parts, packing, residual)
    assert again == pytest.approx(total, rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)


@pytest.fixture(scope='module')
def anchored(commands):
  return Commands(commands.folder, 'configs/synthetic.py:anchored')


@pytest.fixture(scope='module')
def trained(anchored, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('trained')
  anchored.run(*anchored.training(workdir, '--config.training.epochs=2', *FAST))
  return workdir


def evaluated(workdir):
  """SumR on validation by step."""
  return {each['step']: each['val/fused/SumR'] for each in records(workdir) if 'val/fused/SumR' in each}


def test_the_anchor_alone_is_where_a_training_starts(anchored, trained, tmp_path):
  printed = anchored.run(*anchored.training(tmp_path, '--config.training.epochs=0'))
  assert 'prefer anchors: none of 0 epochs of training was better on validation' in printed
  results = [json.loads((each / 'results.json').read_text()) for each in (tmp_path, trained)]
  assert (results[0]['best_epoch'], results[0]['epochs'], results[1]['epochs']) == (0, 0, 2)
  of_anchor, of_run = evaluated(tmp_path), evaluated(trained)
  assert of_anchor == {0: of_run[0]} and sorted(of_run) == [0, 4, 8]
  assert results[0]['metrics']['val/fused/SumR'] == of_run[0]
  kept, steps = results[1]['best_epoch'], sorted(of_run)
  assert read_best(trained)[1] == steps[kept]
  anchor, turned = read_best(tmp_path)[0], Checkpoints(trained, read_only=True).restore_params(8)
  for branch in anchors.BRANCHES:
    for side in ('sentence_anchor', 'frame_anchor'):
      assert_same_bits(anchor[branch][side], turned[branch][side])
    assert not np.any(anchor[branch]['turn']['kernel']) and np.any(turned[branch]['turn']['kernel'])


def test_a_run_has_its_weights_and_is_evaluated_by_them(anchored, trained):
  weights = json.loads((trained / 'config.json').read_text())['evaluation']['weights']
  assert len(weights) == 4 and sum(weights) == pytest.approx(1.0, abs=1e-3)
  anchored.run('dlkd_jax.main', f'--workdir={trained}', '--mode=eval')
  again = json.loads((trained / 'eval_test.json').read_text())
  results = json.loads((trained / 'results.json').read_text())['metrics']
  assert again['test/fused/SumR'] == results['test/fused/SumR']


def test_a_run_that_is_cut_goes_on_with_the_anchors_it_began_with(anchored, trained, tmp_path):
  more = '--config.training.epochs=2', *FAST
  process = anchored.start(tmp_path, *more)
  wait_until(lambda: any(step > 0 for step in logged_steps(tmp_path)), process)
  process.send_signal(signal.SIGTERM)
  assert 'stopped on request' in process.communicate()[1]
  anchored.run(*anchored.training(tmp_path, *more))
  assert_same_end(tmp_path, trained)


def test_an_index_scores_as_the_evaluation_does(trained):
  config, (params, _) = runs.read_config(trained), read_best(trained)
  source, mesh = recipe.open_split(config, 'test'), sharding.make_mesh(jax.devices()[:1])
  evaluator = recipe.make_evaluator(config, recipe.make_student(config), mesh, 'test', keep_scores=True)
  found, sizes = evaluator(params), recipe.feature_sizes(source)
  more = teacher_features(config)
  sizes = {'Dv': sizes.frames - more, 'Dq': sizes.tokens - more}
  student = encoding.StudentEncoder(config, params, sizes, 'the run')
  every = recipe.open_split(config, 'test', taught=False)
  every = [every[index] for index in range(len(every))]
  videos = encoding.encode_videos(every, student.branches, student, 'resample')
  captions = encoding.encode_captions(every, student.branches, student)
  column = {name: i for i, name in enumerate(found.video_ids)}
  order = [column[sources.text(record['video_id'])] for record in every]
  rows = {name: i for i, name in enumerate(found.caption_ids)}
  for name in student.branches:
    for record, queries in zip(every, captions, strict=True):
      scores = np.stack([(queries[name] @ video.rows[name].T).max(axis=1) for video in videos], axis=1)
      mine = [rows[sources.text(caption)] for caption in record['caption_ids']]
      np.testing.assert_allclose(scores, found.scores[name][mine][:, order], atol=1e-5)


def test_damaged_anchors_are_refused(anchored, trained, tmp_path):
  shutil.copytree(trained, tmp_path / 'run')
  file = tmp_path / 'run' / 'anchors.npz'
  file.write_bytes(file.read_bytes()[:-100])
  done = anchored.try_to(*anchored.training(tmp_path / 'run', '--config.training.epochs=2', *FAST))
  assert done.returncode == 1 and 'anchors.npz is damaged' in done.stderr and 'remove it' in done.stderr


def fitted_to(weights, given=False):
  return anchoring.Fitted({}, np.zeros((0, 0)), np.zeros(0, int), weights, given)


def result_of(scores, owners):
  return types.SimpleNamespace(scores=scores, own_columns=owners)


def test_what_is_kept_of_a_training_gains_on_the_anchors(tmp_path):
  config = finish(base('none'), 'anchored')
  branches, random = tuple(config.model.branches), np.random.default_rng(0)
  owners = np.repeat(np.arange(20), 3)
  noise = {name: random.normal(size=(60, 20)) for name in branches}
  right = {name: x + np.eye(20)[owners] for name, x in noise.items()}
  params = {'start': noise, 'trained': right}
  evaluate = lambda scores: result_of(scores, owners)  # noqa: E731
  weights = (0.25, 0.25, 0.25, 0.25)
  found, kept = anchoring.keep(config, tmp_path, fitted_to(weights), evaluate, **params)
  assert kept and sum(found.evaluation.weights) == pytest.approx(1.0, abs=1e-3)
  assert json.loads((tmp_path / 'config.json').read_text())['evaluation']['weights'] == [*found.evaluation.weights]
  found, kept = anchoring.keep(config, tmp_path, fitted_to(weights, True), evaluate, start=right, trained=noise)
  assert not kept and found.evaluation.weights == weights
  # Noise that has one branch without any: other weights alone are a gain.
  one = noise | {'exploration': 3 * right['exploration']}
  found, _ = anchoring.keep(config, tmp_path, fitted_to(weights), evaluate, start=noise, trained=one)
  assert found.evaluation.weights[branches.index('exploration')] > 0.5


def test_a_student_follows_the_number_of_captions(monkeypatch):
  some = fakes.source(6)
  monkeypatch.setattr(recipe, 'open_split', lambda *_, **__: some)
  monkeypatch.setattr(recipe, 'lengths_of', lambda *_: None)
  config = anchoring.sized(finish(base('none'), 'anchored'))
  assert config.model.options.to_dict() == {'residual': 'linear', 'teacher_features': fakes.TEACHER}
  monkeypatch.setattr(anchoring, 'FULL_FROM', 5)
  config = anchoring.sized(finish(base('none'), 'anchored,no_teacher'))
  assert config.model.options.to_dict() == {'residual': 'full', 'teacher_features': 0}
  plain = finish(base('none'), '')
  assert anchoring.sized(plain) is plain


def test_one_video_is_too_few(monkeypatch):
  monkeypatch.setattr(recipe, 'open_split', lambda *_, **__: fakes.source(1))
  config = finish(base('none'), 'anchored,no_teacher')
  with pytest.raises(UserError, match='fewer than 2 videos with captions'):
    anchoring._fit(config, AnchoredStudent(H, 0.3, ('exploration',), jnp.float32))


def test_a_student_without_anchors_has_to_learn():
  config = base('none')
  config.training.epochs = 0
  with pytest.raises(UserError, match=r'training\.epochs is 0'):
    anchoring.prepare(config, recipe.make_student(config), None, None)


@pytest.mark.parametrize(('good', 'argument'), [('teacher', 'blend'), ('exploration', 'plus,blend')])
def test_weights_are_found_where_they_gain_on_held_out_captions(tmp_path, good, argument):
  """The scorer that knows gets them; where none knows more than another, the weights stay."""
  config = finish(base('none'), argument)
  assert config.evaluation.weights == ()
  scorers, random = (*config.model.branches, 'teacher'), np.random.default_rng(0)
  owners = np.repeat(np.arange(20), 3)
  noise = {name: random.normal(size=(60, 20)) for name in scorers}
  found = anchoring.weigh(config, tmp_path, lambda scores: result_of(scores, owners), noise)
  assert found.evaluation.weights == (0.7, 0.3)
  better = noise | {good: noise[good] + 3 * np.eye(20)[owners]}
  found = anchoring.weigh(config, tmp_path, lambda scores: result_of(scores, owners), better)
  weights = dict(zip(scorers, found.evaluation.weights, strict=False))
  assert weights[good] > 0.7 and sum(weights.values()) == pytest.approx(1.0, abs=1e-3)
  assert recipe.fused_weights(found) == weights
  assert json.loads((tmp_path / 'config.json').read_text())['evaluation']['weights'] == [*weights.values()]
  del better['teacher']
  assert len(anchoring.weigh(config, tmp_path, lambda s: result_of(s, owners), better).evaluation.weights) == 2


def test_without_a_teacher_there_is_one_branch(anchored, tmp_path):
  plain = Commands(anchored.folder, 'configs/synthetic.py:anchored,no_teacher')
  plain.run(*plain.training(tmp_path, '--config.training.epochs=0'))
  results = json.loads((tmp_path / 'results.json').read_text())['metrics']
  assert {name.split('/')[1] for name in results if 'val' in name} >= {'exploration'}
  assert not any('inheritance' in name for name in results)
