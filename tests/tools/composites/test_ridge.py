"""The ridge regression: its equation, its scores against loops, and that it finds what is linear."""

import numpy as np

from dlkd_jax.tools.composites import joining, ridge


def test_fit_is_where_the_gradient_vanishes():
  rng = np.random.default_rng(0)
  x, y = rng.normal(1, 1, (30, 5)), rng.normal(2, 1, (30, 4))
  found = ridge.fit(x, y, 0.7)
  residual = (x - x.mean(0)) @ found.weights - (y - y.mean(0))
  np.testing.assert_allclose((x - x.mean(0)).T @ residual + 0.7 * found.weights, 0, atol=1e-10)


def test_scores_are_the_largest_cosine():
  rng = np.random.default_rng(1)
  found = ridge.Ridge(rng.normal(0, 1, (3, 4)), rng.normal(0, 1, 3), rng.normal(0, 1, 4))
  sentences, videos = rng.normal(0, 1, (5, 3)), [rng.normal(0, 1, (n, 4)) for n in (2, 6)]
  scores = ridge.scores(found, sentences, videos)
  for q, sentence in enumerate(sentences):
    predicted = (sentence - found.sentence_mean) @ found.weights
    for v, frames in enumerate(videos):
      cosines = [
        predicted @ (x - found.frame_mean) / np.linalg.norm(predicted) / np.linalg.norm(x - found.frame_mean)
        for x in frames
      ]
      np.testing.assert_allclose(scores[q, v], max(cosines), atol=1e-12)


def test_linear_world_is_solved_and_moments_help():
  rng = np.random.default_rng(2)
  sentences = rng.normal(0, 1, (300, 8)).astype(np.float32)
  frames = list((sentences @ rng.normal(0, 1, (8, 12)))[:, None] + rng.normal(0, 1.0, (300, 6, 12)))
  videos = {name: joining.join(name, rows, 0) for name, rows in joining.split_clips(300, (150, 50, 100), 0).items()}
  told, untold = (np.mean(ridge.best(sentences, frames, videos, moments)[1] == 1) for moments in (True, False))
  assert told > 0.9 and told >= untold > 0.3
  queries, targets = ridge.targets(frames, videos['val'], moments=False)
  first = videos['val'][0].clips
  assert queries[: len(first)] == first
  np.testing.assert_allclose(targets[0], np.concatenate([frames[c] for c in first]).mean(0))
