"""Extraction that keeps the pictures which the teacher saw."""

import json

import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.models import clip_files
from dlkd_jax.video import decoding, extraction
from tests.models import clips
from tests.video import films


@pytest.fixture
def request_of_one_film(tmp_path):
  folder = tmp_path / 'films'
  folder.mkdir()
  films.render(folder / 'a.mp4', films.steady(30))
  said = {'video': 'a.mp4', 'text': 'a red square', 'split': 'train'}
  (folder / 'captions.jsonl').write_text(json.dumps(said) + '\n')
  clip_files.save_clip(clips.tiny_model(), tmp_path / 'clip')

  def make(**fields):
    given = {'teacher': f'clip:{tmp_path / "clip"}', 'rate': 4, 'keep_pixels': True, 'dtype': 'float32', **fields}
    return extraction.Request(folder, tmp_path / 'data', folder / 'captions.jsonl', **given)

  return make


def test_the_pictures_are_those_whose_features_are_beside_them(request_of_one_film):
  request, model = request_of_one_film(), clips.tiny_model()
  extraction.extract(request)
  record = sources.open_source(request.data_dir, 'custom_prvr', 'train')[0]
  seen = [model.preprocess.crop(frame.image) for frame in decoding.sample_frames(request.videos / 'a.mp4', 4)]
  np.testing.assert_array_equal(record['teacher_pixels'], np.stack(seen), strict=True)
  pixels = model.preprocess.normalize(record['teacher_pixels'])
  features = clips.apply(model, pixels, method='encode_image').features
  np.testing.assert_allclose(record['teacher_frames'], features, atol=1e-5)


@pytest.mark.parametrize('teacher', [None, 'statistics'])
def test_a_teacher_that_sees_no_pictures_is_refused(request_of_one_film, teacher):
  request = request_of_one_film(teacher=teacher)
  with pytest.raises(ValueError, match='clip:DIR; the teacher is None' if teacher is None else 'statistics'):
    extraction.extract(request)
  assert not (request.data_dir / 'custom_prvr').exists()


def test_a_set_without_pictures_takes_none(request_of_one_film):
  extraction.extract(request_of_one_film(keep_pixels=False))
  with pytest.raises(ValueError, match=r"other options \(before → now\):\n  pixels: '\(absent\)' → 16"):
    extraction.extract(request_of_one_film())
