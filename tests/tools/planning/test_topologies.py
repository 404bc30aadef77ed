import pytest

from dlkd_jax.tools.planning import roofline, topologies
from tests.tools.planning.compiled import needs_libtpu


@pytest.mark.parametrize('name', ['', 'v5e', 'v5e:', 'v1:2x2', 'gpu:2x2', 'gpu:0', 'h100:-1', 'v5e:2x4 '])
def test_a_wrong_name_is_refused(name):
  with pytest.raises(topologies.TopologyError, match='topology'):
    topologies.find(name)


def test_too_many_virtual_devices_say_how_to_get_them():
  with pytest.raises(topologies.TopologyError, match='xla_force_host_platform_device_count=4096'):
    topologies.find('gpu:4096')


def test_virtual_devices_stand_for_gpus():
  found = topologies.find('h200:2')
  assert found.virtual and found.platform == 'gpu' and len(found.devices) == 2
  assert found.chip.name == 'NVIDIA H200'


def test_how_many_virtual_devices_names_need():
  assert topologies.virtual_devices(['v5e:2x4', 'gpu:4', 'h100:16', 'nonsense']) == 16


@needs_libtpu
@pytest.mark.parametrize(
  'name, count',
  [('v5e:1x1', 1), ('v5e:2x4', 8), ('v5e:16x16', 256), ('v4:2x2x1', 4), ('v5p:2x2x1', 4), ('v6e:4x4', 16)],
)
def test_slices_of_tpus(name, count):
  found = topologies.find(name)
  assert len(found.devices) == count
  assert found.platform == 'tpu' and not found.virtual
  assert found.chip == topologies.CHIPS[name.split(':')[0]]


@needs_libtpu
def test_a_slice_that_does_not_exist_is_refused():
  with pytest.raises(topologies.TopologyError, match='v5e:3x3'):
    topologies.find('v5e:3x3')


def test_without_libtpu_a_tpu_is_refused(monkeypatch):
  monkeypatch.setattr(topologies, 'libtpu_installed', lambda: False)
  with pytest.raises(topologies.TopologyError, match='pip install'):
    topologies.find('v5e:2x4')


def test_the_busiest_resource_bounds_a_step():
  chip = topologies.Chip('a chip', 4e12, 2e12, 1e9, 1e12, 1e11, 'made up')
  found = roofline.bound(chip, {'bfloat16': 4e12, 'float32': 1e12}, memory=2e12, sent=1e11)
  assert (found.products, found.memory, found.interconnect) == (1.5, 2.0, 1.0)
  assert (found.seconds, found.limit, found.seconds_apart) == (2.0, 'memory', 4.5)
