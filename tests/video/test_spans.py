"""Pictures around each sample time: against the frames that are shown then, in one pass and in constant memory."""

from __future__ import annotations

import weakref
from fractions import Fraction

import pytest

from dlkd_jax.video import decoding, frames, spans
from dlkd_jax.video.spans import SINGLE, Span, View
from tests.video import films

read = View(SINGLE, films.read)
# Constant and ever slower, a gap, and a film that begins late.
TIMES = {
  'steady.mp4': films.steady(60),
  'slower.mkv': [Fraction(n * n, 100) for n in range(20)],
  'gap.mp4': [*films.steady(20, 10), *(time + 40 for time in films.steady(20, 10))],
  'late.webm': [time + Fraction(7, 10) for time in films.steady(40, 30)],
}


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
  folder = tmp_path_factory.mktemp('films')
  for name, times in TIMES.items():
    films.render(folder / name, [Fraction(round(time * 1000), 1000) for time in times])
  return folder


def _shown(numbers, time):
  """The number of the frame that is shown at a time: the latest one that does not begin after it."""
  before = [number for begin, number in numbers if begin <= time]
  return before[-1] if before else numbers[0][1]


@pytest.mark.parametrize('name', list(TIMES))
@pytest.mark.parametrize(('pictures', 'rate'), [(16, 25), (5, 7), (4, 50), (2, 1)])
def test_pictures_are_those_shown_around_the_time(name, pictures, rate, rendered):
  path, span = rendered / name, Span(pictures, rate)
  decoded = [(each.time, each.tick, each.start, each.frame) for each in frames.decoded_frames(path)]
  numbers = [(time - tick / 2, films.read(frame.to_ndarray(format='rgb24'))) for time, tick, _, frame in decoded]
  singles = list(decoding.sample_frames(path, 3))
  samples = list(decoding.sample_views(path, 3, (View(span, films.read), read)))
  # The times, and a single picture, are those of a backbone of single pictures.
  assert [time for time, _ in samples] == [single.time for single in singles]
  assert [seen[1] for _, seen in samples] == [[films.read(single.image)] for single in singles]
  start = decoded[0][2]
  for time, (around, single) in samples:
    row = round((Fraction(time) - start) * 3)
    exact = start + Fraction(row, 3)
    assert around == [_shown(numbers, exact + offset) for offset in span.offsets()]
    assert around[pictures // 2] == single[0]


def test_the_middle_picture_is_at_the_time():
  assert SINGLE.offsets() == (0,)
  assert Span(4, 2).offsets() == (-1, Fraction(-1, 2), 0, Fraction(1, 2))
  assert Span(3, 25).offsets() == (Fraction(-1, 25), 0, Fraction(1, 25))
  for wrong in (Span(0, 1), Span(2, 0), Span(2, float('nan'))):
    with pytest.raises(ValueError, match='expected numbers above 0'):
      wrong.offsets()


def test_a_film_is_read_once_and_little_of_it_is_kept(tmp_path, monkeypatch):
  path = films.render(tmp_path / 'a.mp4', films.steady(250))
  opened, real = [], decoding.decoded_frames
  monkeypatch.setattr(decoding, 'decoded_frames', lambda *more: opened.append(more) or real(*more))
  kept: weakref.WeakSet = weakref.WeakSet()

  class Picture:
    """What weak references can be made to."""

  def prepare(image):
    picture = Picture()
    kept.add(picture)
    return picture

  most, prepared = 0, 0
  for _, seen in decoding.sample_views(path, 2, (View(Span(8, 25), prepare), View(SINGLE, prepare))):
    assert [len(each) for each in seen] == [8, 1]
    del seen
    most, prepared = max(most, len(kept)), prepared + 1
  assert len(opened) == 1 and prepared == 20
  assert most <= 2 * 8 + 2


def test_a_film_without_a_sample_time_gives_its_last_frame(tmp_path, monkeypatch):
  path = films.render(tmp_path / 'a.mp4', [time + Fraction(1, 4) for time in films.steady(5)])
  real = decoding.decoded_frames  # As where the first frames are broken.
  monkeypatch.setattr(
    decoding, 'decoded_frames', lambda *more: (each._replace(start=Fraction(0)) for each in real(*more))
  )
  assert [(each.time, films.read(each.image)) for each in decoding.sample_frames(path, 1)] == [(0.41, 4)]
  assert list(decoding.sample_views(path, 1, (View(Span(3, 25), films.read), read))) == [(0.41, [[4, 4, 4], [4]])]


def test_only_needed_frames_are_prepared(tmp_path):
  path = films.render(tmp_path / 'a.mp4', films.steady(100))
  seen = []
  list(decoding.sample_views(path, 1, (View(Span(3, 25), lambda image: seen.append(films.read(image))),)))
  assert seen == [0, 1, 24, 25, 26, 49, 50, 51, 74, 75, 76, 99]
  assert spans.all_offsets((View(Span(2, 4), None), View(Span(3, 1), None))) == (-1, Fraction(-1, 4), 0, 1)
