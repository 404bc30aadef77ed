"""Searching in texts: in any script, whatever is typed; and what it does to the ranking."""

import numpy as np
import pytest

from dlkd_jax.gallery import ranking, texts
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.quantization import encode
from dlkd_jax.gallery.queries import Query
from dlkd_jax.gallery.ranking import ranked
from dlkd_jax.gallery.segments import Cue, Entry
from dlkd_jax.gallery.texts import Match, Texts, read
from tests.gallery.test_index_folder import SCORERS, create

SAID = {
  'lake/first_day.mp4': [(1, 3, 'Look, the dog jumps'), (3.5, 5, 'right into the lake!'), (50, 52, 'What a day')],
  'café.mp4': [(2, 4, 'Der Bär läuft über die Straße'), (10, 11, 'look at the day')],
  'zh.mp4': [(7, 9, '一只狗跳进湖里')],
  'ar.mp4': [(4, 5, 'كَلْبٌ يقفز في البحيرة')],
  'th.mp4': [(1, 2, 'สุนัขกระโดดลงทะเลสาบ')],
  'hi.mp4': [(1, 2, 'एक कुत्ता झील में कूदता है')],
  'silent.mp4': [],
}


def index(path, said, **about):
  """Writes an index of videos with 60 random frames, one a second."""
  folder, rng = create(path), np.random.default_rng(0)
  writer = folder.new_segment()
  for video, cues in said.items():
    rows = {name: rng.normal(size=(60, size)).astype(np.float32) for name, size in SCORERS.items()}
    rows = {
      name: encode(array / np.linalg.norm(array, axis=1, keepdims=True), 'float16') for name, array in rows.items()
    }
    entry = Entry(video, about.get('titles', {}).get(video, video[:-4]), duration=60.0, metadata=about.get(video, {}))
    writer.add(entry, np.arange(60, dtype=np.float32), rows, cues=[Cue(video, *cue) for cue in cues])
  folder.commit([writer.finish()])
  return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  about = {'silent.mp4': {'place': 'Lago di Como', 'tags': ['Grüne Wiese', 7], 'year': 2021}}
  return index(tmp_path_factory.mktemp('texts') / 'index', SAID, titles={'silent.mp4': 'Holidays 2021'}, **about)


@pytest.fixture(scope='module')
def found(folder):
  catalog = Catalog.open(folder)
  search, ids = Texts(catalog), list(catalog.videos)

  def find(query, allowed=None):
    return [(ids[m.place], m) for m in search.find(query, np.ones(len(ids), bool) if allowed is None else allowed)]

  return find


@pytest.mark.parametrize(
  ('query', 'video', 'marked'),
  [
    ('the dog jumps', 'lake/first_day.mp4', ['the', 'dog', 'jumps']),
    ('DOG jump', 'lake/first_day.mp4', ['dog', 'jumps']),
    ('dogs jump', 'lake/first_day.mp4', ['dog', 'jumps']),
    ('Bär', 'café.mp4', ['Bär']),
    ('bar laufen', 'café.mp4', ['Bär']),
    ('STRASSE', 'café.mp4', ['Straße']),
    ('Ba\u0308r', 'café.mp4', ['Bär']),
    ('cafe\u0301', 'café.mp4', ['café']),
    ('狗', 'zh.mp4', ['狗']),
    ('狗跳', 'zh.mp4', ['狗跳']),
    ('跳进湖里的狗', 'zh.mp4', ['跳进湖里']),
    ('كلب', 'ar.mp4', ['كَلْبٌ']),
    ('البحيرة', 'ar.mp4', ['البحيرة']),
    ('สุนัข', 'th.mp4', ['สุนัข']),
    ('कुत्ता', 'hi.mp4', ['कुत्ता']),
    ('holidays', 'silent.mp4', ['Holidays']),
    ('como', 'silent.mp4', ['Como']),
    ('grüne wiese', 'silent.mp4', ['Grüne', 'Wiese']),
  ],
)
def test_in_any_script(found, query, video, marked):
  (best, match), *_ = found(query)
  assert best == video
  said = match.said[0]
  assert [said.text[first:last] for first, last in said.marks] == marked


def test_when_it_is_said(found):
  ((_, match),) = found('the dog jumps into the lake')
  assert (match.said[0].start, match.said[0].end, match.said[0].kind) == (1.0, 3.0, 'said')
  assert 0.9 < match.share <= 1, 'a sentence runs on over cues'
  ((_, whole),) = found('como')
  assert whole.said[0].start is None and whole.said[0].kind == 'metadata: place' and whole.share == 1.0
  assert whole.said[0].to_json()['marks'] == [[8, 12]]
  ((_, named),) = found('first day of the lake')
  assert {said.kind for said in named.said} >= {'said'}, 'the name of the file counts for each cue'


def test_what_hardly_fits_is_not_found(found, folder):
  assert found('a zebra eats green elephants beside the day') == []
  assert found('') == found('...') == found('the zebra quagga okapi') == []
  allowed = np.array([video != 'zh.mp4' for video in Catalog.open(folder).videos])
  assert found('狗', allowed) == []


@pytest.mark.parametrize(
  'query',
  [
    *('"', "'", '"dog', 'dog"', 'dog OR', 'AND', 'NOT dog', 'NEAR(dog lake)', 'terms:dog', 'dog*', '^dog', '-dog'),
    *('(dog', '{dog}', 'dog + jumps', '";DROP TABLE texts;--', "x' OR 1=1 --", '\0dog', 'dog\0', '%', '_'),
    *('dog\ud83d', '\u202edog', '*' * 500, 'dog ' * 5000, '狗' * 5000, '𠀀', 'ﬁre', '½', "don't", '\u0301', '\u0e33'),
  ],
)
def test_whatever_is_typed(found, query):
  before = found('dog')
  for _, match in found(query):
    assert 0 < match.share <= 1
  assert found('dog') == before


def test_the_order_and_the_moment(folder):
  """A film that pictures rank low comes up, at the second at which it is said; without such words nothing changes."""
  gallery = Gallery.open(folder.path)
  vectors = {name: np.eye(1, size, dtype=np.float32) for name, size in SCORERS.items()}
  ask = lambda text, **more: gallery.search_vectors(vectors, asked=[Query(text)], top=9, **more)[0]  # noqa: E731
  (plain,) = gallery.search_vectors(vectors, top=9)
  same = ask('nothing of it is said')
  assert [(h.video_id, h.score, h.moments, h.said) for h in same.hits] == [
    (h.video_id, h.score, h.moments, ()) for h in plain.hits
  ]
  last = plain.hits[-1].video_id
  start, end, words = next((cue for cue in SAID[last]), (None, None, None))
  if start is None:
    last = plain.hits[-2].video_id
    start, end, words = SAID[last][0]
  found = ask(words, moments=3, text_weight=2.0)
  (hit, *_) = found.hits
  assert hit.video_id == last and hit.found_by == 'said' and hit.said[0].text == words
  assert (hit.moments[0].start, hit.moments[0].end) == (start, end) and start <= hit.moments[0].peak <= end
  assert all(m.end <= start or m.start >= end for m in hit.moments[1:])
  assert {h.video_id: round(h.score, 6) for h in found.hits} == {h.video_id: round(h.score, 6) for h in plain.hits}
  others = [h.video_id for h in found.hits if not h.said]
  assert others == [h.video_id for h in plain.hits if h.video_id in others] and len(others) > 3
  content = hit.to_json()
  assert content['start'] == start and content['found_by'] == 'said' and content['said'][0]['marks']
  assert [h.video_id for h in ask(words, text_weight=0.0).hits] == [h.video_id for h in plain.hits]
  only, *_ = ask(words, threshold=9.0).hits
  assert only.video_id == last, 'what is said counts without a score'
  pages = [ask(words, offset=at).hits for at in range(len(SAID))]
  assert [page[0].video_id for page in pages] == [h.video_id for h in ask(words).hits]


def test_fusion_by_hand():
  scores = np.array([0.9, 0.8, -np.inf, 0.7, 0.8], np.float32)
  allowed = np.array([True, True, True, False, True])
  by = ranked(scores, allowed, None, [Match(2, 1.0, ()), Match(4, 0.5, ())], 0.8)
  k = ranking._FUSION
  expected = [1 / (k + 1), 1 / (k + 2), 0.8 / (k + 1), 0, 1 / (k + 2) + 0.8 * 0.5**4 / (k + 2)]
  np.testing.assert_allclose([by.values[n] for n in (0, 1, 2, 4)], [expected[n] for n in (0, 1, 2, 4)])
  assert by.places.tolist() == [0, 1, 2, 4] and by.by_texts == {2}
  assert ranked(scores, allowed, 0.85, [Match(2, 1.0, ())], 1.0).places.tolist() == [0, 2]


def test_a_film_is_read(tmp_path):
  (tmp_path / 'x.mp4').write_bytes(b'no film')
  (tmp_path / 'x.de.srt').write_text('1\n00:00:01,000 --> 00:00:02,000\nein Bär\n', encoding='utf-8')
  entry, cues = read(Entry('a/x.mp4', 'x', str(tmp_path / 'x.mp4')))
  assert cues == [Cue('a/x.mp4', 1.0, 2.0, 'ein Bär', 'de')] and len(entry.said) == 49
  assert read(Entry('a', 'a', str(tmp_path / 'absent.mp4'))) == (Entry('a', 'a', str(tmp_path / 'absent.mp4')), [])
  assert texts.terms('Der_Bär, l\u2019été!') == ['der', 'bar', "l'ete"]
