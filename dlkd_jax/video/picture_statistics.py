"""Picture features that need no weights: colours, gradients, and where the colours are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 48  # Pictures are averaged down to this many pixels a side, whatever their shape.
_GRID = 4  # Cells a side for means and contrasts.
_COARSE = 3  # Cells a side for orientations.
_ORIENTATIONS = 8
_LEVELS = 3  # Of each of red, green and blue in the histogram.
_HUES = 6
# Mean and scale of each part, rounded from pictures of many colours. Models divide a row by its length: what all
# pictures share would be most of it, and a student would not see past it.
_USUAL = (
  (0.4, 0.2),  # Means.
  (0.12, 0.08),  # Contrasts.
  (0.1, 0.2),  # The histogram.
  (0.07, 0.05),  # Orientations.
  (np.array([0.1, 0, 0.15, 0, 0.15]), np.array([0.15, 0.15, 0.2, 0.15, 0.2])),  # Hues: share, then two axes.
)


class PictureStatistics:
  """193 features of a picture, each about 0 in the mean and of magnitude about 1.

  Means of red, green and blue on a grid of 4 by 4 (48), the contrast of each cell (16), a histogram of 27 colours, the
  orientations of gradients on a grid of 3 by 3 (72), and for 6 hues their share, centre and extent (30).
  """

  form = name = 'statistics'
  files = False
  fingerprint = 'statistics:2'
  features = 3 * _GRID**2 + _GRID**2 + _LEVELS**3 + _ORIENTATIONS * _COARSE**2 + 5 * _HUES

  def prepare(self, image: np.ndarray) -> np.ndarray:
    """Returns the features [D] of a picture, uint8 [H, W, 3]; all the work is done here."""
    pixels = averaged_down(image)
    grey = pixels.mean(axis=2)
    parts = (cells(pixels, _GRID).mean(axis=(1, 3)), cells(grey, _GRID).std(axis=(1, 3)))
    return standardised((*parts, _histogram(pixels), _orientations(grey), _hues(pixels)), _USUAL)

  def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Returns prepared pictures as rows, [N, D]."""
    return np.stack(prepared)

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns features, float32 [N, D], of pictures, uint8 [H, W, 3]."""
    return self.encode([self.prepare(image) for image in images])


def averaged_down(image: np.ndarray) -> np.ndarray:
  """Returns a picture, uint8 [H, W, 3], as float32 [SIDE, SIDE, 3] from 0 to 1."""
  small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)
  return np.asarray(small, np.float32) / 255


def standardised(parts: Sequence[np.ndarray], usual: Sequence[tuple]) -> np.ndarray:
  """Returns float32 [D], all numbers of the parts, of each less its usual mean and by its usual scale."""
  each = [((part - mean) / scale).ravel() for part, (mean, scale) in zip(parts, usual, strict=True)]
  return np.concatenate(each).astype(np.float32)


def cells(pixels: np.ndarray, grid: int) -> np.ndarray:
  """Returns [SIDE, SIDE, …] as [grid, SIDE / grid, grid, SIDE / grid, …]."""
  size = SIDE // grid
  return pixels.reshape(grid, size, grid, size, *pixels.shape[2:])


def _histogram(pixels: np.ndarray) -> np.ndarray:
  """Returns the square roots of the shares of 27 colours."""
  levels = np.minimum((pixels * _LEVELS).astype(np.int64), _LEVELS - 1)
  index = levels @ np.array([_LEVELS**2, _LEVELS, 1])
  return np.sqrt(np.bincount(index.ravel(), minlength=_LEVELS**3) / index.size)


def _orientations(grey: np.ndarray) -> np.ndarray:
  """Returns the mean strength of gradients by cell and orientation, [9, 8]."""
  down, right = np.gradient(grey)
  strength, angle = np.hypot(down, right), np.arctan2(down, right)
  which = np.round(angle / (2 * np.pi) * _ORIENTATIONS).astype(np.int64) % _ORIENTATIONS
  bins = cells((which[..., None] == np.arange(_ORIENTATIONS)) * strength[..., None], _COARSE)
  return np.sqrt(bins.mean(axis=(1, 3)))


def _hues(pixels: np.ndarray) -> np.ndarray:
  """Returns for each hue the root of its share, and its centre and extent across, then down, from -1 to 1: [6, 5]."""
  low, high = pixels.min(axis=2), pixels.max(axis=2)
  red, green, blue = np.moveaxis(pixels, 2, 0)
  hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
  which = np.round(hue / (2 * np.pi) * _HUES).astype(np.int64) % _HUES
  weight = np.where(which[..., None] == np.arange(_HUES), (high - low)[..., None], 0)  # Of grey: none.
  total = weight.sum(axis=(0, 1))
  place = np.linspace(-1, 1, SIDE)
  rows = [np.sqrt(total / SIDE**2)]
  # A trace of a hue has no place: it moves from the middle as there is more of it.
  trust = total / (total + SIDE**2 / 200)
  for along in (weight.sum(axis=0), weight.sum(axis=1)):
    centre = (along * place[:, None]).sum(axis=0) / (total + 1e-6)
    extent = np.sqrt((along * (place[:, None] - centre) ** 2).sum(axis=0) / (total + 1e-6))
    rows += [centre * trust, extent * trust]
  return np.stack(rows, axis=1)
