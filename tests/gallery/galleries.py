"""Small galleries for tests: videos whose frames change slowly, queries near frames, and plain loops for scores."""

import numpy as np

SCORERS = ('inheritance', 'exploration')
WEIGHTS = {'inheritance': 0.7, 'exploration': 0.3}


def unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def structured(videos=40, hidden=32, longest=30, seed=0, noise=0.4):
  """Returns scorer → `[n, H]` unit float32 rows, and offsets: each video strays around a centre of its own."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, longest + 1, videos)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  rows = {}
  for name in SCORERS:
    centres = unit(rng.standard_normal((videos, hidden)))
    steps = unit(rng.standard_normal((offsets[-1], hidden)))
    rows[name] = unit(np.repeat(centres, lengths, axis=0) + noise * steps).astype(np.float32)
  return rows, offsets


def queries_near(rows, count, seed=1, noise=0.3):
  """Returns queries near random frames, the same frame for all scorers: scorer → `[q, H]` float32, not normalised."""
  rng = np.random.default_rng(seed)
  frames = rng.integers(len(next(iter(rows.values()))), size=count)
  return {
    name: (3 * (x[frames] + noise * unit(rng.standard_normal((count, x.shape[1]))))).astype(np.float32)
    for name, x in rows.items()
  }


def loop_scores(rows, offsets, queries):
  """Returns scorer → `[q, V]` in float64, by loops over queries and videos."""
  scores = {}
  for name, array in queries.items():
    found = np.empty((len(array), len(offsets) - 1))
    for i, query in enumerate(array.astype(np.float64)):
      for v in range(len(offsets) - 1):
        frames = rows[name][offsets[v] : offsets[v + 1]].astype(np.float64)
        found[i, v] = max(float(frame @ query / np.linalg.norm(query)) for frame in frames)
    scores[name] = found
  return scores
