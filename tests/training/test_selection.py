"""What is chosen on held-out captions: the likelihood against a plain loop, the rules, and what noise gets."""

import dataclasses

import numpy as np
import pytest

from dlkd_jax.models import anchors
from dlkd_jax.training import selection
from dlkd_jax.training.selection import Ranking
from tests.models.test_anchors import make_world

EVERY = anchors.BRANCHES


def ranking(random, signal, captions=30, videos=9):
  owners = np.sort(random.integers(0, videos, captions))
  right = np.eye(videos)[owners]
  return Ranking({n: s * right + random.normal(size=right.shape) for n, s in signal.items()}, owners)


def plain_losses(rankings, betas, names):
  found = []
  for each in rankings:
    for caption, own in enumerate(each.owners):
      logits = [sum(b * each.scores[n][caption, v] for b, n in zip(betas, names, strict=True)) for v in range(9)]
      found.append(np.log(np.exp(logits).sum()) - logits[own])
  return np.array(found)


def test_the_factors_are_those_of_the_greatest_likelihood():
  random, names = np.random.default_rng(0), ('a', 'b', 'noise')
  rankings = [ranking(random, {'a': 2.0, 'b': 1.0, 'noise': -1.0}) for _ in range(2)]
  betas = selection.best_betas(rankings, names)
  losses = selection.losses_of(betas, rankings, names)
  np.testing.assert_allclose(losses, plain_losses(rankings, betas, names), atol=1e-5)
  assert betas[0] > betas[1] > betas[2] == 0.0
  for k in range(3):
    for step in (0.05, -0.05):
      other = np.maximum(betas + step * np.eye(3)[k], 0.0)
      assert plain_losses(rankings, other, names).mean() > losses.mean() - 1e-6


def test_a_search_has_the_likelihood_that_was_chosen():
  random, names = np.random.default_rng(1), ('a', 'b')
  rankings = [ranking(random, {'a': 2.0, 'b': 1.0}) for _ in range(2)]
  betas = selection.best_betas(rankings, names)
  weights = selection.best_weights(rankings, names)
  assert sum(weights.values()) == pytest.approx(1.0, abs=1e-3)
  searched = selection.surprise(rankings, weights)
  np.testing.assert_allclose(searched, selection.losses_of(betas, rankings, names), atol=2e-3)


def test_factors_of_a_part_are_fitted_on_the_others():
  random, names = np.random.default_rng(2), ('a', 'b')
  rankings = [ranking(random, {'a': 1.0, 'b': 0.5}) for _ in range(3)]
  found = np.split(selection.cross_fitted(rankings, names), 3)
  betas = selection.best_betas([rankings[0], rankings[2]], names)
  np.testing.assert_allclose(found[1], selection.losses_of(betas, [rankings[1]], names))
  halves = rankings[0].parts(2)
  assert sorted(np.concatenate([each.owners for each in halves])) == sorted(rankings[0].owners)
  assert not {*halves[0].owners} & {*halves[1].owners}


def test_of_equals_the_simplest_is_taken():
  random, owners = np.random.default_rng(5), np.repeat(np.arange(50), 2)
  losses = random.normal(size=(3, 100)) + np.array([0.0, 0.0, 1.0])[:, None]
  assert selection.simplest_of_the_best(losses, owners) == 0
  assert selection.simplest_of_the_best(losses - np.array([0.0, 1.0, 0.0])[:, None], owners) == 1
  # Noise that captions of a video share is no evidence of so many captions.
  shared = np.repeat(random.normal(size=50), 2)
  shared += 0.11 - shared.mean()
  assert selection.simplest_of_the_best(np.stack([shared, np.zeros(100)]), owners) == 0
  assert selection.simplest_of_the_best(np.stack([shared, np.zeros(100)]), np.arange(100)) == 1


def test_what_costs_more_has_to_gain():
  random, videos = np.random.default_rng(6), np.repeat(np.arange(40), 2)
  base, noise = random.normal(size=80) + 3, random.normal(size=80)
  noise -= noise.mean()
  assert selection.prefer({'first': base, 'second': base - 0.01 + noise}, videos)[0] == 'first'
  taken, why = selection.prefer({'first': base, 'second': base - 0.5 + 0.1 * noise, 'third': base - 0.5}, videos)
  assert taken == 'second' and 'third' in why
  assert selection.gain(base, base - 1.0, np.zeros(80)) == -np.inf  # One video says nothing.


def test_a_fit_never_sees_what_is_ranked():
  training, validation = make_world(23, 1).corpus, make_world(11, 2).corpus
  parts = selection.held_out(training, validation)
  assert len(parts) == selection.FOLDS
  assert sum(len(each.counts) for _, each in parts) == 34
  assert sum(len(each.owners) for _, each in parts) == len(training.owners) + len(validation.owners)
  for fitted, ranked in parts:
    assert len(fitted.counts) in (18, 19)
    assert not {*map(tuple, fitted.frames)} & {*map(tuple, ranked.frames)}
  many = dataclasses.replace(validation, owners=np.zeros(selection.MANY_CAPTIONS, int))
  assert selection.held_out(training, many) == [(training, many)]


def with_teacher(world, truth, noise=None):
  """The world with a teacher whose sentences lie where its frames do, or are noise."""
  own = world.corpus
  texts = own.sentences @ truth if noise is None else noise.normal(size=(len(own.owners), 8))
  return dataclasses.replace(own, teacher_frames=own.frames, teacher_sentences=texts)


def test_the_choice_finds_what_there_is_to_find():
  world = make_world(120, seed=6)
  other = make_world(40, seed=7, truth=world.truth)
  found = selection.choose(world.corpus, other.corpus, ('exploration',), 8)
  assert found.weights == {'exploration': 1.0}
  assert found.settings['exploration'].rounds > 0  # One frame of each video has the caption.
  anchor = found.anchors['exploration']
  ranked = np.argmax(anchors.scores('exploration', anchor, other.corpus), axis=1) == other.corpus.owners
  assert ranked.mean() > 0.3  # By chance .025.


def test_a_teacher_has_the_share_that_it_earns():
  world = make_world(60, seed=8)
  other = make_world(40, seed=9, truth=world.truth)
  share = lambda x: sum(w for n, w in x.weights.items() if n.startswith('teacher_'))  # noqa: E731
  found = {}
  for name, noise in (('right', None), ('wrong', np.random.default_rng(10))):
    pair = [with_teacher(each, world.truth, noise) for each in (world, other)]
    found[name] = selection.choose(*pair, EVERY, 8)
  assert share(found['right']) > 0.5 > share(found['wrong'])
  assert found['right'].reason.startswith('prefer teacher_inheritance')


def preferred_of_noise(seed):
  """What is preferred where captions of the training are of no video, and of no sentence of the teacher; it is good."""
  world = make_world(40, seed=20 + seed)
  other = make_world(40, seed=40 + seed, truth=world.truth)
  training, mix = with_teacher(world, world.truth), np.random.default_rng(seed).permutation
  training = dataclasses.replace(training, sentences=mix(training.sentences), owners=mix(training.owners))
  found = selection.choose(training, with_teacher(other, world.truth), EVERY, 8)
  return found.reason.removeprefix('prefer ').partition(':')[0]


def test_captions_without_signal_leave_the_teacher():
  assert [preferred_of_noise(seed) for seed in range(2)] == ['teacher_inheritance'] * 2


@pytest.mark.slow
def test_captions_without_signal_leave_the_teacher_nine_times_of_ten():
  found = [preferred_of_noise(seed) for seed in range(10, 20)]
  assert found.count('teacher_inheritance') >= 9, found
