"""Tests of reading frames: leaving out what no sample needs changes no sample."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest

from dlkd_jax.video import decoding, frames, pictures
from tests.video import films


def _sampled_from_all(path, rate):
  """What the rule asks for, from every frame of the video."""
  convert = pictures.Converter()
  decoded = [(f.time, f.time + f.duration, convert(f.frame)) for f in frames.decoded_frames(path)]
  found = []
  while (time := Fraction(len(found)) / rate) < decoded[-1][1] - Fraction(1, 2000):
    found.append([image for start, _, image in decoded if start <= time + Fraction(1, 2000)][-1])
  return found


@pytest.mark.parametrize('threads', [1, 4])
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.ts'])
def test_samples_are_those_of_a_full_reading(tmp_path, suffix, threads):
  rng = np.random.default_rng(0)
  gaps = rng.choice([1, 15, 33, 40, 41, 250, 900], size=120, p=[0.1, 0.1, 0.2, 0.4, 0.1, 0.08, 0.02])
  times = [Fraction(int(t), 1000) for t in (np.cumsum(gaps) - gaps[0])]
  path = films.render(tmp_path / f'a{suffix}', times, keyframes=30)
  for rate in (Fraction(1, 2), Fraction(1), Fraction(7, 3), Fraction(20)):
    expected = _sampled_from_all(path, rate)
    found = list(decoding.sample_frames(path, float(rate), threads=threads))
    assert len(found) == len(expected)
    assert all((sample.image == image).all() for sample, image in zip(found, expected, strict=True))


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.ts'])
def test_frames_that_no_sample_needs_are_not_decoded(tmp_path, monkeypatch, suffix):
  path = films.render(tmp_path / f'a{suffix}', films.steady(100), keyframes=50)
  everything = _decoded_by(monkeypatch, lambda: list(frames.decoded_frames(path)))
  assert [time - everything[0] for time in everything] == films.steady(100)
  some = _decoded_by(monkeypatch, lambda: list(decoding.sample_frames(path, 1, threads=1)))
  assert set(some) < set(everything) and len(some) < 80
  first = everything[0]
  assert {first, first + 1, first + 2, first + 3, everything[-1]} <= set(some)


def _decoded_by(monkeypatch, run):
  """The times of the frames that come out of the decoder while `run` runs."""
  times = []

  def counted(video, found, *rest):
    times.extend(frame.pts * video.tick for frame in found)
    return whole(video, found, *rest)

  with monkeypatch.context() as patch:
    whole = frames._whole
    patch.setattr(frames, '_whole', counted)
    run()
  return sorted(times)


@dataclasses.dataclass
class _Packet:
  pts: int | None
  dts: int | None


class _Video:
  tick, start = Fraction(1, 10), Fraction(5)


def test_packets_are_needed_if_a_sample_time_falls_to_their_frame():
  shown = [50, 53, 51, 52, 58, 54, 56, 70, 60, None, 80]  # Decoding order, from 5 s on, and one that does not say.
  packets = [_Packet(pts, None if pts is None else 47 + n) for n, pts in enumerate(shown)]
  found = list(frames._needed(_Video, iter(packets), Fraction(1, 2), (Fraction(0),)))
  assert [packet for packet, _ in found] == packets
  needed = {packet.pts for packet, need in found if need}
  order = sorted(pts for pts in shown if pts is not None)
  for pts, following in itertools.pairwise(order):  # Sample times at 50, 55, 60, … on the stream's clock.
    assert pts in needed or not any(pts <= time < following for time in range(50, 90, 5))
  assert 51 not in needed and {None, 80} <= needed


def test_samples_before_a_timestamp():
  period = Fraction(1, 3)
  for end, tick, count in [(0, 1, 0), (1, 1, 3), (Fraction(667, 1000), Fraction(1, 1000), 2), (Fraction(2, 3), 1, 2)]:
    assert frames.samples_before(Fraction(end), period, Fraction(tick)) == count
  assert frames.samples_before(Fraction(668, 1000), period, Fraction(1, 1000)) == 3
