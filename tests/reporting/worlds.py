"""A small split with known captions, videos, moments and scores; no student behind it."""

import numpy as np

from dlkd_jax.annotations import even_times
from dlkd_jax.reporting import analysis
from dlkd_jax.reporting.split_data import SplitData, Video
from dlkd_jax.retrieval.metrics import rank_own_videos

WEIGHTS = {'inheritance': 0.7, 'exploration': 0.3}
QUICK = analysis.Options(samples=100, permutations=100, examples=2)


def split(captions=60, videos=20, scorers=('inheritance', 'exploration', 'teacher'), seed=0, moments=True, name='test'):
  """A split whose own videos score somewhat better than others."""
  random = np.random.default_rng(seed)
  own = np.sort(np.arange(captions) % videos)
  scores = {scorer: random.random((captions, videos)).astype(np.float32) for scorer in scorers}
  for matrix in scores.values():
    matrix[np.arange(captions), own] += 0.4
  if 'exploration' in scores:
    fused = sum(WEIGHTS[x] * scores[x] for x in WEIGHTS)
    scores = {x: scores[x] for x in WEIGHTS} | {'fused': fused} | {x: scores[x] for x in scores if x == 'teacher'}
  durations = random.uniform(10, 60, videos)
  starts = random.uniform(0, 0.5, captions) * durations[own]
  spans = np.stack([starts, starts + random.uniform(0.05, 0.5, captions) * durations[own]], axis=1)
  return SplitData(
    name=name,
    caption_ids=[f'c{i:03d}' for i in range(captions)],
    texts=[' '.join(['word'] * (1 + i % 7)) + ' <b>&"' for i in range(captions)],
    moments=spans if moments else np.full((captions, 2), np.nan),
    video_ids=[f'v{i:03d}' for i in range(videos)],
    videos=[Video(d, even_times(12, d), even_times(12, d), True, False) for d in durations],
    own=own,
    ranks={scorer: rank_own_videos(matrix, own) for scorer, matrix in scores.items()},
    scores=scores,
    weights={x: WEIGHTS[x] for x in WEIGHTS if x in scores} or {'inheritance': 1.0},
  )


def curves(data, pairs):
  """A frame curve for each pair, whose peak is somewhere; the same however often and in whatever order it is asked."""
  return {
    scorer: {pair: np.random.default_rng([number, *pair]).random(12) for pair in pairs}
    for number, scorer in enumerate(data.ranks)
  }
