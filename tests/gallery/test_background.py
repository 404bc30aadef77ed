"""Whether anything stands out: by the best scores of other sentences, by plain numpy."""

import shutil

import numpy as np
import pytest

from dlkd_jax.gallery import background, building
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.gallery.queries import Query
from dlkd_jax.video import backbones
from tests.gallery.oracle import WEIGHTS


@pytest.fixture(scope='module')
def gallery(world):
  return Gallery.open(world.index)


def test_against_the_captions_of_the_index(gallery):
  """Each caption's best video, and where the score of a sentence stands among these."""
  chosen = [list(gallery.captions)[n] for n in np.linspace(0, 23, background.COUNT).astype(int)]
  vectors = gallery.caption_vectors(chosen)
  frames = {video: gallery.frames(video)[1] for video in gallery.videos}
  score = lambda rows, own: sum(w * (rows[name] @ own[name]).max() for name, w in WEIGHTS.items())  # noqa: E731
  levels = [
    max(score(rows, {name: array[n] for name, array in vectors.items()}) for rows in frames.values())
    for n in range(len(chosen))
  ]
  (result,) = gallery.search('a blue circle', top=16)
  for hit in result.hits:
    low, high = (np.mean([level < hit.score + shift for level in levels]) for shift in (-2e-3, 2e-3))
    assert low - 1e-6 <= hit.confidence <= high + 1e-6
  best = result.hits[0].confidence
  assert result.nothing == (best < background.LEAST['captions']) and result.to_json()['nothing'] is result.nothing
  assert result.to_json()['hits'][0]['confidence'] == pytest.approx(best, abs=1e-4)
  assert (result.best, background.kind_of(gallery)) == (result.hits[0].score, 'captions')
  (second,) = gallery.search('a blue circle', top=3, offset=5)
  assert second.nothing == result.nothing and second.hits[0].confidence == result.hits[5].confidence


def test_what_there_is_no_background_for(gallery):
  for query in (Query(like=('v003.mp4', 1.0)), Query('a red square', without=('a blue circle',))):
    (result,) = gallery.search(query)
    assert result.nothing is None and {hit.confidence for hit in result.hits} == {None}
  (none,) = gallery.search('a red square', where='split=absent')
  assert none.nothing is None and none.hits == ()
  (vectors,) = gallery.search_vectors(gallery.caption_vectors(['v003.mp4#0']))
  assert vectors.nothing is None


def test_what_is_above_and_below_all_of_it(gallery, monkeypatch):
  monkeypatch.setattr(gallery.background, 'levels', lambda *_: np.full(4, 9.0))
  (low,) = gallery.search('a red square')
  assert low.nothing and low.hits[0].confidence == 0.0 and len(low.hits) == 10, 'results are there all the same'
  monkeypatch.setattr(gallery.background, 'levels', lambda *_: np.full(4, -9.0))
  (high,) = gallery.search('a red square')
  assert high.nothing is False and high.hits[0].confidence == 1.0


def test_without_captions_it_is_made_of_names(world, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  building.remove(index, lambda entry: entry.split == 'test')
  gallery = Gallery.open(index)
  assert not gallery.captions and background.kind_of(gallery) == 'names'
  (result,) = gallery.search('a red square', weights={'teacher': 1.0})
  names = [' '.join(name.split()) for name in background.NAMES.split(',')]
  assert len(names) == len(set(names)) == background.COUNT
  texts = backbones.open_text_backbone(f'clip:{world.clip}').sentences(names)
  texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
  rows = np.concatenate([gallery.frames(video)[1]['teacher'] for video in gallery.videos])
  levels = np.sort((texts @ rows.T).max(axis=1))
  assert result.hits[0].confidence == pytest.approx(np.searchsorted(levels, result.hits[0].score) / 64, abs=0.05)
  folder = IndexFolder.open(index)
  folder.manifest['text'] = {'tokens': None, 'teacher': None}
  folder.write_manifest()
  gallery = Gallery.open(index)
  assert gallery.background.levels(gallery, {'teacher': 1.0}) is None
