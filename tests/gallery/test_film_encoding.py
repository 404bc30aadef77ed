"""With what films are encoded: as the student of an index was trained, or refused with what to do."""

import numpy as np
import pytest

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building, film_encoding
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder
from dlkd_jax.video import extraction
from tests.gallery import worlds
from tests.gallery.film_worlds import add, put, rows


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run that was trained on films, their data set, and an index of both."""
  folder = tmp_path_factory.mktemp('trained')
  worlds.clip(folder / 'clip')
  for seed in range(3):
    put(folder / 'films' / f'{seed}.mp4', seed)
  request = extraction.Request(folder / 'films', folder / 'data', teacher=f'clip:{folder / "clip"}', rate=2.0)
  extraction.extract(request)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(worlds, 'FRAME', 12)  # As wide as a state of the small CLIP.
    worlds.run(folder / 'run', data_dir=folder / 'data')
  building.build(folder / 'index', Collection.open(str(folder / 'data'), 'custom_prvr'), folder / 'run')
  return folder


def test_a_student_sees_films_as_it_was_trained(trained, tmp_path):
  done = add(tmp_path / 'index', trained / 'films', workdir=trained / 'run')
  assert done.addition.added == 3
  found, expected = rows(tmp_path / 'index'), rows(trained / 'index')
  assert IndexFolder.open(tmp_path / 'index').manifest['settings']['rate'] == 2
  for video in expected:
    np.testing.assert_allclose(found[video], expected[video], atol=4e-3)
  put(tmp_path / 'more' / 'new.mp4', 3)
  assert add(tmp_path / 'index', tmp_path / 'more', workdir=trained / 'run').addition.added == 1
  # And an index of the data set takes films that the set has not.
  assert add(trained / 'index', tmp_path / 'more').addition.added == 1
  found, expected = rows(tmp_path / 'index')['more/new.mp4'], rows(trained / 'index')['new.mp4']
  np.testing.assert_array_equal(found, expected)
  scorers = set(IndexFolder.open(tmp_path / 'index').manifest['scorers'])
  assert {'teacher'} < scorers and Gallery.open(tmp_path / 'index').search(['a red square'])[0].total == 4


def test_a_training_on_features_of_others(tmp_path):
  worlds.run(tmp_path / 'run', data_dir=worlds.data_set(tmp_path / 'data', None, 1, student='another:1'))
  put(tmp_path / 'films' / 'a.mp4', 0)
  with pytest.raises(UserError, match=r"'another:1'.*use `dlkd extract`"):
    add(tmp_path / 'index', tmp_path / 'films', workdir=tmp_path / 'run')
  with pytest.raises(UserError, match='came as features'):
    film_encoding.of_data_set({'feature': 'i3d'}, {}, {}, None)
  assert not (tmp_path / 'index').exists()


def test_a_model_that_is_not_there_any_more(trained):
  options = {'rate': 1.0, 'max_side': None, 'student': None, 'tokens': None}
  gone = film_encoding.FilmEncoding(options | {'teacher': 'clip:abc'}, {}, {})
  with pytest.raises(UserError, match='it is not known where'):
    _ = gone.models
  other = film_encoding.FilmEncoding(options | {'teacher': 'clip:abc'}, {'teacher': str(trained / 'clip')}, {})
  with pytest.raises(UserError, match=r"holds 'clip:.*put the right one there"):
    _ = other.models


def test_without_a_name_the_default_is_taken(tmp_path, monkeypatch):
  put(tmp_path / 'films' / 'a.mp4', 0)
  asked = []

  def refuse(*names):
    asked.append(names)
    raise UserError('there is no connection')

  monkeypatch.setattr(film_encoding, 'Models', refuse)
  with pytest.raises(UserError, match=r'no connection.*--clip=FOLDER'):
    add(tmp_path / 'index', tmp_path / 'films')
  assert asked == [(None, None, f'clip:{film_encoding.DEFAULT_CLIP}')] and not (tmp_path / 'index').exists()
