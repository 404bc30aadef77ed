"""Set before JAX is first imported: eight CPU devices, and no silent rank promotion. Slow tests are asked for."""

import os

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
flags = os.environ.get('XLA_FLAGS', '')
if 'host_platform_device_count' not in flags:
  os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count=8'.strip()
os.environ.setdefault('JAX_NUMPY_RANK_PROMOTION', 'raise')


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='also run the tests marked slow')


def pytest_collection_modifyitems(config, items):
  if config.getoption('--slow'):
    return
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(pytest.mark.skip(reason='slow; run with --slow'))
