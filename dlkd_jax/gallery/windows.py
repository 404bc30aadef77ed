"""How the rows of a gallery are cut into windows of equal size, between videos, for one device or several.

Sizes: V videos, R rows of a window, S videos of a window (padded), D devices.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from dlkd_jax.errors import UserError

# Windows begin at multiples of this, so that their bytes begin at multiples of 64 and need no copy.
_ALIGNED = 64
_SMALLEST = 1024


@dataclasses.dataclass(frozen=True)
class Windows:
  """Windows of a gallery; in each step, every device has one.

  Attributes:
    rows: R, a power of two; only a gallery of fewer rows has windows that reach beyond its end.
    most_videos: S, of one window, as a power of two.
    levels: how many lengths of spans, 2^0, 2^1 and so on, the longest video needs.
    starts: `[steps, D]` int64, the first row of each window.
    videos: `[steps, D, 2]` int64, the first video that the window is for, and the one after its last.
    spans: `[steps, D, S, 3]` int32, for each of those videos where, from the start of the window, the first 2^k of its
      rows begin and where the last 2^k, and k, the largest with 2^k rows in the video; (0, 0, -1) where there is none.
  """

  rows: int
  most_videos: int
  levels: int
  starts: np.ndarray
  videos: np.ndarray
  spans: np.ndarray

  @property
  def steps(self) -> int:
    """How many windows a device has."""
    return len(self.starts)


def check_offsets(offsets: np.ndarray, rows: Mapping[str, int]) -> np.ndarray:
  """Returns offsets as int64.

  Args:
    offsets: `[V+1]`, the first row of each video, then the number of rows.
    rows: scorer → number of rows.

  Raises:
    ValueError: there is no scorer or no video, or offsets and rows do not fit.
  """
  offsets = np.asarray(offsets)
  if offsets.dtype.kind not in 'iu' or offsets.ndim != 1 or not len(offsets):
    raise UserError(f'offsets are {offsets.dtype} {list(offsets.shape)}; expected [V+1] ints.')
  if not rows:
    raise UserError('there are no stored rows of any scorer; expected one or more, such as {"teacher": rows}.')
  if len(offsets) == 1:
    raise UserError('the gallery is empty; add videos to it before searching.')
  if len(set(rows.values())) > 1:
    raise UserError(f'the scorers have different numbers of rows: {dict(rows)}; each has one for every frame.')
  count = next(iter(rows.values()))
  offsets = offsets.astype(np.int64)
  lengths = np.diff(offsets)
  if offsets[0] != 0 or offsets[-1] != count:
    raise UserError(f'offsets run from {offsets[0]} to {offsets[-1]}; expected 0 to {count}, the number of rows.')
  if (lengths < 1).any():
    video = int(np.argmax(lengths < 1))
    raise UserError(
      f'video {video} has {lengths[video]} rows ({offsets[video]} to {offsets[video + 1]}); expected 1 or more.'
    )
  return offsets


def cut(offsets: np.ndarray, block_rows: int, devices: int = 1) -> Windows:
  """Cuts a gallery into windows; devices get adjacent shares of about as many rows.

  Args:
    offsets: `[V+1]` int64, as `check_offsets` leaves them.
    block_rows: R, about: the next power of two that the longest video fits into too; less for a small gallery.
    devices: D.

  Raises:
    ValueError: `block_rows` is less than 1.
  """
  if block_rows < 1:
    raise UserError(f'block_rows is {block_rows}; expected 1 or more.')
  lengths = np.diff(offsets)
  share = -(-int(offsets[-1]) // devices)
  wanted = min(block_rows, max(_SMALLEST, share))
  rows = _power(max(wanted, int(lengths.max()) + _ALIGNED))
  borders = np.searchsorted(offsets, np.linspace(0, offsets[-1], devices + 1), 'left')
  groups = [_groups(offsets, int(a), int(b), rows) for a, b in itertools.pairwise(borders)]
  steps = max(len(group) for group in groups)
  videos = np.zeros((steps, devices, 2), np.int64)
  for device, group in enumerate(groups):
    for step, pair in enumerate(group):
      videos[step, device] = pair
  most_videos = _power(int((videos[..., 1] - videos[..., 0]).max()))
  starts = np.zeros((steps, devices), np.int64)
  spans = np.tile(np.asarray([0, 0, -1], np.int32), (steps, devices, most_videos, 1))
  levels = np.frexp(lengths.astype(np.float64))[1] - 1  # ⌊log₂⌋
  for place in np.ndindex(steps, devices):
    first, last = videos[place]
    if first < last:
      starts[place] = _start(offsets, int(first), rows)
      level = levels[first:last]
      ends = offsets[first + 1 : last + 1] - (1 << level)
      found = np.stack([offsets[first:last] - starts[place], ends - starts[place], level], axis=-1)
      spans[(*place, slice(last - first))] = found
  return Windows(rows, most_videos, int(levels.max()) + 1, starts, videos, spans)


def _start(offsets: np.ndarray, video: int, rows: int) -> int:
  """First row of the window that begins with a video: not beyond where a whole window still fits."""
  return max(0, min(int(offsets[video]) // _ALIGNED * _ALIGNED, int(offsets[-1]) - rows))


def _groups(offsets: np.ndarray, first: int, last: int, rows: int) -> list[tuple[int, int]]:
  """Cuts videos `first` to `last` into runs that fit into a window."""
  groups = []
  while first < last:
    end = int(np.searchsorted(offsets, _start(offsets, first, rows) + rows, 'right')) - 1
    end = min(end, last)
    groups.append((first, end))
    first = end
  return groups


def _power(least: int) -> int:
  return 1 << max(0, least - 1).bit_length()
