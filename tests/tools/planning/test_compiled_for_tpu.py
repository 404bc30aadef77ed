"""The programs of a run, compiled by the real TPU compiler for slices that are not here."""

import jax
import pytest

from configs import tvr
from dlkd_jax.models.students import init_parameters
from dlkd_jax.tools.planning import collectives, cost, hlo, programs, topologies, traffic
from dlkd_jax.tools.planning.workload import Workload
from dlkd_jax.training import recipe as recipes
from tests.tools.planning.compiled import exchanges, needs_libtpu, product_in_a_loop, trace

pytestmark = needs_libtpu
SLICES = ('v5e:2x4', 'v5e:16x16')
SMALL = Workload(sizes=(256, 128, 128))


def config(**overrides):
  """TVR's recipe with a small model of one branch; names like data__batch_videos override fields."""
  recipe = tvr.get_config()
  small = {'model__hidden': 128, 'model__heads': 2, 'model__branches': ('inheritance',), 'evaluation__weights': (1.0,)}
  for name, value in (small | overrides).items():
    group, field = name.split('__')
    recipe[group][field] = value
  return recipe


def _parameters():
  make = lambda: init_parameters(recipes.make_student(config(), 'tpu'), jax.random.key(0), 256, 128)  # noqa: E731
  return jax.tree.leaves(jax.eval_shape(make))


# A pod takes twice as long to compile for, and a batch of 8192 is compiled for one, below.
@pytest.mark.parametrize('name', [SLICES[0], pytest.param(SLICES[1], marks=pytest.mark.slow)])
def test_train_step(name):
  slice_ = topologies.find(name)
  devices = len(slice_.devices)
  recipe = config(data__batch_videos=4 * devices)
  found = cost.estimate(programs.train_step(recipe, slice_, SMALL), slice_)
  exchanged = {each.kind: each for each in found.collectives}
  assert 'all-to-all' in exchanged  # video view to text view
  assert 'all-reduce' in exchanged  # gradients
  # All parameters have a gradient, which is summed over the devices, in two bytes an element at least.
  parameters = 4 * sum(x.size for x in _parameters())
  assert exchanged['all-reduce'].sent >= parameters * (devices - 1) / devices
  # The new state takes the place of the old one.
  assert found.memory.outputs < 2**16
  assert found.memory.arguments > 3 * parameters
  assert found.memory.peak < 2**30
  assert found.roofline.seconds > 0
  assert not found.unknown_loops


@pytest.mark.parametrize('name', SLICES)
def test_evaluation_step(name):
  slice_ = topologies.find(name)
  recipe = config(model__branches=('inheritance', 'exploration'), evaluation__weights=(0.7, 0.3))
  found = cost.estimate(programs.evaluation_step(recipe, slice_, programs.Gallery(4430, 15753)), slice_)
  # What crosses devices is a few numbers a query of the block, and never a matrix of scores.
  assert {each.kind for each in found.collectives} == {'all-reduce'}
  assert collectives.total_sent(found.collectives) < 64 * 1024 * 4
  videos = -(-4430 // len(slice_.devices))
  frames = 2 * videos * 128 * 128 * 2  # branches, L, H, bytes
  assert frames <= found.memory.arguments < 1.5 * frames + 2**22
  assert found.memory.temporaries < 2**29
  assert not found.unknown_loops


def test_encoding_step():
  slice_ = topologies.find('v5e:2x2')
  found = cost.estimate(programs.encoding_step(config(), slice_, SMALL), slice_)
  assert found.collectives == []
  assert found.memory.outputs >= (32 // 4) * 128 * 128 * 2


def test_exchanges_are_counted_once_though_the_compiler_writes_them_often():
  slice_ = topologies.find('v5e:2x4')
  found = {c.kind: c for c in collectives.find(hlo.parse(exchanges(slice_.devices).lower().compile().as_text()), 8)}
  row = 128 * 4
  # The compiler makes the small scattered sum of a whole one; with the loop's five that is six.
  assert {kind: each.times for kind, each in found.items()} == {
    'all-gather': 1, 'all-reduce': 6, 'all-to-all': 1, 'collective-permute': 1,
  }  # fmt: skip
  assert found['all-gather'].result == 16 * 8 * row
  assert found['all-reduce'].result == (5 * 8 + 8 * 8) * row
  assert found['all-to-all'].result == 4 * 8 * row
  assert found['collective-permute'].sent == 16 * row


def test_rounds_of_a_loop_are_understood():
  slice_ = topologies.find('v5e:2x4')
  program = hlo.parse(product_in_a_loop(slice_.devices).lower().compile().as_text())
  assert program.unknown_loops == []
  assert max(each.times for each in program.executions()) == 7


def test_what_stays_on_the_chip_is_no_traffic():
  slice_ = topologies.find('v5e:1x1')
  program = trace(lambda x: (x * 2) @ x.T, slice_.devices, (4096, 128))
  moved = traffic.memory_bytes(hlo.parse(program.lower().compile().as_text()))
  read, written = 4096 * 128 * 4, 4096 * 4096 * 4
  assert written <= moved <= written + 4 * read


def test_a_program_that_does_not_fit_is_refused():
  slice_ = topologies.find('v5e:1x1')
  program = trace(lambda x: (x @ x.T, x + 1), slice_.devices, (2**16, 2**8))
  with pytest.raises(cost.DoesNotFitError) as error:
    cost.estimate(program, slice_)
  assert error.value.needed > 16e9


@pytest.mark.slow
def test_a_model_axis_splits_the_state():
  slice_ = topologies.find('v5e:2x4')
  one, four = (
    cost.estimate(programs.train_step(config(data__batch_videos=32, mesh__model=model), slice_, SMALL), slice_)
    for model in (1, 4)
  )
  parameters = 4 * sum(x.size for x in _parameters())
  assert one.memory.arguments - four.memory.arguments > 0.6 * 3 * parameters


@pytest.mark.slow
def test_a_batch_of_8192_videos_fits_a_pod():
  slice_ = topologies.find('v5e:16x16')
  recipe = tvr.get_config()
  recipe.data.batch_videos = 8192
  found = cost.estimate(programs.train_step(recipe, slice_, Workload()), slice_)
  assert found.memory.peak < 16e9
  assert {'all-reduce', 'all-to-all'} <= {each.kind for each in found.collectives}
  assert not found.unknown_loops
