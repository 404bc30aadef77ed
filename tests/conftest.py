"""Set before JAX is first imported: eight CPU devices, and no silent rank promotion. Slow tests are asked for."""

import atexit
import os
import shutil
import signal
import tempfile

import pytest

from dlkd_jax import doors
from tests.environment import xla_flags
from tests.paths import repository

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

doors.collect_seldom()
# A shell has its jobs in the background ignore Ctrl-C, and so would every command that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files that take longest come first, so that none of them is left for one process while the others have nothing to do.
LONG = (
  'test_whole_path.py',
  'test_reliability.py',
  'test_readme_commands.py',
  'test_sharding.py',
  'test_processes.py',
  'training/test_plus.py',
  'extensions/test_extensions.py',
  'gallery/test_doors.py',
  'reporting/test_whole_report.py',
  'training/test_anchoring.py',
  'similarity/test_blocked.py',
  'training/test_golden_steps.py',
  'losses/test_sharded.py',
  'test_buckets.py',
  'training/test_online_teacher.py',
  'tfds_builders/test_outside.py',
  'tools/planning/test_compiled_for_tpu.py',
)


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='also run the tests marked slow')


def pytest_collection_modifyitems(config, items):
  order = {repository() / 'tests' / name: place for place, name in enumerate(LONG)}
  items.sort(key=lambda item: order.get(item.path, len(LONG)))
  if config.getoption('--slow'):
    return
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(pytest.mark.skip(reason='slow; run with --slow'))
