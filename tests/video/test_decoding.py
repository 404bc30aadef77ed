"""Tests of decoding and sampling: the right frame at the right time, and every kind of broken file reported."""

import gc
import itertools
import json
import math
import os
from fractions import Fraction

import av
import psutil
import pytest

from dlkd_jax.video import decoding, files
from dlkd_jax.video.clock import Clock
from tests.paths import shared
from tests.video import films


def _numbers(path, rate, **options):
  return [(sample.time, films.read(sample.image)) for sample in decoding.sample_frames(path, rate, **options)]


def _until_damage(path, rate):
  found = []
  with pytest.raises(decoding.DamagedVideoError) as caught:
    for sample in decoding.sample_frames(path, rate):
      found.append((sample.time, sample.shown, films.read(sample.image)))
  assert caught.value.path == str(path)
  return found, caught.value.reason


def _shown(times, end, rate):
  """The rule, written as a plain search: (k / rate, number of the last frame at or before it), up to the end."""
  samples = []
  for k in itertools.count():
    time = k / Fraction(rate).limit_denominator(10**6)
    if time >= end:
      return samples
    samples.append((float(time), max(n for n, t in enumerate(times) if t <= time)))


@pytest.mark.parametrize('rate', [1, 3, 5, 12.5, 25, 30, 60])
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.avi', '.ts'])
def test_steady_rate(tmp_path_factory, suffix, rate):
  folder = tmp_path_factory.getbasetemp() / 'steady'
  folder.mkdir(exist_ok=True)
  path = folder / f'a{suffix}'
  if not path.exists():
    films.render(path, films.steady(50), base=Fraction(1, 25 if suffix == '.avi' else 1000))
  assert _numbers(path, rate) == _shown(films.steady(50), 2, rate)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
def test_variable_frame_rate(tmp_path, suffix):
  gaps = [40, 40, 500, 10, 10, 10, 1200, 33, 34, 33, 700, 5, 5, 90, 400, 40]
  times = [Fraction(t, 1000) for t in itertools.accumulate(gaps[:-1], initial=0)]
  path = films.render(tmp_path / f'v{suffix}', times, keyframes=5)
  for rate in (1, 4, 10, 90):
    found = _numbers(path, rate)
    last = float(times[-1])
    expected = _shown(times, 100, rate)
    assert [s for s in found if s[0] <= last] == [s for s in expected if s[0] <= last]
    assert all(number == len(times) - 1 for time, number in found if time > last)
  decoded = [frame.time for frame in decoding.decoded_frames(path)]
  assert decoded == times


def test_rounded_milliseconds_count_as_equal(tmp_path):
  times = [Fraction(round(n * 1000 / 3), 1000) for n in range(12)]  # 0, 0.333, 0.667, … : one sample, one frame.
  path = films.render(tmp_path / 'a.mkv', times)
  assert [number for _, number in _numbers(path, 3)][:12] == list(range(12))


def test_times_count_from_the_start_of_the_stream(tmp_path):
  path = films.render(tmp_path / 'late.ts', [7 + t for t in films.steady(25)])
  assert _numbers(path, 5) == _shown(films.steady(25), 1, 5)


def test_one_frame_gives_one_sample(tmp_path):
  path = films.render(tmp_path / 'a.mp4', [Fraction(0)])
  assert _numbers(path, 0.01) == [(0.0, 0)]
  assert _numbers(path, 2) == [(0.0, 0)]


def test_samples_of_one_frame_share_its_picture(tmp_path):
  path = films.render(tmp_path / 'a.mp4', [Fraction(0), Fraction(1)])
  first, second, *_ = decoding.sample_frames(path, 10)
  assert first.image is second.image and (second.time, second.shown) == (0.1, 0)


def test_sound_beside_the_picture_changes_nothing(tmp_path):
  path = films.render(tmp_path / 'a.webm', films.steady(25), sound=3)  # The file declares 3 s.
  assert _numbers(path, 5) == _shown(films.steady(25), 1, 5)


@pytest.mark.parametrize('rate', [0, -1, float('nan'), float('inf')])
def test_bad_arguments_are_refused_at_once(rate):
  with pytest.raises(ValueError, match='rate is'):
    decoding.sample_frames('unopened.mp4', rate)
  with pytest.raises(ValueError, match='max_side is 0'):
    decoding.sample_frames('unopened.mp4', 1, max_side=0)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.avi'])
def test_a_truncated_file_gives_what_is_whole_and_says_so(tmp_path, suffix):
  base = Fraction(1, 25 if suffix == '.avi' else 1000)
  whole = films.render(tmp_path / f'whole{suffix}', films.steady(100), base=base, keyframes=10)
  found, reason = _until_damage(films.cut(whole, 0.7, tmp_path / f'cut{suffix}'), 25)
  assert 'is truncated' in reason
  assert 20 < len(found) < 100
  assert found == [(n / 25, n / 25, n) for n in range(len(found))]


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_a_file_broken_in_the_middle_is_right_around_it_and_says_so(tmp_path, suffix):
  whole = films.render(tmp_path / f'whole{suffix}', films.steady(100), keyframes=10)
  found, reason = _until_damage(films.spoil(whole, 0.5, 300, tmp_path / f'bad{suffix}'), 25)
  assert reason
  assert found and all(number == round(shown * 25) for _, shown, number in found)
  if suffix == '.mp4':  # Its index leads past the broken place.
    assert found[-1] == (3.96, 3.96, 99)


def test_a_broken_beginning_leaves_the_times_right(tmp_path):
  whole = films.render(tmp_path / 'whole.mp4', films.steady(50), keyframes=10)
  with av.open(str(whole)) as container:
    first = next(container.demux(video=0))
    share = (first.pos + 20) / whole.stat().st_size
  found, _ = _until_damage(films.spoil(whole, share, first.size - 40, tmp_path / 'bad.mp4'), 25)
  assert found[0][0] > 0 and all(time == shown == number / 25 for time, shown, number in found)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.avi', '.ts'])
def test_no_frames(tmp_path, suffix):
  path = films.no_frames(tmp_path / f'none{suffix}')
  for read in (decoding.probe, lambda p: list(decoding.sample_frames(p, 1))):
    with pytest.raises(decoding.VideoError, match=r'none\.') as caught:
      read(path)
    assert not isinstance(caught.value, decoding.DamagedVideoError)


def test_no_whole_frame(tmp_path):
  whole = films.render(tmp_path / 'whole.mp4', films.steady(50))
  with av.open(str(whole)) as container:
    first = next(container.demux(video=0)).pos
  size = whole.stat().st_size
  path = films.spoil(whole, first / size, size - first, tmp_path / 'noise.mp4')
  with pytest.raises(decoding.VideoError, match=r'noise\.mp4: has no whole frame \(') as caught:
    list(decoding.sample_frames(path, 1))
  assert not isinstance(caught.value, decoding.DamagedVideoError)


def test_probe(tmp_path):
  info = decoding.probe(films.render(tmp_path / 'a.mp4', films.steady(50), rotation=90, aspect=Fraction(3, 2)))
  assert info == decoding.VideoInfo(2.0, 96, 192, 270, 25.0, 'h264', 'mov,mp4,m4a,3gp,3g2,mj2')
  assert decoding.probe(films.render(tmp_path / 'a.webm', films.steady(50))).duration == 2


def test_probe_measures_what_is_not_declared(tmp_path):
  path = tmp_path / 'live.webm'  # As a browser records it: written in one go, without a length.
  with path.open('wb') as file, av.open(_Pipe(file), 'w', format='webm') as container:
    films.numbered(container, 30, 'libvpx')
  with av.open(str(path)) as container:
    assert container.duration is None
  assert decoding.probe(path).duration == pytest.approx(1.2, abs=0.05)
  assert _numbers(path, 5) == _shown(films.steady(30), Fraction(6, 5), 5)


class _Pipe:
  """A file that can be written on only, like a pipe."""

  def __init__(self, file):
    self.write = file.write


def test_frames_are_let_go_at_once_and_not_at_a_garbage_collection(tmp_path):
  path = films.render(tmp_path / 'a.mp4', films.steady(100), rotation=90)
  gc.collect()
  gc.disable()
  try:
    samples = list(decoding.sample_frames(path, 25))
    held = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
  finally:
    gc.enable()
  assert len(samples) == 100 and held < 5


def test_stopping_early_closes_the_file(tmp_path):
  path = films.render(tmp_path / 'a.mp4', films.steady(50))
  samples = decoding.sample_frames(path, 5)
  next(samples)
  samples.close()
  assert not [f for f in psutil.Process(os.getpid()).open_files() if f.path == str(path)]


def test_real_clips():
  folder = shared('videos', 'msrvtt')
  names = {json.loads(line)['video'] for line in (folder / 'captions.jsonl').read_text(encoding='utf-8').splitlines()}
  clips = sorted(folder.glob('*.mp4'))
  assert len(clips) == 150 and {clip.stem for clip in clips} == {name.removesuffix('.mp4') for name in names}
  for clip in clips:
    with av.open(str(clip)) as container:
      packets = [p for p in container.demux(video=0) if p.size]
    stamps = sorted(p.pts * p.time_base for p in packets)
    samples = list(decoding.sample_frames(clip, 2, max_side=64))
    end = stamps[-1] + packets[-1].duration * packets[-1].time_base
    expected = [max(s for s in stamps if s <= stamps[0] + Fraction(k, 2)) for k in range(len(samples))]
    assert [s.shown for s in samples] == [float(s - stamps[0]) for s in expected], clip
    assert Fraction(len(samples) - 1, 2) < end - stamps[0] <= Fraction(len(samples), 2), clip


def test_probing_opens_a_film_once_and_need_not_read_it_through(tmp_path, monkeypatch):
  path = films.render(tmp_path / 'whole.webm', films.steady(250))
  content = path.read_bytes()
  assert content.count(b'\x44\x89\x88') == 1
  path.write_bytes(content.replace(b'\x44\x89\x88', b'\xec\x81\x00'))  # Its length becomes a filling.
  opened, packets = [], []
  monkeypatch.setattr(files, '_opened', lambda path, original=files._opened: opened.append(path) or original(path))
  put_right = Clock.put_right
  monkeypatch.setattr(Clock, 'put_right', lambda self, packet: packets.append(packet) or put_right(self, packet))
  assert math.isnan(decoding.probe(path, measure=False).duration)
  assert len(opened) == 1 and len(packets) < 50
  assert decoding.probe(path).duration == pytest.approx(10, abs=0.05) and len(opened) == 2


def test_probing_gives_up_where_no_frame_comes_for_long(tmp_path, monkeypatch):
  monkeypatch.setattr(decoding, '_PATIENCE', -1)
  path = films.render(tmp_path / 'a.mp4', films.steady(50))
  with pytest.raises(decoding.VideoError, match='takes too long to read'):
    decoding.probe(path, measure=False)
  assert decoding.probe(path).duration == 2
