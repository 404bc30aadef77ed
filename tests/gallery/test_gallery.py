"""Searching: against plain numpy over every frame, and what has to hold whatever is searched."""

import gc
import itertools
import os
import shutil

import numpy as np
import pytest

from dlkd_jax import sharding
from dlkd_jax.gallery import building
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.moments import find_moments
from dlkd_jax.video import backbones
from tests.gallery import worlds
from tests.gallery.oracle import WEIGHTS

SENTENCES = ['a red square 3', 'moves left', 'a blue circle moves right and much more than fits']


@pytest.fixture(scope='module')
def gallery(world):
  return Gallery.open(world.index)


@pytest.fixture(scope='module')
def encoded(world, oracle):
  """Sentence → its vectors by the oracle."""
  tokens = backbones.open_text_backbone(f'words:{worlds.TOKEN}').tokens(SENTENCES)
  teacher = backbones.open_text_backbone(f'clip:{world.clip}').sentences(SENTENCES)
  return {s: oracle.query(t, v) for s, t, v in zip(SENTENCES, tokens, teacher, strict=True)}


@pytest.mark.parametrize('weights', [None, {'teacher': 1.0}, {'inheritance': 0.4, 'exploration': 0.1, 'teacher': 0.5}])
def test_agrees_with_plain_numpy(gallery, oracle, encoded, weights):
  results = gallery.search(SENTENCES, top=16, moments=2, weights=weights)
  for sentence, result in zip(SENTENCES, results, strict=True):
    query, used = encoded[sentence], weights or WEIGHTS
    expected = oracle.scores(query, used)
    assert result.total == len(result.hits) == 16 and result.query == sentence
    np.testing.assert_allclose([hit.score for hit in result.hits], [score for score, _ in expected], atol=1e-3)
    apart = {video for (score, video), (other, _) in itertools.pairwise(expected) if score - other > 2e-3}
    for hit, (_, video) in zip(result.hits, expected, strict=True):
      if apart >= {video}:
        assert hit.video_id == video
      curves = oracle.curves(query, hit.video_id)
      curve = sum(weight * curves[name] for name, weight in used.items())
      np.testing.assert_allclose(hit.curve, curve, atol=1e-3)
      np.testing.assert_array_equal(hit.times, oracle.times[hit.video_id])
      assert {n: pytest.approx(c.max(), abs=1e-3) for n, c in curves.items()} == dict(hit.scores)
      assert hit.moments == find_moments(hit.times, hit.curve, hit.duration, 2)


def test_captions_of_the_records_are_queries(gallery, oracle):
  by_caption = gallery.search_captions(['v003.mp4#0', 'v005.mp4#1'], top=16)
  by_sentence = gallery.search(['a red square 3', '5 moves left'], top=16)
  for one, other in zip(by_caption, by_sentence, strict=True):
    assert one.query == other.query and [h.video_id for h in one.hits] == [h.video_id for h in other.hits]
    np.testing.assert_allclose([h.score for h in one.hits], [h.score for h in other.hits], atol=1e-3)
  assert gallery.captions['v005.mp4#1'].end == 2.0
  with pytest.raises(ValueError, match='no caption'):
    gallery.search_captions(['v003.mp4#9'])


def test_pages_join_to_the_whole(gallery):
  (whole,) = gallery.search(SENTENCES[:1], top=16)
  pages = [gallery.search(SENTENCES[:1], top=5, offset=offset)[0] for offset in (0, 5, 10, 15, 20)]
  assert [len(page.hits) for page in pages] == [5, 5, 5, 1, 0] and {page.total for page in pages} == {16}
  assert [h.video_id for page in pages for h in page.hits] == [h.video_id for h in whole.hits]


def test_threshold_and_filter(gallery):
  (whole,) = gallery.search(SENTENCES[:1], top=16)
  least = whole.hits[6].score
  (some,) = gallery.search(SENTENCES[:1], top=3, threshold=least)
  assert some.total == 7 and [h.video_id for h in some.hits] == [h.video_id for h in whole.hits[:3]]
  (own,) = gallery.search(SENTENCES[:1], top=16, where='split=gallery')
  assert [h.video_id for h in own.hits] == [h.video_id for h in whole.hits if h.video_id > 'v011.mp4']
  (own,) = gallery.search(SENTENCES[:1], top=16, where=['duration < 10 and not split=gallery', 'id != v003.mp4'])
  assert [h.video_id for h in own.hits] == [
    h.video_id for h in whole.hits if h.duration < 10 and 'v003.mp4' != h.video_id < 'v012.mp4'
  ]
  (short,) = gallery.search(SENTENCES[:1], top=16, where=lambda entry: entry.duration < 10)
  assert [h.video_id for h in short.hits] == [h.video_id for h in whole.hits if h.duration < 10]
  (none,) = gallery.search(SENTENCES[:1], threshold=9.0)
  assert none.hits == () and none.total == 0


def test_flat_is_the_ranking_of_all_moments(gallery):
  (grouped,) = gallery.search(SENTENCES[:1], top=16, moments=3)
  every = [(moment.score, hit.video_id, moment) for hit in grouped.hits for moment in hit.moments]
  every.sort(key=lambda each: (-each[0], each[1], each[2].start))
  for offset, top in ((0, 5), (5, 7), (0, 100)):
    (flat,) = gallery.search(SENTENCES[:1], top=top, offset=offset, moments=3, flat=True)
    assert [(h.score, h.video_id, h.moments[0]) for h in flat.hits] == every[offset : offset + top]


def test_the_order_of_adding_and_the_segments_do_not_matter(world, gallery, tmp_path):
  knowledge = Knowledge()
  for number, splits in enumerate(itertools.permutations(['test', 'gallery'])):
    path = tmp_path / str(number)
    for split in splits:
      part = Collection.open(str(world.data), 'custom_prvr', [split])
      if split == splits[0]:
        building.build(
          path, part, world.run, building.IndexSettings(clip=str(world.clip)), knowledge, segment_frames=40
        )
      else:
        assert building.add(path, part, knowledge, segment_frames=25).there == 0
    other = Gallery.open(path)
    assert len(other.manifest['segments']) > 3
    assert_same_results(other, gallery)


def test_removing_is_never_having_added(world, tmp_path):
  with_all, without = tmp_path / 'all', tmp_path / 'without'
  shutil.copytree(world.index, with_all)
  assert sorted(building.remove(with_all, lambda entry: entry.split == 'gallery')) == [
    f'v0{n}.mp4' for n in range(12, 16)
  ]
  part = Collection.open(str(world.data), 'custom_prvr', ['test'])
  building.build(without, part, world.run, building.IndexSettings(clip=str(world.clip)))
  assert_same_results(Gallery.open(with_all), Gallery.open(without))
  assert building.compact(with_all) > 0
  assert_same_results(Gallery.open(with_all), Gallery.open(without))
  assert building.compact(with_all) == 0
  assert len(building.add(with_all, world.collection).forgotten) == 4
  assert building.add(with_all, world.collection, again=True).added == 4
  assert_same_results(Gallery.open(with_all), Gallery.open(world.index))


def assert_same_results(one, other):
  assert len(one) == len(other) and one.videos == other.videos and one.captions == other.captions
  for a, b in zip(one.search(SENTENCES, top=20), other.search(SENTENCES, top=20), strict=True):
    assert a.total == b.total and [h.video_id for h in a.hits] == [h.video_id for h in b.hits]
    np.testing.assert_allclose([h.score for h in a.hits], [h.score for h in b.hits], rtol=0, atol=2e-6)
    assert [h.moments[0].peak for h in a.hits] == [h.moments[0].peak for h in b.hits]


def test_int8_ranks_as_float16(world, gallery, tmp_path):
  building.build(
    tmp_path / 'small', world.collection, world.run, building.IndexSettings(dtype='int8', clip=str(world.clip))
  )
  small = Gallery.open(tmp_path / 'small')
  assert small._folder.bytes() < gallery._folder.bytes()
  for a, b in zip(small.search(SENTENCES, top=16), gallery.search(SENTENCES, top=16), strict=True):
    scores = {h.video_id: h.score for h in b.hits}
    np.testing.assert_allclose([h.score for h in a.hits], [scores[h.video_id] for h in a.hits], atol=0.01)
    exact = [scores[h.video_id] for h in a.hits]
    assert max(np.maximum.accumulate(exact[::-1])[::-1] - exact) < 0.02, (
      'only videos of nearly equal scores change places'
    )


def test_vectors_and_their_errors(gallery):
  vectors = gallery.sentences(SENTENCES)
  a, b = gallery.search_vectors(vectors, SENTENCES), gallery.search(SENTENCES)
  assert [[h.video_id for h in r.hits] for r in a] == [[h.video_id for h in r.hits] for r in b]
  (unnamed,) = gallery.search_vectors({'teacher': vectors['teacher'][:1]}, weights={'teacher': 1.0})
  assert unnamed.query == 'query 1' and set(unnamed.hits[0].scores) == {'teacher'}
  for problem, message in (
    ({'vectors': {'teacher': vectors['teacher']}}, 'weight for inheritance'),
    ({'vectors': vectors, 'names': ['one']}, 'names of queries'),
    ({'vectors': vectors, 'weights': {'colour': 1.0}}, "no scorer 'colour'"),
    ({'vectors': vectors, 'weights': {'teacher': 0.0}}, 'not all 0'),
    ({'vectors': vectors, 'top': 0}, 'top is 0'),
    ({'vectors': vectors, 'top': 2.5}, 'top is 2.5; expected a whole number from 1 to 1,000,000,000'),
    ({'vectors': vectors, 'top': 10**30}, 'top is 1000000'),
    ({'vectors': vectors, 'moments': 0}, 'moments is 0'),
    ({'vectors': vectors, 'threshold': float('nan')}, 'threshold is nan; expected a number'),
    ({'vectors': vectors, 'threshold': float('-inf')}, 'threshold is -inf'),
    ({'vectors': vectors, 'where': 'year>'}, 'character 6: expected a value'),
    ({'vectors': vectors, 'offset': -1}, 'offset is -1'),
    ({'vectors': vectors, 'exact': False}, 'not prepared for searching in two stages'),
  ):
    with pytest.raises(ValueError, match=message):
      gallery.search_vectors(**problem)
  with pytest.raises(ValueError, match='empty'):
    gallery.search(['a', '  '])
  with pytest.raises(ValueError, match=r'sentence 2: holds half of a character, .* at character 4'):
    gallery.search(['a', 'caf\udce9'])
  with pytest.raises(ValueError, match='the id of a caption: holds half'):
    gallery.search_captions(['caf\udce9'])
  assert gallery.search([]) == []


def test_an_empty_gallery_finds_nothing(world, tmp_path):
  shutil.copytree(world.index, tmp_path / 'index')
  building.remove(tmp_path / 'index', lambda entry: True)
  assert Gallery.open(tmp_path / 'index').search(['a'])[0].hits == ()
  building.compact(tmp_path / 'index')
  empty = Gallery.open(tmp_path / 'index')
  assert len(empty) == 0 and empty.search(['a'])[0].hits == ()


def test_eight_devices_find_what_one_does(world, gallery):
  assert_same_results(Gallery.open(world.index, mesh=sharding.make_mesh()), gallery)


def test_frames_and_moved_files(world, oracle):
  gallery = Gallery.open(world.index, videos=str(world.folder / 'films'))
  assert gallery.videos['v003.mp4'].path == str(world.folder / 'films' / 'v003.mp4')
  times, rows = gallery.frames('v003.mp4')
  np.testing.assert_array_equal(times, oracle.times['v003.mp4'])
  for name, array in rows.items():
    np.testing.assert_allclose(array, oracle.frames['v003.mp4'][name], atol=1e-3)


def test_files_are_let_go_of_with_the_gallery(world, tmp_path):
  """At once, not when circles of references are looked for: a page opens many, one after the other."""
  index = shutil.copytree(world.index, tmp_path / 'index')

  def held():
    paths = (f'/proc/self/fd/{number}' for number in os.listdir('/proc/self/fd'))
    found = sorted(os.path.realpath(path) for path in paths)
    return [path for path in found if path.startswith(os.path.realpath(index))]

  gc.disable()
  try:
    gallery = Gallery.open(index)
    gallery.search('a red square')
    assert held()
    del gallery
    assert not held()
  finally:
    gc.enable()
