"""Anchored students: what is fitted on, the same gradients however a batch lies, and runs by commands."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlkd_jax import sharding
from dlkd_jax.config_defaults import base, finish
from dlkd_jax.data import sources
from dlkd_jax.data.batch import unit_rows
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import encoding, runs
from dlkd_jax.models.anchored import AnchoredStudent, sentences_of
from dlkd_jax.models.students import init_parameters
from dlkd_jax.training import anchoring, recipe
from dlkd_jax.training.checkpoints import read_best
from dlkd_jax.training.state import objective_and_gradients
from tests import options as made
from tests.data import fakes
from tests.runs import Commands, assert_same_bits, assert_same_end, commands, logged_steps, records, wait_until

__all__ = ['commands']  # The fixture.
H = 4


def test_a_corpus_holds_what_the_student_sees():
  some, options = fakes.source(6), fakes.options(teacher=True)
  found = anchoring.read_corpus(some, options)
  batch = fakes.collate(some, fakes.options(teacher=True, packing=False, sort_by_captions=False))
  tokens = sentences_of(unit_rows(batch.student_tokens), batch.token_layout)[:, 0]
  np.testing.assert_allclose(found.sentences, tokens[batch.caption_mask], atol=1e-5)
  mask = batch.frame_layout.mask
  np.testing.assert_allclose(found.frames, unit_rows(batch.student_frames)[mask], atol=1e-6)
  np.testing.assert_allclose(found.teacher_frames, unit_rows(batch.teacher_frames)[mask], atol=1e-6)
  np.testing.assert_array_equal(found.counts, mask.sum(axis=1)[: len(some)])
  np.testing.assert_array_equal(found.owners, batch.labels[batch.caption_mask])
  del some[2]['teacher_frames']
  with pytest.raises(UserError, match="'v002' has no teacher frames"):
    anchoring.read_corpus(some, options)


def gradients(devices, parts, packing):
  """Loss and gradients of a batch with anchors, on so many devices, in so many parts."""
  some, random = fakes.source(7, 1), np.random.default_rng(0)
  for record in some:
    record['query_anchors'] = random.normal(size=(len(record['token_lengths']), 2 * H)).astype(np.float32)
  student = AnchoredStudent(H, 0.3, ('inheritance', 'exploration'), jnp.float32)
  params = init_parameters(student, jax.random.key(0), fakes.STUDENT, fakes.TOKEN)
  params = jax.tree.map(lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32), params)
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


def test_gradients_do_not_depend_on_where_captions_lie():
  total, expected = gradients(1, 1, packing=True)
  assert np.abs(expected['exploration']['turn']['kernel']).max() > 1e-3
  assert not any(x.any() for name in expected for x in jax.tree.leaves(expected[name]['sentence_anchor']))
  for devices, parts, packing in ((1, 1, False), (8, 1, True), (2, 2, True)):
    again, found = gradients(devices, parts, packing)
    assert again == pytest.approx(total, rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)


@pytest.fixture(scope='module')
def anchored(commands):
  return Commands(commands.folder, 'configs/synthetic.py:anchored')


@pytest.fixture(scope='module')
def trained(anchored, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('trained')
  anchored.run(*anchored.training(workdir, '--config.training.epochs=2', '--config.optimizer.learning_rate=3e-3'))
  return workdir


def evaluated(workdir):
  """SumR on validation by step."""
  return {each['step']: each['val/fused/SumR'] for each in records(workdir) if 'val/fused/SumR' in each}


def test_the_anchor_alone_is_where_a_training_starts(anchored, trained, tmp_path):
  anchored.run(*anchored.training(tmp_path, '--config.training.epochs=0'))
  results = [json.loads((each / 'results.json').read_text()) for each in (tmp_path, trained)]
  assert (results[0]['best_epoch'], results[0]['epochs'], results[1]['epochs']) == (0, 0, 2)
  of_anchor, of_run = evaluated(tmp_path), evaluated(trained)
  assert of_anchor == {0: of_run[0]} and sorted(of_run) == [0, 4, 8]
  assert results[0]['metrics']['val/fused/SumR'] == of_run[0]
  assert results[1]['metrics']['val/fused/SumR'] == max(of_run.values())
  anchor, turned = read_best(tmp_path)[0], read_best(trained)[0]
  for branch in ('inheritance', 'exploration'):
    for side in ('sentence_anchor', 'frame_anchor'):
      assert_same_bits(anchor[branch][side], turned[branch][side])
    assert not np.any(anchor[branch]['turn']['kernel'])


def test_a_run_has_its_weights_and_is_evaluated_by_them(anchored, trained):
  weights = json.loads((trained / 'config.json').read_text())['evaluation']['weights']
  assert len(weights) == 2 and sum(weights) == pytest.approx(1.0, abs=1e-3)
  anchored.run('dlkd_jax.main', f'--workdir={trained}', '--mode=eval')
  again = json.loads((trained / 'eval_test.json').read_text())
  results = json.loads((trained / 'results.json').read_text())['metrics']
  assert again['test/fused/SumR'] == results['test/fused/SumR']


def test_a_run_that_is_cut_goes_on_with_the_anchors_it_began_with(anchored, trained, tmp_path):
  more = '--config.training.epochs=2', '--config.optimizer.learning_rate=3e-3'
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
  student = encoding.StudentEncoder(config, params, {'Dv': sizes.frames, 'Dq': sizes.tokens}, 'the run')
  every = [source[index] for index in range(len(source))]
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


def test_without_a_teacher_there_is_one_branch(anchored, tmp_path):
  plain = Commands(anchored.folder, 'configs/synthetic.py:anchored,no_teacher')
  plain.run(*plain.training(tmp_path, '--config.training.epochs=0'))
  results = json.loads((tmp_path / 'results.json').read_text())['metrics']
  assert {name.split('/')[1] for name in results if 'val' in name} >= {'exploration'}
  assert not any('inheritance' in name for name in results)
