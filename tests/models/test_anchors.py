"""Closed forms against plain loops, and against what they say they equal: a refit without a video."""

import dataclasses

import numpy as np
import pytest

from dlkd_jax.models import anchors

SETTINGS = anchors.AnchorSettings(ridge=3.0, floor=0.05, rounds=2, power=0.5, size=5)


@dataclasses.dataclass
class World:
  """Videos whose frames are noise but for one, which is a linear image of the caption; and a teacher of both."""

  corpus: anchors.Corpus
  truth: np.ndarray


def make_world(videos=30, seed=0, signal=1.0, truth=None):
  random = np.random.default_rng(seed)
  truth = random.normal(size=(6, 8)) if truth is None else truth
  counts, captions = random.integers(2, 7, videos), random.integers(1, 4, videos)
  owners = np.repeat(np.arange(videos), captions)
  random.shuffle(owners)
  sentences, frames = random.normal(size=(len(owners), 6)), random.normal(size=(counts.sum(), 8))
  starts = np.cumsum(counts) - counts
  for caption, video in enumerate(owners):
    frames[starts[video] + random.integers(counts[video])] += signal * sentences[caption] @ truth
  text, frame = random.normal(size=(6, 7)), random.normal(size=(8, 7))
  return World(anchors.Corpus(frames, counts, sentences, owners, frames @ frame, sentences @ text), truth)


@pytest.fixture(scope='module')
def world():
  return make_world()


def unit(row):
  return row / np.linalg.norm(row)


def plain_smoothing(frames):
  """One video, a loop over its frames and their neighbours."""
  weights = np.array([np.exp(-(k**2) / 2) for k in range(-4, 5)])
  weights /= weights.sum()
  last = len(frames) - 1
  return np.stack(
    [sum(weights[k + 4] * frames[min(max(i + k, 0), last)] for k in range(-4, 5)) for i in range(len(frames))]
  )


def plain_ridge(inputs, targets, ridge):
  return np.linalg.inv(inputs.T @ inputs + ridge * np.eye(inputs.shape[1])) @ inputs.T @ targets


def videos_of(rows, counts):
  return np.split(rows, np.cumsum(counts)[:-1])


def test_smoothing_is_within_a_video(world):
  found = videos_of(anchors.smoothed(world.corpus.frames, world.corpus.counts), world.corpus.counts)
  for mine, own in zip(found, videos_of(world.corpus.frames, world.corpus.counts), strict=True):
    np.testing.assert_allclose(mine, plain_smoothing(own), atol=1e-12)


def test_whitening_makes_the_covariance_the_identity():
  rows = np.random.default_rng(1).normal(size=(50, 4)) @ np.diag([3.0, 1.0, 0.5, 0.1])
  metric = anchors.whitening(anchors.covariance(rows), 0.0)
  np.testing.assert_allclose(anchors.covariance(rows @ metric), np.eye(4), atol=1e-8)
  floored = anchors.whitening(anchors.covariance(rows), 0.2, power=0.5, size=2)
  values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
  for k in range(2):
    expected = vectors[:, -1 - k] * (values[-1 - k] + 0.2 * values[-1]) ** -0.25
    np.testing.assert_allclose(np.abs(floored[:, k]), np.abs(expected), atol=1e-10)


def test_leaving_a_video_out_is_fitting_again_without_it(world):
  inputs, owners = world.corpus.sentences, world.corpus.owners
  targets = np.random.default_rng(2).normal(size=(len(owners), 3))
  found = anchors.leave_video_out(inputs, anchors.ridge_solver(inputs, 2.0), targets, owners)
  for caption, video in enumerate(owners):
    others = owners != video
    weights = plain_ridge(inputs[others], targets[others], 2.0)
    np.testing.assert_allclose(found[caption], inputs[caption] @ weights, atol=1e-10)


def plain_exploration(corpus, settings):
  """Returns text map, frame map and held-out vectors; every held-out prediction is a fit of its own."""
  centred = corpus.sentences - corpus.sentences.mean(0)
  inputs = centred / np.sqrt(np.mean([row @ row for row in centred]))
  videos = [plain_smoothing(x) for x in videos_of(corpus.frames - corpus.frames.mean(0), corpus.counts)]
  between = np.cov(np.stack([x.mean(0) for x in videos]).T, bias=True)
  everything = np.cov(np.concatenate(videos).T, bias=True)
  values, vectors = np.linalg.eigh(between / np.trace(between) + everything / np.trace(everything))
  order = np.argsort(-values)[: settings.size]
  metric = vectors[:, order] / np.sqrt(values[order] + settings.floor * values.max())
  videos = [x @ metric for x in videos]

  def held_out(targets):
    rows = []
    for caption, video in enumerate(corpus.owners):
      others = corpus.owners != video
      rows.append(inputs[caption] @ plain_ridge(inputs[others], targets[others], settings.ridge))
    return np.stack(rows)

  first = np.stack([videos[video].mean(0) for video in corpus.owners])
  targets = first
  for _ in range(settings.rounds):
    predicted, new = held_out(targets), []
    for caption, video in enumerate(corpus.owners):
      weights = np.exp([unit(predicted[caption]) @ unit(x) / 0.05 for x in videos[video]])
      new.append(0.25 * first[caption] + 0.75 * weights / weights.sum() @ videos[video])
    targets = np.stack(new)
  return plain_ridge(inputs, targets, settings.ridge), metric, held_out(targets)


def test_exploration_follows_the_plain_loops(world):
  found, (text, metric, held_out) = (
    anchors.exploration(world.corpus, SETTINGS),
    plain_exploration(world.corpus, SETTINGS),
  )
  signs = np.sign(np.sum(found.frame_map * metric, axis=0))  # Of eigenvectors.
  np.testing.assert_allclose(found.frame_map * signs, metric, atol=1e-9)
  np.testing.assert_allclose(found.sentence_map * signs, text, atol=1e-8)
  np.testing.assert_allclose(found.held_out * signs, held_out, atol=1e-8)


def test_inheritance_distils_the_teacher_without_pairs(world):
  corpus = world.corpus
  found = anchors.inheritance(corpus, SETTINGS._replace(ridge=1e-9))
  shuffled = dataclasses.replace(corpus, owners=np.random.default_rng(3).permutation(corpus.owners))
  again = anchors.inheritance(shuffled, SETTINGS._replace(ridge=1e-9))
  np.testing.assert_allclose(again.sentence_map, found.sentence_map)
  np.testing.assert_allclose(again.frame_map, found.frame_map)
  # This teacher is linear: its frames, in its metric, are met but for the ridge.
  taught = anchors.smoothed(corpus.teacher_frames - corpus.teacher_frames.mean(0), corpus.counts)
  metric = anchors.whitening(anchors.covariance(taught), anchors.TEACHER_FLOOR, 0.5, 5)
  cosines = np.sum(anchors.unit(taught @ metric) * found.video_frames(corpus.frames, corpus.counts), axis=1)
  assert cosines.min() > 0.99
  with pytest.raises(ValueError, match='no features of a teacher'):
    anchors.inheritance(dataclasses.replace(corpus, teacher_frames=None), SETTINGS)


def test_frames_of_the_teacher_itself_are_taken_as_they_are(world):
  sentences = np.random.default_rng(8).normal(size=(len(world.corpus.owners), 8))
  corpus = dataclasses.replace(world.corpus, teacher_frames=world.corpus.frames, teacher_sentences=sentences)
  found = anchors.inheritance(corpus, SETTINGS)
  taught = anchors.smoothed(corpus.frames - corpus.frames.mean(0), corpus.counts)
  np.testing.assert_array_equal(found.frame_map, anchors.whitening(anchors.covariance(taught), 0.1, 0.5, 5))


def test_scores_are_the_best_cosine_over_the_frames(world):
  corpus = world.corpus
  anchor = anchors.exploration(corpus, SETTINGS)
  found = anchors.scores('exploration', anchor, corpus)
  for caption in range(5):
    query = unit((corpus.sentences[caption] - anchor.sentence_mean) @ anchor.sentence_map)
    for video, own in enumerate(videos_of(corpus.frames, corpus.counts)):
      rows = plain_smoothing((own - anchor.frame_mean) @ anchor.frame_map)
      assert found[caption, video] == pytest.approx(max(query @ unit(row) for row in rows))


def test_parts_of_a_corpus(world):
  some = world.corpus.of(np.array([4, 2]))
  videos = videos_of(world.corpus.frames, world.corpus.counts)
  np.testing.assert_array_equal(some.frames, np.concatenate([videos[4], videos[2]]))
  np.testing.assert_array_equal(some.counts, world.corpus.counts[[4, 2]])
  for sentence, owner in zip(some.sentences, some.owners, strict=True):
    whole = np.flatnonzero((world.corpus.sentences == sentence).all(axis=1))[0]
    assert world.corpus.owners[whole] == [4, 2][owner]
  both = some.joined(world.corpus.of(np.array([7])))
  np.testing.assert_array_equal(both.owners, [*some.owners, *[2] * np.sum(world.corpus.owners == 7)])
  np.testing.assert_array_equal(
    both.teacher_frames[-world.corpus.counts[7] :], world.corpus.of(np.array([7])).teacher_frames
  )


def test_a_branch_of_the_teacher_sees_its_features(world):
  corpus = world.corpus
  found = anchors.fit('teacher_exploration', corpus, SETTINGS)
  of_teacher = anchors.Corpus(corpus.teacher_frames, corpus.counts, corpus.teacher_sentences, corpus.owners)
  again = anchors.exploration(of_teacher, SETTINGS)
  np.testing.assert_array_equal(found.sentence_map, again.sentence_map)
  np.testing.assert_array_equal(
    anchors.scores('teacher_exploration', found, corpus), anchors.scores('exploration', again, of_teacher)
  )


def test_the_teacher_itself_is_centred_and_smoothed(world):
  corpus = world.corpus
  found = anchors.fit('teacher_inheritance', corpus, SETTINGS._replace(power=0.0, size=7))
  texts = corpus.teacher_sentences - corpus.teacher_sentences.mean(0)
  np.testing.assert_allclose(found.held_out @ found.held_out.T / (texts @ texts.T), found.sentence_scale**2)
  scores = anchors.scores('teacher_inheritance', found, corpus)
  videos = videos_of(corpus.teacher_frames - corpus.teacher_frames.mean(0), corpus.counts)
  for caption in range(4):
    for video, own in enumerate(videos):
      expected = max(unit(texts[caption]) @ unit(row) for row in plain_smoothing(own))
      assert scores[caption, video] == pytest.approx(expected)
