"""Tests of videos made of parts."""

from fractions import Fraction

import numpy as np
import pytest

from dlkd_jax.video import composites, decoding
from tests.video import films


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
def test_every_part_is_where_it_is_said_to_be(tmp_path, suffix):
  clips = [
    films.render(tmp_path / 'a.mp4', films.steady(50)),
    films.render(tmp_path / 'b.webm', [Fraction(0), Fraction(7, 10), Fraction(8, 10)]),
    films.render(tmp_path / 'c.mp4', films.steady(30, 10), rotation=180),
  ]
  parts = composites.join_videos([*clips, clips[0]], tmp_path / f'out{suffix}', size=(128, 96), rate=10)
  lengths = [20, None, 30, 20]
  assert [p.path for p in parts] == [str(p) for p in [*clips, clips[0]]]
  for part, after, length in zip(parts, parts[1:], lengths, strict=False):
    assert part.end == after.start and (length is None or round((part.end - part.start) * 10) == length)
  info = decoding.probe(tmp_path / f'out{suffix}')
  assert (info.width, info.height, info.rate) == (128, 96, 10) and info.duration == parts[-1].end
  found = {round(s.time * 10): s.image for s in decoding.sample_frames(tmp_path / f'out{suffix}', 10)}
  assert sorted(found) == list(range(round(parts[-1].end * 10)))
  for part, clip in zip(parts, [*clips, clips[0]], strict=True):
    for sample in decoding.sample_frames(clip, 10):
      shown = found[round((part.start + sample.time) * 10)]
      assert films.read(shown) == films.read(sample.image)


@pytest.mark.parametrize('height', [96, 720])
def test_colours_and_proportions_are_kept(tmp_path, height):
  clip = films.render(tmp_path / 'a.mp4', films.steady(2), aspect=Fraction(2))
  composites.join_videos([clip], tmp_path / 'out.mp4', size=(height, height))
  image = next(decoding.sample_frames(tmp_path / 'out.mp4', 1)).image.astype(int)
  top = height // 2 - round(height * 96 / 256 / 2)  # 256 x 96 pixels as shown, in the middle of a square.
  assert image[: top - 4].max() < 20
  np.testing.assert_allclose(image[top + height // 24, height // 12], (230, 20, 20), atol=12)


@pytest.mark.parametrize('bad', ['damaged', 'none', 'odd', 'suffix', 'empty'])
def test_nothing_is_written_when_it_cannot_be_whole(tmp_path, bad):
  clip = films.render(tmp_path / 'a.mp4', films.steady(50))
  out, options, paths = tmp_path / 'out.mp4', {}, [clip, clip]
  if bad == 'damaged':
    paths[1] = films.cut(clip, 0.7, tmp_path / 'cut.mp4')
  elif bad == 'none':
    paths[1] = tmp_path / 'missing.mp4'
  elif bad == 'odd':
    options['size'] = (321, 240)
  elif bad == 'suffix':
    out = tmp_path / 'out.gif'
  else:
    paths = []
  before = sorted(tmp_path.iterdir())
  error = decoding.VideoError if bad in ('damaged', 'none') else ValueError
  with pytest.raises(error):
    composites.join_videos(paths, out, **options)
  assert sorted(tmp_path.iterdir()) == before


def test_write_video_checks_its_pictures(tmp_path):
  image = np.zeros((48, 64, 3), np.uint8)
  assert composites.write_video(tmp_path / 'a.mp4', [image] * 7, 5, (64, 48)) == 7
  with pytest.raises(ValueError, match=r'picture 1 is \[48, 62, 3\]; expected \[48, 64, 3\]'):
    composites.write_video(tmp_path / 'b.mp4', [image, image[:, :62]], 5, (64, 48))
  with pytest.raises(ValueError, match='no picture'):
    composites.write_video(tmp_path / 'b.mp4', [], 5, (64, 48))
  assert [p.name for p in tmp_path.iterdir()] == ['a.mp4']
