"""Devices that are not here: TPU slices that the real compiler knows by name, and virtual ones in the place of GPUs.

| name | what it gives |
|---|---|
| `v5e:16x16`, `v5e:1x1`, `v5p:2x2x1`, `v6e:4x4`, `v4:2x2x1` … | devices that the TPU compiler in the package `libtpu` compiles for; no TPU is needed |
| `h100:8`, `h200:8`, `gpu:8` (as h100) | so many virtual devices of the CPU: the partitioning is real, the compiler is not the GPU's |

`CHIPS` holds the numbers that the makers publish.
"""  # noqa: E501 - a table

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax

from dlkd_jax.errors import UserError

_TPU = 'Google Cloud documentation, page "TPU {0}" (docs.cloud.google.com/tpu/docs/{0})'
_GPU = 'NVIDIA data sheet of the {} Tensor Core GPU, SXM, without sparsity'
# What the runtime of a TPU would otherwise ask a server that only a Cloud TPU machine has.
_TPU_ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': 'true',  # Compiling holds no device: several processes may do it at once.
}
_NAME = re.compile(r'(?P<kind>\w+):(?P<shape>\d+(x\d+)*)')


class TopologyError(UserError):
  """A topology does not exist, or this machine cannot compile for it; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published numbers of one chip.

  Attributes:
    name: of the chip.
    bfloat16: peak rate of products of bfloat16 matrices, FLOP/s.
    float32: of float32 ones at JAX's default precision: a TPU rounds them to bfloat16, a GPU to TF32.
    memory: bytes of HBM.
    bandwidth: of HBM, bytes/s.
    interconnect: bytes/s that a chip sends to others, over all of its links: half of a stated bidirectional rate.
    source: where the numbers are published.
  """

  name: str
  bfloat16: float
  float32: float
  memory: float
  bandwidth: float
  interconnect: float
  source: str


_V4 = f'{_TPU.format("v4")}; interconnect: Jouppi et al., ISCA 2023, six links of 50 GB/s'
CHIPS = {
  'v4': Chip('TPU v4', 275e12, 275e12, 32 * 2**30, 1200e9, 300e9, _V4),
  'v5e': Chip('TPU v5e', 197e12, 197e12, 16 * 2**30, 819e9, 200e9, _TPU.format('v5e')),
  'v5p': Chip('TPU v5p', 459e12, 459e12, 95 * 2**30, 2765e9, 600e9, _TPU.format('v5p')),
  'v6e': Chip('TPU v6e', 918e12, 918e12, 32 * 2**30, 1640e9, 400e9, _TPU.format('v6e')),
  'h100': Chip('NVIDIA H100', 989e12, 494e12, 80e9, 3350e9, 450e9, _GPU.format('H100')),
  'h200': Chip('NVIDIA H200', 989e12, 494e12, 141e9, 4800e9, 450e9, _GPU.format('H200')),
}
_VIRTUAL = {'gpu': 'h100', 'h100': 'h100', 'h200': 'h200'}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for.

  Attributes:
    name: as given.
    chip: numbers of each device.
    devices: in the order in which they share a batch.
    platform: 'tpu' or 'gpu': what the program is made for.
    virtual: whether the devices stand in for others, so that the compiler is not theirs.
  """

  name: str
  chip: Chip
  devices: tuple[Any, ...]
  platform: str
  virtual: bool


def libtpu_installed() -> bool:
  """Whether the package with the TPU compiler is installed."""
  return importlib.util.find_spec('libtpu') is not None


def find(name: str) -> Topology:
  """Finds a topology by its name; see the module's docstring.

  Raises:
    TopologyError: there is none of that name, libtpu is missing, or there are fewer virtual devices than asked for.
  """
  parsed = _NAME.fullmatch(name)
  kinds = sorted(set(CHIPS) | set(_VIRTUAL))
  if parsed is None or parsed['kind'] not in kinds:
    raise TopologyError(f'topology {name!r} is unknown; expected <kind>:<shape> with a kind of {", ".join(kinds)}.')
  if parsed['kind'] in _VIRTUAL:
    return _find_virtual(name, parsed['kind'], parsed['shape'])
  return _find_tpu(name, parsed['kind'], math.prod(map(int, parsed['shape'].split('x'))))


def virtual_devices(names: list[str]) -> int:
  """Returns how many virtual devices the largest of these topologies needs; 0 for TPUs and for names that are wrong."""
  sizes = [_NAME.fullmatch(name) for name in names]
  return max((int(s['shape']) for s in sizes if s and s['kind'] in _VIRTUAL and s['shape'].isdigit()), default=0)


def _find_virtual(name: str, kind: str, shape: str) -> Topology:
  if not shape.isdigit() or int(shape) < 1:
    raise TopologyError(f'topology {name!r}: expected a number of devices, as {kind}:8.')
  count, there = int(shape), jax.devices('cpu')
  if count > len(there):
    raise TopologyError(
      f'topology {name!r} needs {count} virtual devices, and the process has {len(there)}; start it with '
      f'XLA_FLAGS=--xla_force_host_platform_device_count={count}.'
    )
  return Topology(name, CHIPS[_VIRTUAL[kind]], tuple(there[:count]), 'gpu', virtual=True)


def _find_tpu(name: str, kind: str, chips: int) -> Topology:
  if not libtpu_installed():
    raise TopologyError(f'topology {name!r} needs the TPU compiler: pip install -c constraints.txt -e ".[tpu]".')
  for variable, value in _TPU_ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  from jax.experimental import topologies  # Only here: what it loads reads the environment.

  # By default the two cores of a v4 are two devices; programs there are compiled for both as one.
  options: dict[str, Any] = {'chip_config_name': 'megacore'} if kind == 'v4' else {}
  if chips == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)  # By default a host has four.
  try:
    description = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
  except (jax.errors.JaxRuntimeError, RuntimeError) as error:
    raise TopologyError(f'the TPU compiler knows no topology {name!r}: {error}') from error
  return Topology(name, CHIPS[kind], tuple(description.devices), 'tpu', virtual=False)
