"""What backbones see and make of films and captions, one or several of them joined."""

from __future__ import annotations

import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.models import clip_files
from dlkd_jax.video import backbones, decoding, extraction, extraction_models, spans
from tests.models import clips
from tests.video import films


class _Motion:
  """Means of the pictures around a time, as they are."""

  form, name, fingerprint, features, span = 'motion', 'motion', 'motion:1', 4, spans.Span(4, 10)

  def prepare(self, image):
    return image.mean()

  def encode(self, prepared):
    return np.array(prepared, np.float32)


@pytest.mark.parametrize('batch', [1, 9, 64])
def test_a_backbone_that_sees_time_is_joined_to_one_of_pictures(batch, tmp_path, monkeypatch):
  monkeypatch.setitem(backbones._FRAMES, 'motion', _Motion)
  folder = tmp_path / 'films'
  folder.mkdir()
  for name, times in (('a.mp4', films.steady(60)), ('b.webm', films.steady(20, 10))):
    films.render(folder / name, times)
  request = extraction.Request(
    folder, tmp_path, student='statistics+motion', rate=4, batch=batch, dtype='float32', settle_seconds=0
  )
  extraction.extract(request)
  pictures, motion = backbones.open_frame_backbone('statistics'), _Motion()
  unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
  source = sources.open_source(tmp_path, 'custom_prvr', 'gallery')
  assert len(source) == 2
  for record in (source[0], source[1]):
    path = folder / sources.text(record['video_id'])
    singles = list(decoding.sample_frames(path, 4))
    np.testing.assert_array_equal(record['times'], np.array([each.time for each in singles], np.float32))
    around = decoding.sample_views(path, 4, [spans.View(motion.span, motion.prepare)])
    seen = motion.encode([clip for _, (clip,) in around])
    assert np.ptp(seen, axis=1).max() > 0
    expected = np.concatenate([unit(pictures([each.image for each in singles])), unit(seen)], axis=1)
    np.testing.assert_allclose(record['student_frames'], expected, atol=1e-4)


def test_captions_that_are_cut_are_counted(tmp_path):
  clip_files.save_clip(clips.tiny_model(), tmp_path / 'clip')  # It reads 4 words.
  clip = f'clip:{tmp_path / "clip"}'
  models = extraction_models.Models('statistics', 'words:8', clip)
  models.encode_text(['a red square', 'a red square moves left right'])
  assert models.notes() == ['1 of 2 captions are longer than the text backbone reads, and were cut']
  models.encode_text(['…', 'blue'])
  assert models.notes()[1:] == ['1 of 4 captions have no word that the text backbone knows']
