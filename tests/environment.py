"""The environment of the tests, and of the commands that they start: programs are compiled quickly."""

import importlib.metadata
import os

from tests.paths import repository

# Most of the time of the tests is compilation, and these programs run for moments. What is compared was compiled alike.
# The emitters of fusions and the split of a program into parts give faster programs, and take half as long again.
QUICKLY = '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # Later ones do not know it, and end the process.
  QUICKLY += ' --xla_cpu_use_fusion_emitters=false'


def xla_flags(devices: int = 1) -> str:
  """Returns the value of XLA_FLAGS for so many virtual devices."""
  return f'--xla_force_host_platform_device_count={devices} {QUICKLY}'


def environment(devices: int = 1, **more: str) -> dict[str, str]:
  """Returns the environment of a command on so many virtual devices, which finds the packages of this checkout."""
  own = {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(repository()), 'XLA_FLAGS': xla_flags(devices)}
  # Commands compile what commands before them compiled: all of it is kept.
  return os.environ | own | {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'} | more
