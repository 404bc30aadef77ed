"""Set before JAX is first imported: eight CPU devices, and no silent rank promotion. Slow tests are asked for."""

import atexit
import gc
import os
import shutil
import tempfile

import pytest

from tests.environment import xla_flags

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Of several values of a flag the last one holds.
os.environ['XLA_FLAGS'] = f'{xla_flags(8)} {os.environ.get("XLA_FLAGS", "")}'.strip()
os.environ.setdefault('JAX_NUMPY_RANK_PROMOTION', 'raise')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # One for a session, for all processes of it: a program is compiled once.
  compiled = tempfile.mkdtemp(prefix='dlkd_jax-compiled-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = compiled
  atexit.register(shutil.rmtree, compiled, ignore_errors=True)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

# Tracing makes objects by the million, and nearly all are freed without a search for cycles.
gc.set_threshold(50_000, 20, 50)

# Files that take minutes come first, so that none of them is left for one process while the others have nothing to do.
LONG = (
  'test_reliability.py',
  'test_whole_path.py',
  'test_compiled_for_tpu.py',
  'test_sharding.py',
  'test_processes.py',
)


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='also run the tests marked slow')


def pytest_collection_modifyitems(config, items):
  items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
  if config.getoption('--slow'):
    return
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(pytest.mark.skip(reason='slow; run with --slow'))
