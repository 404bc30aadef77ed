"""How much memory there is, and how that of this process is given back to the system, or kept."""

from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

# Of the memory that the machine or its container has left, what is kept of a split of a data set, by all processes
# together, may take this share; and as much of a device's.
KEPT_SHARE = 0.25
_ALIGNMENT = 64  # Bytes.
# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def available_bytes() -> int:
  """Returns how much memory the machine, or the container that this runs in, has left; 0 where neither tells."""
  left = []
  try:
    meminfo = dict(line.split(':') for line in pathlib.Path('/proc/meminfo').read_text().splitlines())
    left.append(int(meminfo['MemAvailable'].split()[0]) << 10)
    limit, used = (pathlib.Path('/sys/fs/cgroup', f'memory.{x}').read_text().strip() for x in ('max', 'current'))
    left.append(int(limit) - int(used))
  except (OSError, KeyError, ValueError):
    pass  # Another system, or no limit ('max').
  return max(0, min(left, default=0))


def aligned_bytes(size: int) -> np.ndarray:
  """Allocates so many bytes, uint8, without clearing them, where JAX takes an array on the CPU as it lies."""
  fresh = np.empty(size + _ALIGNMENT, np.uint8)
  return fresh[-fresh.ctypes.data % _ALIGNMENT :][:size]


def free_on_devices(devices: Iterable[Any]) -> int:
  """Returns how many bytes the fullest of `jax.Device`s had left at all times; 0 where one does not tell, as a CPU."""
  stats = [device.memory_stats() or {} for device in devices]
  return max(0, min(each.get('bytes_limit', 0) - each.get('peak_bytes_in_use', 0) for each in stats))


def give_back_large_blocks() -> bool:
  """Has blocks of 128 KiB and more mapped for themselves, so that each is given back as it is freed.

  The C library of Linux does so at first, but raises the bound to the largest block that was freed. Batches of pictures
  and what is computed on them then lie in heaps, one for each thread, which seldom shrink: an extraction at the sizes
  of ViT-B/32 holds about 300 MiB more. The bound is of the whole process.

  Returns:
    Whether the C library could be told; where not, memory is more, and nothing else.
  """
  return _tell(_MMAP_THRESHOLD, 128 << 10)


def keep_large_blocks() -> bool:
  """Has freed blocks of up to 32 MiB kept for the next ones, 256 MiB of them at most.

  A record of a video is some blocks of half a megabyte, each taken and freed again. Mapped for themselves, as long as
  no larger block was freed, they cost a fifth of the time of reading: the system clears every page.

  Returns:
    Whether the C library could be told; where not, reading takes longer, and nothing else.
  """
  return _tell(_MMAP_THRESHOLD, 32 << 20) and _tell(_TRIM_THRESHOLD, 256 << 20)


def _tell(option: int, size: int) -> bool:
  try:
    return bool(ctypes.CDLL(None).mallopt(option, size))
  except (AttributeError, OSError, TypeError):  # Not glibc: macOS, musl.
    return False
