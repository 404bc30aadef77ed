"""An index of a student that sees the teacher: a typed sentence finds what the caption of these words finds."""

import numpy as np
import pytest

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building
from dlkd_jax.gallery.building import IndexSettings
from dlkd_jax.gallery.encoding import StudentEncoder
from dlkd_jax.gallery.gallery import Gallery
from tests.gallery import worlds


@pytest.fixture(scope='module')
def gallery(world, tmp_path_factory):
  folder = tmp_path_factory.mktemp('taught')
  run = worlds.run(folder / 'run', taught=world.collection.sizes['Dt'])
  building.build(folder / 'index', world.collection, run, IndexSettings(clip=str(world.clip)))
  return Gallery.open(folder / 'index')


def test_a_sentence_is_searched_as_its_caption(gallery):
  assert gallery.weights['teacher_exploration'] == 0.4 and gallery.weights.get('teacher', 0) == 0
  name, caption = next(iter(gallery.captions.items()))
  typed, stored = gallery.sentences([caption.text]), gallery.caption_vectors([name])
  for scorer in gallery.scorers:
    np.testing.assert_allclose(typed[scorer], stored[scorer], atol=2e-3)  # Stored in half precision.
  (by_text,), (by_name,) = gallery.search([caption.text]), gallery.search_captions([name])
  assert [hit.video_id for hit in by_text.hits] == [hit.video_id for hit in by_name.hits]


def test_what_does_not_see_the_teacher_needs_none_of_it(gallery):
  one = gallery.sentences(['a red square 3'])
  alone = gallery.sentences(['a red square 3'], ['exploration'])
  np.testing.assert_allclose(alone['exploration'], one['exploration'], atol=1e-5)


def test_records_with_another_teacher_are_refused():
  with pytest.raises(UserError, match='the run sees 4 features of the teacher, and the records have none'):
    StudentEncoder(worlds.config(taught=4), {}, {'Dv': 6, 'Dq': 8, 'Dt': None}, 'the run')
