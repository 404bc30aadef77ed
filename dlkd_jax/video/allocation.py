"""How this process's memory is given back to the system."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's <malloc.h>.
_BYTES = 128 << 10


def give_back_large_blocks() -> bool:
  """Has blocks of 128 KiB and more mapped for themselves, so that each is given back as it is freed.

  The C library of Linux does so at first, but raises the bound to the largest block that was freed. Batches of pictures
  and what is computed on them then lie in heaps, one for each thread, which seldom shrink: an extraction at the sizes
  of ViT-B/32 holds about 300 MiB more. The bound is of the whole process.

  Returns:
    Whether the C library could be told; where not, memory is more, and nothing else.
  """
  try:
    return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _BYTES))
  except (AttributeError, OSError, TypeError):  # Not glibc: macOS, musl.
    return False
