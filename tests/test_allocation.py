"""Freed blocks are given back to the system, or kept; what may stay on devices."""

import os
import subprocess
import sys
import types

import jax
import pytest

from dlkd_jax import allocation
from tests.paths import repository

# Frees a large block, so that the C library would keep blocks of that size, then takes and frees twenty. Each is pinned
# in its heap by one behind it, too large for a hole elsewhere and too small to be mapped for itself.
_PROGRAM = """
import ctypes, os, sys
from dlkd_jax import allocation
if sys.argv[1] == 'told' and not allocation.give_back_large_blocks():
  sys.exit(3)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 20 << 20
libc.free(libc.malloc(size))
blocks = []
for _ in range(20):
  block = libc.malloc(size)
  ctypes.memset(block, 1, size)
  blocks.append((block, libc.malloc(100 << 10)))
for block, _ in blocks:
  libc.free(block)
print(int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the memory of a process is read from /proc')
def test_blocks_between_small_ones_are_given_back():
  held = {}
  for how in ('told', 'not told'):
    command = [sys.executable, '-c', _PROGRAM, how]
    done = subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=False)
    if done.returncode == 3:
      pytest.skip('the C library is not glibc')
    assert done.returncode == 0, done.stderr
    held[how] = int(done.stdout)
  assert held['told'] < 100, held
  if held['not told'] < 300:  # By how it was built, or by the environment's MALLOC_ variables.
    pytest.skip('this C library gives the blocks back without being told')


# Takes and frees a block again and again; prints how many pages the system cleared for it.
_AGAIN = """
import ctypes, resource, sys
from dlkd_jax import allocation
if sys.argv[1] == 'told' and not allocation.keep_large_blocks():
  sys.exit(3)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
  blocks = [libc.malloc(size) for size in (100 << 10, 1 << 20, 4 << 20)]
  for block in blocks:
    ctypes.memset(block, 1, 100 << 10)
  for block in blocks:
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the C library is told on Linux alone')
def test_blocks_are_kept_for_the_next_ones():
  cleared = {}
  for how in ('told', 'not told'):
    command = [sys.executable, '-c', _AGAIN, how]
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_=str(128 << 10))  # As it is before a larger block was freed.
    done = subprocess.run(command, cwd=repository(), env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 3:
      pytest.skip('the C library is not glibc')
    assert done.returncode == 0, done.stderr
    cleared[how] = int(done.stdout)
  assert cleared['told'] < 500, cleared
  if cleared['not told'] < 2000:
    pytest.skip('this C library keeps the blocks without being told')


def test_what_the_fullest_device_had_left_at_all_times():
  stats = {'bytes_limit': 1000, 'bytes_in_use': 100, 'peak_bytes_in_use': 200}, {'bytes_limit': 1000}, None
  devices = [types.SimpleNamespace(memory_stats=lambda found=found: found) for found in stats]
  assert allocation.free_on_devices(devices[:2]) == 800
  assert allocation.free_on_devices(devices) == allocation.free_on_devices(jax.devices()) == 0
