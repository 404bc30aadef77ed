"""Measures of queries: the numbers that they are made of, on worlds small enough to count by hand."""

import json
import types

import numpy as np
import pytest

from dlkd_jax.demo import words, world
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import background
from dlkd_jax.gallery.results import SearchResult
from dlkd_jax.gallery.texts import Texts
from dlkd_jax.tools import measure_nothing, measure_queries


def results(*rankings):
  hit = lambda video: types.SimpleNamespace(video_id=video)  # noqa: E731
  return [SearchResult('', tuple(map(hit, ranking)), None, 0.0) for ranking in rankings]


def test_found_at():
  many = [f'v{n}' for n in range(9)]
  found = measure_queries.found_at(results(['a', 'b'], ['b', 'a'], many), ['a', 'a', 'a'])
  assert found == {'R@1': pytest.approx(100 / 3), 'R@10': pytest.approx(200 / 3)}


def test_area_and_errors():
  there, absent = np.array([0.9, 0.5, 0.4]), np.array([0.5, 0.1])
  assert measure_nothing.area(there, absent) == pytest.approx((2 + 1.5 + 1) / 6)
  assert measure_nothing.highest(np.arange(10) / 10) == 0.2
  assert measure_nothing.errors(there, absent, 0.5) == {
    'called nothing, and is there': pytest.approx(100 / 3),
    'not called nothing, and is absent': 50.0,
  }


def test_what_is_asked_and_said():
  film, rng = world.film(0, 'val', 1), np.random.default_rng(0)
  segment = film.segments[0]
  told = words.mentioned(measure_queries.of_thing(segment, rng, place=True))
  assert told == {name: number for name, number in segment.concepts().items() if name != 'motion'}
  first, second = measure_queries.drawn_anew(segment, rng), measure_queries.drawn_anew(segment, rng, things=False)
  assert first.shape == second.shape == (96, 96, 3) and (first != second).any()
  right = measure_queries.say(film, [world.film(0, 'val', 2)], 1.0, np.random.default_rng(0))
  assert [cue[0] for cue in right] == [film.segments[n].start for n in sorted({c.segment for c in film.captions})]
  for start, _, text in right:
    (shown,) = [s for s in film.segments if s.start == start]
    assert words.mentioned(text).items() <= shown.concepts().items()


def test_an_index_gets_cues(world_index, tmp_path):
  measure_queries.with_cues(world_index, tmp_path / 'said', {'v003.mp4': [(1.0, 2.0, 'ein Bär')]})
  from dlkd_jax.gallery.gallery import Gallery

  before, after = Gallery.open(world_index), Gallery.open(tmp_path / 'said')
  assert [cue.text for cue in after.cues('v003.mp4')] == ['ein Bär'] and after.cues('v001.mp4') == []
  assert list(before.videos) == list(after.videos) and list(before.captions) == list(after.captions)
  np.testing.assert_array_equal(before.frames('v005.mp4')[1]['teacher'], after.frames('v005.mp4')[1]['teacher'])
  assert isinstance(after.texts, Texts)


@pytest.fixture
def world_index(tmp_path):
  from dlkd_jax.gallery import building
  from dlkd_jax.gallery.collection import Collection
  from tests.gallery import worlds

  clip = worlds.clip(tmp_path / 'clip')
  collection = Collection.open(str(worlds.data_set(tmp_path / 'data', clip, 6)), 'custom_prvr')
  building.build(tmp_path / 'index', collection, None, building.IndexSettings(clip=str(clip)))
  return tmp_path / 'index'


def write_pack(folder):
  """Names that captions speak of are frames themselves; the others are not."""
  folder.mkdir(exist_ok=True)
  own = [' '.join(name.split()) for name in background.NAMES.split(',')]
  names = [*own, *(f'there {n}' for n in range(4)), *(f'absent {n}' for n in range(4))]
  vectors = np.eye(len(names), dtype=np.float32)
  np.save(folder / 'object_names_clip_vitb32.npy', vectors)
  np.savez(folder / 'test_frames_clip_vitb32_1fps.npz', features=vectors[64:68] + 0.1 * vectors[:4])
  (folder / 'object_names.json').write_text(json.dumps(names))
  lines = [f'V 0 1##a person holds there {n}.' for n in range(4) for _ in range(8)]
  (folder / 'charades_sta_test.txt').write_text('\n'.join(lines))


def test_a_pack(tmp_path):
  write_pack(tmp_path)
  found = measure_nothing.measure_pack(tmp_path)
  assert found['names'] == {'there': 4, 'absent': 4}
  assert found['AUC of the confidence'] == found['AUC of the best score'] == 1.0
  assert found['below 0.58, the other names'] == {
    'called nothing, and is there': 0.0,
    'not called nothing, and is absent': 0.0,
  }


def test_too_few_films_are_said(world_index):
  from dlkd_jax.gallery.gallery import Gallery

  gallery = Gallery.open(world_index)
  films = {name: world.film(0, 'val', number) for number, name in enumerate(gallery.videos)}
  of = types.SimpleNamespace(gallery=gallery, films=films)
  with pytest.raises(UserError, match='films are too few to measure what some of them lack'):
    measure_nothing.measure(of, {'teacher': 1.0})
