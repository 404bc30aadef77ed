"""The blend: SumR over the teacher's share, by plain numpy, and what is stored."""

import shutil

import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.gallery import building, tuning
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from tests.gallery import worlds
from tests.gallery.oracle import WEIGHTS


def test_agrees_with_plain_numpy(world, oracle, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  collection = Collection.open(str(world.data), 'custom_prvr', ['test'])
  curve = tuning.tune(index, collection, shares=(0.0, 0.35, 1.0))
  assert (curve.captions, curve.videos) == (24, 12)
  source = sources.open_source(str(world.data), 'custom_prvr', 'test')
  names = [sources.text(source[n]['video_id']) for n in range(12)]
  for share, found in zip(curve.shares, curve.sum_r, strict=True):
    weights = {name: (1 - share) * w for name, w in WEIGHTS.items()} | {'teacher': share}
    ranks = []
    for number in range(12):
      record = source[number]
      pieces = np.split(record['student_tokens'], np.cumsum(record['token_lengths'])[:-1])
      for tokens, sentence in zip(pieces, record['teacher_text'], strict=True):
        query = oracle.query(tokens, sentence)
        scores = [sum(w * oracle.curves(query, name)[scorer].max() for scorer, w in weights.items()) for name in names]
        ranks.append(1 + sum(s >= scores[number] - 1e-9 for n, s in enumerate(scores) if n != number))
    expected = sum(100 * np.mean(np.array(ranks) <= k) for k in (1, 5, 10, 100))
    assert found == pytest.approx(expected, abs=5), 'half precision may swap one neighbour'
  best = curve.weights[int(np.argmax(curve.sum_r))]
  assert Gallery.open(index).weights == pytest.approx(best)
  text = tuning.describe(curve, 'index')
  assert 'custom_prvr, test: 24 captions, 12 videos' in text and 'best' in text and 'stored in index' in text


def test_what_cannot_be_tuned(world, tmp_path):
  building.build(tmp_path / 'teacher', world.collection, None, building.IndexSettings(clip=str(world.clip)))
  with pytest.raises(ValueError, match='nothing to blend'):
    tuning.tune(tmp_path / 'teacher', world.collection)
  index = shutil.copytree(world.index, tmp_path / 'index')
  with pytest.raises(ValueError, match='has no captions in gallery'):
    tuning.tune(index, Collection.open(str(world.data), 'custom_prvr', ['gallery']))
  other = worlds.data_set(tmp_path / 'data', worlds.clip(tmp_path / 'clip', seed=4), 2)
  with pytest.raises(ValueError, match='was made otherwise'):
    tuning.tune(index, Collection.open(str(other), 'custom_prvr'))
