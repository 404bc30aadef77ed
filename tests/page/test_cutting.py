"""What is cut out of a film begins, ends and shows what it says, to the frame, whatever the film is made of."""

import itertools
import subprocess
import sys
import types
from fractions import Fraction

import av
import pytest

from dlkd_jax.page import cutting
from dlkd_jax.video import decoding, pictures
from dlkd_jax.video.files import VideoError
from tests.video import films

# Frames of 25 a second; a frame more or less where a film counts its time from elsewhere.
FRAME = 0.04
SUFFIXES = ('.mp4', '.mkv', '.webm', '.avi', '.ts', '.vob')


def numbers(path):
  """(seconds, the number that is drawn) of all frames of a film."""
  convert = pictures.Converter()
  return [(float(f.time), films.read(convert(f.frame, f.aspect))) for f in decoding.decoded_frames(path)]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Suffix → a film of 9.6 s that counts its frames, and these."""
  folder, found = tmp_path_factory.mktemp('numbered'), {}
  for suffix in SUFFIXES:
    old = suffix in ('.avi', '.vob')
    times = [Fraction(n, 25) for n in range(240)] if old else films.steady(240)
    base = Fraction(1, 25) if old else Fraction(1, 1000)
    path = films.render(folder / f'film{suffix}', times, sound=0 if suffix == '.vob' else 9.6, base=base)
    found[suffix] = types.SimpleNamespace(path=path, frames=numbers(path))
  return found


def shown(film, second):
  return [number for time, number in film.frames if time <= second + 1e-3][-1]


@pytest.mark.parametrize(
  ('suffix', 'how'),
  [
    *itertools.product(('.mp4', '.mkv', '.webm', '.avi', '.ts', '.vob'), ('play', 'exact')),
    ('.mp4', 'copy'),
    ('.ts', 'copy'),
  ],
)
def test_every_frame_is_the_one_at_its_second(made, tmp_path, suffix, how):
  film, target = made[suffix], tmp_path / 'piece.mp4'
  said = cutting.cut(str(film.path), str(target), 5.02, 2.0, how, 20)
  found = numbers(target)
  assert len(found) > 40 and found[0][0] == 0
  assert all(number == shown(film, said['start'] + time) for time, number in found)
  encoded = how == 'exact' or suffix in ('.webm', '.avi', '.vob')
  assert said['start'] == pytest.approx(5.02) if encoded else 2.9 < said['start'] <= 5.02
  assert 7.02 - FRAME <= said['end'] <= 7.02 + 8 * FRAME and not said['last']
  assert said['start'] + found[-1][0] + FRAME == pytest.approx(said['end'], abs=1.1 * FRAME)
  with av.open(str(target)) as piece:
    kinds = {stream.type: stream.codec_context.name for stream in piece.streams}
    lasts = {stream.type: float(stream.duration * stream.time_base) for stream in piece.streams}
  assert kinds == {'video': 'h264', **({} if suffix == '.vob' else {'audio': 'aac'})}
  assert lasts.get('audio', 2.0) == pytest.approx(lasts['video'], abs=0.2)


def test_behind_the_end_and_before_the_first_frame(made, tmp_path):
  target = tmp_path / 'piece.mp4'
  said = cutting.cut(str(made['.avi'].path), str(target), 9.0, 60.0, 'play', 20)
  assert said['last'] and said['end'] == pytest.approx(9.6, abs=2 * FRAME)
  cutting.cut(str(made['.webm'].path), str(target), 30.0, 60.0, 'exact', 20)
  assert [number for _, number in numbers(target)] == [239]  # The last one, which is shown from then on.
  said = cutting.cut(str(made['.ts'].path), str(target), 0.0, 1.0, 'play', 20)
  assert numbers(target)[0][1] == 0 and said['start'] < 0.1


def test_turned_films_are_upright(tmp_path):
  path = films.render(tmp_path / 'turned.mp4', films.steady(30), rotation=90, aspect=Fraction(4, 3))
  cutting.cut(str(path), str(tmp_path / 'piece.mp4'), 0.4, 0.5, 'exact', 20)
  (before, *_), (after, *_) = (
    [(f.frame.rotation, pictures.shown_size(f.frame, f.aspect)) for f in decoding.decoded_frames(one)]
    for one in (path, tmp_path / 'piece.mp4')
  )
  assert after == (0, tuple(side // 2 * 2 for side in before[1]))


def test_a_budget_that_does_not_suffice_makes_a_shorter_piece(made, tmp_path):
  target = tmp_path / 'piece.mp4'
  said = cutting.cut(str(made['.webm'].path), str(target), 1.0, 60.0, 'play', 0.05)
  assert 1.0 <= said['end'] < 9 and not said['last'] and numbers(target)


def test_what_cannot_be_copied_is_said(made, tmp_path):
  with pytest.raises(VideoError, match=r'mpeg4 in avi.*exact'):
    cutting.cut(str(made['.avi'].path), str(tmp_path / 'piece.mp4'), 1.0, 2.0, 'copy', 20)


def test_an_error_is_one_line_without_the_name(tmp_path):
  (tmp_path / 'secret.mp4').write_bytes(b'no film at all')
  command = [sys.executable, '-m', 'dlkd_jax.page.cutting', str(tmp_path / 'secret.mp4'), str(tmp_path / 'piece.mp4')]
  done = subprocess.run([*command, '--start=1', '--seconds=1', '--budget=5', '--how=play'], capture_output=True)
  assert done.returncode == 1 and b'is not a video' in done.stderr and b'secret' not in done.stderr
  assert done.stderr.count(b'\n') == 1
