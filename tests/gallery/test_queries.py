"""Queries: from a file, by picture, like a moment, together, and without something; against plain numpy."""

import shutil

import numpy as np
import pytest

from dlkd_jax import files
from dlkd_jax.errors import UserError
from dlkd_jax.gallery import queries
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder, IndexFolderError
from dlkd_jax.gallery.queries import Query
from dlkd_jax.video import backbones
from tests.gallery.oracle import WEIGHTS

WISHES = {'top': 3, 'offset': 0, 'threshold': None, 'where': None}


def test_lines_and_objects():
  text = 'a dog\n\n  two cats \n{"text": "a tram", "id": 7}\n{"caption": "lake.mp4#0"}\n'
  assert queries.parse(text, 'f') == [
    Query('a dog'),
    Query('two cats'),
    Query('a tram', id=7),
    Query(caption='lake.mp4#0'),
  ]


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"text"', 'f, line 2: not JSON'),
    ('{"text": "a", "caption": "b"}', 'expected "text" or "caption"'),
    ('{"sentence": "a"}', r"line 2 has \['sentence'\]"),
    ('{"text": "a", "top": 3}', r"line 2 has \['top'\]"),
    ('{"text": 3}', 'expected "text" or "caption"'),
    ('{"text": " "}', 'f, line 2: "text" is empty'),
    ('{"text": "smile \\ud83d"}', r"f, line 2: holds half of a character \('\\ud83d'\)"),
    ('caf\udce9', r"f, line 2: holds half of a character, or bytes that are no UTF-8 text, at character 4 of 'caf"),
  ],
)
def test_bad_lines(line, message):
  with pytest.raises(ValueError, match=message):
    queries.parse('a dog\n' + line, 'f')


def test_lines_end_with_line_feeds_alone():
  text = '\u2028one\u2028two\x85\r\n{"text": "a\u2029b"}\r\n\r\n\x0cthree'
  assert [query.text for query in queries.parse(text, 'f')] == ['one\u2028two', 'a\u2029b', 'three']


def test_files_of_other_editors(tmp_path):
  for content, expected in (
    ('\ufeffa dog\r\n', ['a dog']),
    ('\ufeff{"text": "a dog", "id": 7}\n', ['a dog']),
  ):
    assert [q.text for q in queries.parse(files.decode(content.encode(), 'f'), 'f')] == expected
  with pytest.raises(UserError, match='f, line 2: byte 9 is 0xe9'):
    files.decode(b'a dog\ncaf\xe9\n', 'f')


def test_mixed_queries_keep_their_order(world):
  gallery = Gallery.open(world.index)
  asked = queries.parse('{"caption": "v003.mp4#1"}\na red square\n{"caption": "v001.mp4#0"}', 'f')
  found = gallery.search(asked, **WISHES)
  assert [result.query for result in found] == ['3 moves left', 'a red square', 'a red square 1']


def unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def picture(seed=0, size=(40, 30)):
  pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
  return queries.Picture(pixels, f'{seed}.png')


@pytest.fixture(scope='module')
def gallery(world):
  return Gallery.open(world.index)


@pytest.fixture(scope='module')
def model(world):
  """What pictures and sentences are to the teacher of the index, by its backbones alone."""
  frames = backbones.open_frame_backbone(f'clip:{world.clip}')
  texts = backbones.open_text_backbone(f'clip:{world.clip}')
  return lambda what: unit((texts.sentences([what]) if isinstance(what, str) else frames([what]))[0])


def assert_ranked(result, ranking, skipped=()):
  ranking = [(score, video) for score, video in ranking if video not in skipped]
  np.testing.assert_allclose([hit.score for hit in result.hits], [score for score, _ in ranking], atol=2e-3)
  own = {video: score for score, video in ranking}
  assert {hit.video_id for hit in result.hits} == own.keys()
  np.testing.assert_allclose([own[hit.video_id] for hit in result.hits], [score for score, _ in ranking], atol=2e-3)


def test_a_picture(gallery, oracle, model):
  one, other = picture(0), picture(1)
  found = gallery.search([Query(picture=one), 'a red square', Query(picture=other)], top=16)
  assert_ranked(found[0], oracle.scores({'teacher': model(one.pixels)}, {'teacher': 1.0}))
  assert_ranked(found[2], oracle.scores({'teacher': model(other.pixels)}, {'teacher': 1.0}))
  assert set(found[0].hits[0].scores) == {'teacher'} and found[0].query == '0.png' and found[0].notes == ()
  assert set(found[1].hits[0].scores) == {'inheritance', 'exploration', 'teacher'}
  assert found[0].to_json()['asked'] == {'text': None, 'caption': None, 'picture': '0.png', 'like': None, 'without': []}


def test_more_like_a_moment(gallery, oracle):
  """Of all scorers, by the frame that is nearest to the second; the video itself is left out, or not."""
  query = {name: rows[7] for name, rows in oracle.frames['v003.mp4'].items()}
  assert len(oracle.frames['v003.mp4']['teacher']) > 8
  ranking = oracle.scores(query, WEIGHTS)
  (others,), (all_of_them,) = (gallery.search(Query(like=('v003.mp4', 7.3), own=own), top=16) for own in (False, True))
  assert_ranked(all_of_them, ranking)
  assert_ranked(others, ranking, skipped={'v003.mp4'})
  assert (others.total, all_of_them.total) == (15, 16) and others.query == 'like v003.mp4 at 7.3 s'
  assert all_of_them.hits[0].video_id == 'v003.mp4' and all_of_them.hits[0].moments[0].peak == 7.0
  (flat,) = gallery.search(Query(like=('v003.mp4', 7.3)), top=50, flat=True, moments=3)
  assert 'v003.mp4' not in {hit.video_id for hit in flat.hits}


def test_together_and_without(gallery, oracle, model):
  one, text, ball = picture(2), 'a red square', 'a blue circle'
  share, without = queries.PICTURE_SHARE, queries.WITHOUT
  (both,) = gallery.search(Query(text, picture=one), top=16)
  vector = unit((1 - share) * model(text) + share * model(one.pixels))
  assert_ranked(both, oracle.scores({'teacher': vector}, {'teacher': 1.0}))
  (negative,) = gallery.search(Query(text, without=(ball,)), top=16, weights={'teacher': 1.0})
  assert_ranked(negative, oracle.scores({'teacher': unit(model(text) - without * model(ball))}, {'teacher': 1.0}))
  assert negative.query == 'a red square, not a blue circle'
  (three,) = gallery.search(Query(text, like=('v003.mp4', 0.0), without=(ball,)), top=16, weights={'teacher': 1.0})
  frame = oracle.frames['v003.mp4']['teacher'][0]
  vector = unit((1 - share) * model(text) + share * frame - without * model(ball))
  assert_ranked(three, oracle.scores({'teacher': vector}, {'teacher': 1.0}), skipped={'v003.mp4'})


def test_a_part_that_is_not_there(gallery, world, tmp_path):
  with pytest.raises(UserError, match=r'no video v9.mp4 in this index'):
    gallery.search(Query(like=('v9.mp4', 0.0)))
  with pytest.raises(UserError, match='nothing to look for'):
    Query(without=('a ball',))
  with pytest.raises(UserError, match='seconds of the video'):
    Query(like=('v003.mp4', float('nan')))
  with pytest.raises(UserError, match='sentence 2 is empty'):
    gallery.search(Query('a ball', without=(' ',)))
  index = shutil.copytree(world.index, tmp_path / 'index')
  folder = IndexFolder.open(index)
  folder.manifest['text'] = folder.manifest['pictures'] = {'tokens': None, 'teacher': None}
  folder.write_manifest()
  blind = Gallery.open(index)
  with pytest.raises(IndexFolderError, match='a picture cannot be searched for here'):
    blind.search(Query(picture=picture()))
  assert blind.search(Query(like=('v003.mp4', 7.0)))[0].hits
  with pytest.raises(IndexFolderError, match='does not exist; say where it is with --clip=DIR'):
    Gallery.open(world.index, clip=str(tmp_path / 'nowhere')).search(Query(picture=picture()))


@pytest.mark.parametrize(
  ('text', 'moment'),
  [
    ('lake.mp4@12.5', ('lake.mp4', 12.5)),
    ('a@b/lake.mp4@1:02:03', ('a@b/lake.mp4', 3723.0)),
    ('x@2:05.5', ('x', 125.5)),
    ('lake.mp4', None),
    ('@3', None),
    ('x@nan', None),
    ('x@-1', None),
    ('x@1:2:3:4', None),
  ],
)
def test_moments_are_written_so(text, moment):
  if moment is None:
    with pytest.raises(UserError, match='--like is'):
      queries.moment_of(text, '--like')
  else:
    assert queries.moment_of(text, '--like') == moment
