"""Features of what moves around a time that need no weights: where pictures change, and where to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlkd_jax.video.picture_statistics import SIDE, averaged_down, cells, standardised
from dlkd_jax.video.spans import Span

_GRID = 4  # Cells a side.
_FLAT = 1e-4  # Of squared gradients: where a picture is flatter than that, its motion is not to be told.
_AT_REST = 1e-3  # Change of a picture that is none.
_DOWN, _RIGHT = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
# Mean and scale of each part, rounded from films of many kinds; see `picture_statistics`.
_USUAL = (
  (0.15, 0.2),  # Change of each cell.
  (0.0, 0.35),  # Flow of each cell.
  (0.0, 0.4),  # Motion of the whole.
  (np.array([0.0, 0.0, 0.0, 0.65, 4.0, 0.0]), np.array([0.13, 0.13, 0.2, 0.16, 1.1, 1.2])),  # Course of the change.
)


class MotionStatistics:
  """58 features of three pictures a quarter of a second apart, each about 0 in the mean and of magnitude about 1.

  For each of 4 by 4 cells how much it changes (16) and its flow (32: right, down); the motion of all that moves, as
  flow to the right, flow down, growth and rotation (4); and the course of the change from the first two pictures to the
  last two: its centre's way right and down, its extent's growth, extent, size and growth (6).
  """

  form = 'motion'
  files = False
  name = 'motion'
  fingerprint = 'motion:1'
  features = 3 * _GRID**2 + 10
  span = Span(3, 4.0)

  def prepare(self, image: np.ndarray) -> np.ndarray:
    """Returns a picture, uint8 [H, W, 3], as [48, 48, 3] from 0 to 1."""
    return averaged_down(image)

  def encode(self, prepared: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Returns features, float32 [N, D], of N times three prepared pictures."""
    return np.stack([_features(*pictures) for pictures in prepared])

  def __call__(self, clips: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Returns features, float32 [N, D], of N times three pictures, uint8 [H, W, 3]."""
    return self.encode([[self.prepare(image) for image in clip] for clip in clips])


def _features(before: np.ndarray, now: np.ndarray, after: np.ndarray) -> np.ndarray:
  changes = [np.sqrt(((two - one) ** 2).sum(axis=2)) for one, two in ((before, now), (now, after))]
  energy = _cells((changes[0] ** 2 + changes[1] ** 2) / 2)
  grey = [_blurred(picture.mean(axis=2)) for picture in (before, now, after)]
  over_time = (grey[2] - grey[0]) / 2
  down, right = np.gradient(grey[1])
  parts = (np.sqrt(energy), _flow(right, down, over_time), _whole(right, down, over_time), _course(changes))
  return standardised(parts, _USUAL)


def _cells(values: np.ndarray) -> np.ndarray:
  """Returns the means [4, 4] of [S, S]."""
  return cells(values, _GRID).mean(axis=(1, 3))


def _blurred(picture: np.ndarray) -> np.ndarray:
  """Smooths [S, S] with the weights 1, 2, 1 along both axes: differences are of slopes then, not of single pixels."""
  for axis in (0, 1):
    wide = np.pad(picture, [(1, 1) if axis == own else (0, 0) for own in (0, 1)], mode='edge')
    before, after = (np.take(wide, np.arange(SIDE) + shift, axis) for shift in (0, 2))
    picture = (before + 2 * picture + after) / 4
  return picture


def _flow(right: np.ndarray, down: np.ndarray, over_time: np.ndarray) -> np.ndarray:
  """Returns the flow [2, 4, 4] that explains each cell's change best, in pixels a step, bounded (Lucas and Kanade)."""
  products = (right * right, right * down, down * down, right * over_time, down * over_time)
  xx, xy, yy, xt, yt = (_cells(product) for product in products)
  xx, yy = xx + _FLAT, yy + _FLAT
  return np.tanh(np.stack([xy * yt - yy * xt, xy * xt - xx * yt]) / (xx * yy - xy**2))


def _whole(right: np.ndarray, down: np.ndarray, over_time: np.ndarray) -> np.ndarray:
  """Returns flow right and down, growth and rotation about the centre of the change, of one affine motion of all."""
  weight = np.abs(over_time)
  x, y = (place - (weight * place).sum() / (weight.sum() + _AT_REST) for place in (_RIGHT, _DOWN))
  columns = np.stack([right, right * x, right * y, down, down * x, down * y], axis=-1).reshape(-1, 6)
  sums = columns.T @ columns + SIDE**2 * _FLAT / 20 * np.eye(6)
  way_right, x_by_x, x_by_y, way_down, y_by_x, y_by_y = np.linalg.solve(sums, -columns.T @ over_time.ravel())
  return np.tanh(np.array([way_right, way_down, x_by_x + y_by_y, y_by_x - x_by_y]))


def _course(changes: Sequence[np.ndarray]) -> np.ndarray:
  """Returns how the change between two pictures differs from that between the next two: see `MotionStatistics`."""
  rows = []
  for change in changes:
    total = change.sum() + _AT_REST
    x, y = (change * _RIGHT).sum() / total, (change * _DOWN).sum() / total
    extent = np.sqrt((change * ((_RIGHT - x) ** 2 + (_DOWN - y) ** 2)).sum() / total)
    rows.append((x, y, extent, np.log(change.mean() + _AT_REST)))
  (x0, y0, extent0, size0), (x1, y1, extent1, size1) = rows
  size = (size0 + size1) / 2 - np.log(_AT_REST)
  return np.array([x1 - x0, y1 - y0, extent1 - extent0, extent1, size, size1 - size0])
