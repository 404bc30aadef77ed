"""Subtitles: files as people have them, and tracks inside films."""

import os
import pathlib
from fractions import Fraction

import av
import pytest

from dlkd_jax.video import subtitles
from dlkd_jax.video.subtitles import Cue
from tests.video.films import render

SRT = """1
00:00:01,000 --> 00:00:02,500
A <i>dog</i> jumps
into the <font color="#ff0000">lake</font>

2
00:01:00,5 --> 01:00:01,25
Tom &amp; Jerry

"""


def test_subrip():
  first, second = subtitles.parse(SRT.encode(), 'en')
  assert first == Cue(1.0, 2.5, 'A dog jumps into the lake', 'en')
  assert (second.start, second.end, second.text) == (60.5, 180.5, 'Tom & Jerry')  # No cue lasts for an hour.
  for ending in ('\r\n', '\r'):
    assert subtitles.parse(SRT.replace('\n', ending).encode(), 'en') == [first, second]


def test_webvtt():
  text = (
    'WEBVTT - a title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE\n00:01 --> is no cue\n\n'
    'intro\n00:01.000 --> 00:02.000 align:start position:10%\n<v Anna>Hallo, <00:01.500><c.loud>Welt</c>!\n\n'
    '01:02:03.004 --> 01:02:04.000\n\u200bzwei\n'
  )
  assert subtitles.parse(text.encode()) == [Cue(1.0, 2.0, 'Hallo, Welt!'), Cue(3723.004, 3724.0, 'zwei')]


@pytest.mark.parametrize(
  ('encoding', 'text'),
  [
    ('utf-8', 'Der Bär läuft über die Straße'),
    ('utf-8-sig', 'Der Bär läuft über die Straße'),
    ('utf-16', '一只狗跳进湖里'),
    ('cp1252', 'Schöne Grüße aus München, der Bär läuft über die Straße'),
    ('gb18030', '一只狗跳进湖里。孩子们在岸边笑'),
    ('cp1256', 'كلب يقفز في البحيرة والأطفال يضحكون'),
  ],
)
def test_encodings(encoding, text):
  content = f'1\n00:00:01,000 --> 00:00:02,000\n{text}\n'.encode(encoding)
  assert [cue.text for cue in subtitles.parse(content)] == [text]


@pytest.mark.parametrize(
  ('content', 'expected'),
  [
    (b'', []),
    (b'\xff\xfe\x00', []),
    (bytes(range(256)) * 20, []),
    (b'00:00:03,000 --> 00:00:01,000\nback\n', []),
    (b'00:00:0x --> 00:00:01\nno time\n', []),
    (b'99999999:00:00,000 --> 00:00:01,000\nno time\n', []),
    (b'00:00:01,000 --> 00:00:02,000\n\n\n', []),
    (b'00:00:01,000 --> 00:00:02,000\n<b></b>{\\an8}\n', []),
    (b'00:00:01,000-->00:00:02,000\nclose\n2\n00:00:03,000 --> 00:00:04,000\nnext', ['close', 'next']),
    (b'00:00:01,000 --> 00:00:02,000\none\n\n   still one\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo', None),
    (b'00:00:01,000 --> 00:00:02,000\n<script>alert(1)</script> & {y:i}x\n', ['alert(1) & x']),
    ('00:00:01,000 --> 00:00:02,000\na\u2028b\x00c\u202e'.encode(), ['a b c\u202e']),
    (b'00:00:01,000 --> 00:00:02,000\n' + b'x' * 100_000, ['x' * 2000]),
  ],
  ids=range(13),
)
def test_what_is_broken_is_left_out(content, expected):
  found = [cue.text for cue in subtitles.parse(content)]
  assert found == (['one still one', 'two'] if expected is None else expected)


def test_what_lies_beside_a_film(tmp_path):
  film = tmp_path / 'lake.mp4'
  assert subtitles.digest(film) == '' and subtitles.cues(film) == []
  for name in (
    'lake.srt',
    'lake.en.srt',
    'lake.pt-BR.vtt',
    'lake2.srt',
    'lake.de.txt',
    'lake at noon.srt',
    'lake.1999 film.srt',
  ):
    (tmp_path / name).write_text(f'1\n00:00:01,000 --> 00:00:02,000\nin {name}\n', encoding='utf-8')
  assert [(path.name, track) for path, track in subtitles.beside(film)] == [
    ('lake.en.srt', 'en'),
    ('lake.pt-BR.vtt', 'pt-BR'),
    ('lake.srt', ''),
  ]
  assert {cue.track for cue in subtitles.cues(film)} == {'', 'en', 'pt-BR'}
  before = subtitles.digest(film)
  assert len(before) == 32 + 1 + 16 and subtitles.digest(film) == before
  (tmp_path / 'lake.en.srt').write_text('1\n00:00:01,000 --> 00:00:02,000\nother\n')
  changed = subtitles.digest(film)
  (tmp_path / 'lake.en.srt').rename(tmp_path / 'lake.de.srt')
  assert len({before, changed, subtitles.digest(film)}) == 3
  (tmp_path / 'lake.srt').unlink()
  (tmp_path / 'lake.srt').mkdir()
  assert {cue.track for cue in subtitles.cues(film)} == {'de', 'pt-BR'}


_HEAD = (
  b'[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, '
  b'SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, '
  b'BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\nStyle: Default,Arial,16,&Hffffff,'
  b'&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n\n[Events]\nFormat: Layer, Start, End, Style, Name, '
  b'MarginL, MarginR, MarginV, Effect, Text\n'
)


def embed(source: pathlib.Path, path: pathlib.Path, codec: str, cues, language='de', later=0.0):
  """Copies the pictures of a film, all so many seconds later, and writes (start, end, text) as a track beside them."""
  with av.open(str(source)) as given, av.open(str(path), 'w') as container:
    pictures = container.add_stream_from_template(given.streams.video[0])
    track = container.add_stream(codec)
    track.time_base = Fraction(1, 1000)
    track.codec_context.subtitle_header = _HEAD
    track.metadata['language'] = language
    for packet in given.demux(given.streams.video[0]):
      if packet.dts is not None:
        shift = round(later / packet.time_base)
        packet.stream, packet.pts, packet.dts = pictures, packet.pts + shift, packet.dts + shift
        container.mux(packet)
    for start, end, text in cues:
      data = text.encode()
      data = len(data).to_bytes(2, 'big') + data if codec == 'mov_text' else data
      data = b'0,0,Default,,0,0,0,,' + data if codec == 'ass' else data
      packet = av.Packet(data)
      packet.stream, packet.time_base = track, Fraction(1, 1000)
      packet.pts = packet.dts = round(start * 1000)
      packet.duration = round((end - start) * 1000)
      container.mux(packet)
  return path


@pytest.mark.parametrize(('codec', 'suffix'), [('mov_text', '.mp4'), ('subrip', '.mkv'), ('ass', '.mkv')])
def test_tracks_inside(tmp_path, codec, suffix):
  """On the clock that a player shows: a picture stream that begins later does not move what is said."""
  film = render(tmp_path / f'film{suffix}', [Fraction(n, 5) for n in range(20)])
  for later in (0.0, 1.0):
    path = embed(
      film, tmp_path / f'{later}{suffix}', codec, [(1.5, 2.5, 'Ein Bär läuft'), (3.0, 3.5, '狗')], later=later
    )
    found = subtitles.cues(path)
    assert [(cue.start, cue.end, cue.text) for cue in found] == [(1.5, 2.5, 'Ein Bär läuft'), (3.0, 3.5, '狗')]
    assert {cue.track for cue in found} <= {'de', 'deu', 'ger', ''}


def test_a_file_that_is_no_film_says_nothing(tmp_path):
  (tmp_path / 'x.mp4').write_bytes(b'no film')
  assert subtitles.cues(tmp_path / 'x.mp4') == []


def test_as_webvtt():
  cues = [Cue(1.0, 2.5, 'a <b> & --> c'), Cue(3723.004, 3724.0, 'zwei')]
  text = subtitles.as_webvtt(cues)
  assert text == (
    'WEBVTT\n\n00:00:01.000 --> 00:00:02.500\na &lt;b&gt; &amp; → c\n\n01:02:03.004 --> 01:02:04.000\nzwei\n'
  )
  assert [cue.start for cue in subtitles.parse(text.encode())] == [1.0, 3723.004]


def test_only_what_changed_is_read(tmp_path, monkeypatch):
  film, beside = tmp_path / 'lake.mp4', tmp_path / 'lake.srt'
  beside.write_text('1\n00:00:01,000 --> 00:00:02,000\nA dog\n')
  os.utime(beside, (1, 1))
  before, read = subtitles.digest(film), []
  bytes_of = subtitles._bytes
  monkeypatch.setattr(subtitles, '_bytes', lambda path: read.append(path) or bytes_of(path))
  assert subtitles.digest(film, before=before) == before and not read
  old = before.partition(':')[0]  # As indexes had it before the second hash.
  assert subtitles.digest(film, before=old) == old and read
  os.utime(beside, (2, 2))
  touched = subtitles.digest(film, before=before)
  assert touched != before and touched.partition(':')[0] == old
  beside.write_text('1\n00:00:01,000 --> 00:00:02,000\nA cat\n')
  assert subtitles.digest(film, before=old).partition(':')[0] not in ('', old)
  beside.unlink()
  assert subtitles.digest(film, before=touched) == ''
