"""Times are those of a player: pictures that begin late, clocks that jump ahead, start again or wrap around."""

import dataclasses
import itertools
from fractions import Fraction

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkd_jax.video import decoding
from dlkd_jax.video.clock import Clock
from dlkd_jax.video.picture_at import picture_at
from tests.video import films

BASES = {'.vob': Fraction(1, 25)}


def read(path, rate=5.0):
  """(time, number) of each sample, and the notes."""
  findings = decoding.Findings()
  samples = list(decoding.sample_frames(path, rate, findings=findings))
  assert samples[-1].time < findings.end <= samples[-1].time + 1 / rate + 0.01 or findings.notes
  return [(round(sample.time, 6), films.read(sample.image)) for sample in samples], findings.notes


def late(folder, suffix, picture, sound=0.0, shift=0):
  """Fifty frames from `picture` on beside sound from `sound` on, all of it `shift` later."""
  times = [shift + Fraction(picture) + time for time in films.steady(50)]
  return films.render(folder / f'late{suffix}', times, sound=6, sound_from=sound + shift)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.ts'])
def test_a_picture_that_begins_after_the_sound_has_the_times_at_which_it_is_seen(tmp_path, suffix):
  path = late(tmp_path, suffix, 3)
  found, notes = read(path)
  first = found[0][0]
  # MPEG-TS writes sound a little earlier than asked for, to fill its decoder.
  assert first == pytest.approx(3, abs=0.05 if suffix == '.ts' else 1e-9) and not notes
  assert found == [(pytest.approx(first + k / 5, abs=1e-5), 5 * k) for k in range(10)]
  info = decoding.probe(path)
  assert info.start == pytest.approx(first) and info.duration >= 5
  for time, number in found[::3]:
    assert films.read(picture_at(str(path), time, 200)) == number
  assert films.read(picture_at(str(path), 0.5, 200)) == 0  # Nothing is shown yet.


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.ts'])
def test_where_all_begins_late_browsers_show_the_files_own_times(tmp_path, suffix):
  """As measured in Chromium, which plays the first three; a player of MPEG-TS counts from the beginning of the file."""
  path = late(tmp_path, suffix, Fraction(1, 2), shift=100)
  found, _ = read(path)
  begins = 0.5 if suffix == '.ts' else 100.5
  assert found[0][0] == pytest.approx(begins, abs=0.05) and [number for _, number in found] == list(range(0, 50, 5))
  assert films.read(picture_at(str(path), found[4][0], 200)) == 20


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.ts'])
def test_sound_that_begins_later_changes_nothing(tmp_path, suffix):
  found, _ = read(late(tmp_path, suffix, 0, sound=2.0))
  assert found == [(k / 5, 5 * k) for k in range(10)]


def joined(folder, suffix, *frames):
  """Films of so many frames in one file, as `cat` joins them; each counts from 0."""
  parts = []
  for number, count in enumerate(frames):
    part = folder / f'part{number}{suffix}'
    parts.append(films.render(part, films.steady(count), base=BASES.get(suffix, Fraction(1, 1000))).read_bytes())
  path = folder / f'joined{suffix}'
  path.write_bytes(b''.join(parts))
  return path


@pytest.mark.parametrize('suffix', ['.ts', '.vob', '.mkv', '.webm'])
def test_a_clock_that_starts_again_goes_on(tmp_path, suffix):
  counts = (100, 75, 50) if suffix in ('.ts', '.vob') else (100, 75)
  path = joined(tmp_path, suffix, *counts)
  found, notes = read(path)
  numbers = [number for count in counts for number in range(0, count, 5)]
  assert [number for _, number in found] == numbers
  assert [time for time, _ in found] == [pytest.approx(k / 5) for k in range(len(numbers))]
  assert len(notes) == 1 and 'starts again' in notes[0]
  if suffix in ('.ts', '.vob'):
    assert [films.read(picture_at(str(path), time, 200)) for time, _ in found[::4]] == numbers[::4]


def test_what_the_demuxer_does_not_read_is_damage(tmp_path):
  path = joined(tmp_path, '.webm', 100, 75, 150)  # FFmpeg reads no third segment.
  with pytest.raises(decoding.DamagedVideoError, match='is read no further than'):
    read(path)


def jumping(folder, suffix, jumps, count=80):
  """`count` frames, 10 a second, and a jump of the clock at each frame that `jumps` names."""
  times, shift = [], Fraction(0)
  for number in range(count):
    shift += jumps.get(number, 0)
    times.append(Fraction(number, 10) + shift)
  return films.render(folder / f'jump{suffix}', times), times


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
@pytest.mark.parametrize('jumps', [{40: 30_000}, {1: 500}, {20: 100, 40: 3600, 60: 50}, {70: 7200}])
def test_a_gap_costs_few_samples_and_no_time_is_moved(tmp_path, suffix, jumps):
  path, times = jumping(tmp_path, suffix, jumps)
  found, notes = read(path, 1)
  assert len(found) <= 8 + len(jumps) * 12
  for time, number in found:
    assert number == max(n for n, start in enumerate(times) if start <= Fraction(time) + Fraction(1, 2000))
  assert {number for _, number in found} >= {0, *(n for n in range(80) if times[n].denominator == 1)}
  assert len(notes) == 1 and 'gap' in notes[0]
  assert f'{max(jumps.values())} s' in notes[0] or len(jumps) == 1


def test_the_last_second_of_a_gap_is_sampled_so_that_its_end_is_known(tmp_path):
  path, _ = jumping(tmp_path, '.mkv', {40: 100})
  times = [time for time, _ in read(path, 1)[0]]
  assert times == [0, 1, 2, *range(3, 14), 103, 104, 105, 106, 107]


def test_a_frame_that_is_held_for_a_while_is_no_gap(tmp_path):
  path, _ = jumping(tmp_path, '.mkv', {40: 9})
  found, notes = read(path, 1)
  assert [time for time, _ in found] == list(range(17)) and not notes
  assert [time for time, _ in read(path, 0.1)[0]] == [0, 10]


def test_mpeg_transport_streams_are_joined_over_a_jump(tmp_path):
  path, _ = jumping(tmp_path, '.ts', {40: 30_000})
  found, notes = read(path)
  assert [number for _, number in found] == list(range(0, 80, 2))
  assert [time for time, _ in found] == [pytest.approx(k / 5, abs=1e-4) for k in range(40)]
  assert len(notes) == 1
  assert films.read(picture_at(str(path), 6.0, 200)) == 60


@pytest.mark.parametrize('before', [1, 90])
def test_a_clock_of_33_bits_that_wraps_around_goes_on(tmp_path, before):
  start = Fraction(2**33, 90_000) - before
  times = [Fraction(round((start + time) * 90_000), 90_000) for time in films.steady(200, 2)]
  path = films.render(tmp_path / 'wraps.ts', times, base=Fraction(1, 90_000))
  found, _ = read(path, 2)
  assert found == [(pytest.approx(n / 2, abs=1e-3), n) for n in range(200)]
  assert films.read(picture_at(str(path), 95.0, 200)) == 190


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
@pytest.mark.parametrize('seconds', [7, 15, 40])
def test_pictures_that_are_held_for_long_and_come_in_another_order_are_no_break(tmp_path, suffix, seconds):
  """As of slides: an encoder puts later pictures before earlier ones, by more seconds than a clock ever jumps back."""
  path = films.render(tmp_path / f'slides{suffix}', [Fraction(seconds * n) for n in range(30)], keyframes=12)
  found, notes = read(path, 1)
  assert {number for _, number in found} == set(range(30))
  assert all(number == int(time + 1e-6) // seconds for time, number in found)
  assert not any('starts again' in note for note in notes)
  for time, number in found[:: len(found) // 10]:
    assert films.read(picture_at(str(path), time, 200)) == number


@pytest.mark.parametrize(('codec', 'between'), [('mpeg4', 0), ('mpeg4', 2), ('libx264', 0)])
def test_avi_begins_with_its_first_picture(tmp_path, codec, between):
  """AVI says when pictures are decoded, not when they are shown: with pictures in another order that is later."""
  path = tmp_path / 'film.avi'
  with av.open(str(path), 'w') as container:
    films.numbered(container, 100, codec, keyframes=12, bf=str(between))
  found, notes = read(path)
  assert found == [(k / 5, 5 * k) for k in range(20)] and not notes
  assert decoding.probe(path).start == 0
  assert [films.read(picture_at(str(path), time, 200)) for time, _ in found] == [number for _, number in found]


@dataclasses.dataclass
class Packet:
  pts: int | None
  dts: int | None
  duration: int = 40
  is_keyframe: bool = True


def put_right(stamps, joins=False, lag=0):
  clock, packets = Clock(Fraction(1, 1000), joins, Fraction(1, 25)), [Packet(s + lag, s) for s in stamps]
  breaks = [clock.put_right(packet) for packet in packets]
  assert all(packet.pts - packet.dts == lag for packet in packets)
  return [packet.dts for packet in packets], sum(breaks)


def test_little_steps_back_are_no_break():
  stamps = [0, 40, 80, 60, 120, 160, 100, 200]
  assert put_right(stamps) == (stamps, 0)


def test_a_stretch_with_wrong_stamps_moves_nothing_behind_it():
  right = list(range(0, 20_000, 40))
  wrong = [stamp - 7000 if 10_000 <= stamp < 11_000 else stamp for stamp in right]
  assert put_right(wrong)[0] == right


def test_packets_without_stamps_are_left_alone():
  clock = Clock(Fraction(1, 1000), True, Fraction(1, 25))
  packet = Packet(None, None)
  assert not clock.put_right(packet) and (packet.pts, packet.dts) == (None, None)


@settings(max_examples=300, deadline=None)
@given(
  parts=st.lists(st.tuples(st.integers(0, 10**9), st.integers(40, 300)), min_size=1, max_size=6),
  lag=st.integers(0, 200),
)
def test_parts_from_any_time_on_follow_each_other(parts, lag):
  """In formats that are joined; the times of each part are even, so that the whole is."""
  stamps = [start + 40 * n for start, count in parts for n in range(count)]
  found, breaks = put_right(stamps, joins=True, lag=lag)
  assert breaks < len(parts)
  steps = [later - earlier for earlier, later in itertools.pairwise(found)]
  assert all(-1000 <= step <= 10_040 for step in steps)
  borders, place = [], 0
  for _, count in parts:
    place += count
    borders.append(place - 1)
  assert all(step == 40 for number, step in enumerate(steps) if number not in borders)
