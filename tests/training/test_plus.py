"""All parts of `plus` in one step: the same on any mesh, in any layout and in parts, dropout included."""

import jax
import numpy as np
import pytest

from configs import tvr
from dlkd_jax.config_defaults import PLUS
from dlkd_jax.models.plus import PlusStudent
from dlkd_jax.training import recipe
from tests import options as made
from tests.training import worlds

MEASURES = ('exploration/diverse/same_video_cosine', 'exploration/matching/distinct_best')
MEASURES += ('inheritance/text_distance/correlation',)


def make_world(devices, **options):
  config = tvr.get_config('epochs=20')
  with config.unlocked():
    for piece in PLUS.values():
      piece(config)
    config.loss.hard_pool = 1
    config.loss.terms.matching.captions = 3  # One video has more.
    config.loss.terms.text_angle.captions = 9
  plain = worlds.make_student(0.2)
  fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__ if name not in ('parent', 'name')}
  changed = dict(config.model.options) | {'frames_per_clip': 2}
  student = PlusStudent(**fields, **changed, distilled=('inheritance',))
  # The schedules of the terms are constant.
  terms = tuple(
    term._replace(schedule=None) if term.name in config.loss.terms else term for term in recipe.make_terms(config)
  )
  return worlds.World(devices, 0.0, terms, student=student, **options)


@pytest.fixture(scope='module')
def expected():
  """Of padded rows on one device."""
  return make_world(1).run(worlds.make_batch(shards=1))


@pytest.mark.slow
@pytest.mark.parametrize(('devices', 'packed', 'parts'), [(8, True, 1), (1, True, 1), (2, False, 2)])
def test_layouts_meshes_and_parts_are_alike(expected, devices, packed, parts):
  batch = worlds.packed_batch(devices) if packed else worlds.make_batch(shards=devices)
  gradients, metrics = make_world(devices, micro_batches=parts).run(batch)
  for name, value in expected[1].items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradients, expected[0])


def test_sanity_measures_are_logged(expected):
  metrics = expected[1]
  for name in MEASURES:
    assert -1 <= metrics[f'loss/{name}'] <= 1
  for branch in ('inheritance', 'exploration'):
    assert 0.2 < metrics[f'loss/{branch}/attention/width_entropy'] <= 1
  total = sum(value for name, value in metrics.items() if name.startswith('loss/') and name.count('/') == 2)
  np.testing.assert_allclose(metrics['loss/total'], total, rtol=1e-5)
  assert all(metrics[f'loss/{name}'] > 0 for name in ('exploration/matching', 'inheritance/text_angle'))


def test_arguments_leave_out_what_has_nothing_to_act_on():
  assert set(tvr.get_config('plus').loss.terms) <= {'diverse', 'matching', 'text_distance', 'text_angle'}
  config = tvr.get_config('single,no_teacher')
  with config.unlocked():
    for piece in PLUS.values():
      piece(config)
  assert not config.loss.terms and recipe.make_student(config).branches == ('inheritance',)
  assert made.terms() == recipe.make_terms(tvr.get_config())  # The paper's recipe is what it was.
