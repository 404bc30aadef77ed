"""Results as files: read again by the programs that they are for."""

import csv
import io
from fractions import Fraction

import numpy as np
import pytest

from dlkd_jax.gallery import result_files
from dlkd_jax.gallery.results import Hit, Moment, SearchResult
from tests.video import films

ODD = 'a "dog",\n=runs\x0b'


def hit(name, *moments, title=None, path='films/{}', duration=60.0):
  found = tuple(Moment(start, end, (start + end) / 2, 0.8 - 0.1 * n) for n, (start, end) in enumerate(moments))
  times = np.arange(3.0)
  return Hit(name, 0.8, {'teacher': 0.8}, found, times, times, title or name, path and path.format(name), duration)


def result(*hits, query='a dog'):
  return SearchResult(query, hits, len(hits), 0.1)


def test_csv_is_read_as_it_was_written():
  text = result_files.to_csv(
    [result(hit('lake.mp4', (1.0, 2.5), (7.25, 9.0), title='At "the lake"'), query=ODD), result(query='nothing')], 10
  )
  header, *rows = csv.reader(io.StringIO(text, newline=''))
  assert tuple(header) == result_files.COLUMNS and len(rows) == 2
  first = dict(zip(header, rows[0], strict=True))
  assert first['query'] == ODD and first['title'] == 'At "the lake"' and first['rank'] == '11'
  assert [(row[4], row[5], row[6]) for row in rows] == [('1', '1.000', '2.500'), ('2', '7.250', '9.000')]
  assert text.endswith('\r\n')


@pytest.mark.parametrize('evil', ['=cmd|"/C calc"!A0', '+1+1', '-2+3', '@SUM(A1)', '\t=1', '\r=1'])
def test_no_spreadsheet_takes_a_text_for_a_formula(evil):
  text = result_files.to_csv([result(hit(evil, (0, 1), title=evil), query=evil)])
  (row,) = list(csv.reader(io.StringIO(text, newline='')))[1:]
  assert [row[0], row[2], row[3]] == [f"'{evil}"] * 3
  assert float(row[8]) > 0  # Numbers are numbers.


def test_names_that_are_no_text():
  name = 'caf\udce9.mp4'
  assert r'caf\udce9.mp4' in result_files.to_csv([result(hit(name, (0, 1)))])
  assert r'caf\udce9.mp4' in result_files.to_edl([result(hit(name, (0, 1)))], lambda one: None)


@pytest.mark.parametrize('rate', [Fraction(25), Fraction(24000, 1001), Fraction(30000, 1001), Fraction(50)])
def test_an_editor_reads_the_cuts(rate):
  """OpenTimelineIO, of the editors' own foundation, finds each film, its cut to the frame, and the marker."""
  otio = pytest.importorskip('opentimelineio')
  pytest.importorskip('otio_cmx3600_adapter')
  hits = hit('lake.mp4', (1.0, 2.5), (3601.24, 3605.0)), hit(f'a {ODD}.mov', (0.0, 0.001))
  text = result_files.to_edl([result(*hits, query=f'a dog {ODD}')], lambda one: rate)
  shown = round(float(rate))
  timeline = otio.adapters.read_from_string(text, 'cmx_3600', rate=shown)
  assert timeline.name.startswith('a dog a "dog", =runs')
  clips = list(timeline.video_tracks()[0].find_clips())
  cuts = [(1.0, 2.5), (3601.24, 3605.0), (0.0, 0.001)]
  assert [clip.name for clip in clips] == ['lake.mp4', 'lake.mp4', 'a a "dog", =runs .mov']
  at = 0
  for clip, (start, end) in zip(clips, cuts, strict=True):
    first, last = round(start * rate), max(round(end * rate), round(start * rate) + 1)
    assert (clip.source_range.start_time.value, clip.source_range.duration.value) == (first, last - first)
    (marker,) = clip.markers
    assert marker.color == 'RED' and 'a dog' in marker.name
    assert marker.marked_range.start_time.value == at
    at += last - first


def test_another_reader_of_edl_finds_the_same():
  pycmx = pytest.importorskip('pycmx')
  hits = hit('lake.mp4', (1.0, 2.48)), hit('sea.mp4', (4.0, 5.0))
  edl = pycmx.parse_cmx3600(io.StringIO(result_files.to_edl([result(*hits)], lambda one: Fraction(25))))
  (first, second) = [event.edits[0] for event in edl.events]
  times = first.source_in, first.source_out, first.record_in, first.record_out
  assert times == ('00:00:01:00', '00:00:02:12', '00:00:00:00', '00:00:01:12')
  assert second.record_in == first.record_out and second.clip_name == 'sea.mp4'


def test_without_a_rate_it_is_counted_by_the_usual_one():
  text = result_files.to_edl([result(hit('a.mp4', (1.0, 2.0)), hit('b.mp4', (1.0, 2.0)))], {'b.mp4': None}.get)
  assert '00:00:01:00 00:00:02:00 00:00:00:00 00:00:01:00' in text and text.isascii()
  assert all(len(line) < 160 for line in text.splitlines())


def test_rate_of_a_film(tmp_path):
  path = films.render(tmp_path / 'film.avi', [Fraction(n, 25) for n in range(10)], base=Fraction(1, 25))
  assert result_files.rate(str(path)) == 25
  (tmp_path / 'none.avi').write_text('nothing')
  assert result_files.rate(str(tmp_path / 'none.avi')) is None is result_files.rate(None)


def test_an_edl_is_to_the_letter_what_cmx_3600_has():
  text = result_files.to_edl([result(hit('lake.mp4', (1.0, 2.48), (3661.0, 3662.0)))], lambda one: Fraction(25))
  assert text == (
    'TITLE: a dog\nFCM: NON-DROP FRAME\n\n'
    '001  AX       AA/V  C        00:00:01:00 00:00:02:12 00:00:00:00 00:00:01:12\n'
    '* FROM CLIP NAME: lake.mp4\n* LOC: 00:00:00:00 RED     a dog (0.800)\n\n'
    '002  AX       AA/V  C        01:01:01:00 01:01:02:00 00:00:01:12 00:00:02:12\n'
    '* FROM CLIP NAME: lake.mp4\n* LOC: 00:00:01:12 RED     a dog (0.700)\n'
  )
