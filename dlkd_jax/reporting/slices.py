"""Parts of a split whose captions have something in common; every caption is in exactly one part of each kind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RATIO_EDGES = (0.0, 0.2, 0.4, 1.0)
_PARTS = 4


class Slice(NamedTuple):
  """Some captions of a split.

  Attributes:
    label: what they have in common.
    rows: `[Q]` bool, true for them.
  """

  label: str
  rows: np.ndarray


def moment_ratios(moments: np.ndarray, durations: np.ndarray) -> np.ndarray:
  """Returns the share of its video that each caption's moment takes.

  Args:
    moments: `[Q, 2]` start and end in seconds, NaN where unknown. What lies outside the video does not count.
    durations: `[Q]` seconds of each caption's video, NaN where unknown.

  Returns:
    `[Q]` in (0, 1]; NaN where the moment is unknown or has no extent.
  """
  with np.errstate(invalid='ignore', divide='ignore'):
    start, end = np.maximum(moments[:, 0], 0.0), np.minimum(moments[:, 1], durations)
    ratios = (end - start) / durations
    return np.where(ratios > 0, ratios, np.nan)


def by_edges(values: np.ndarray, edges: Sequence[float], unit: str = '', unknown: str = 'unknown') -> list[Slice]:
  """Parts by half-open ranges (edge, next edge]; the first part takes its lower edge, too.

  Args:
    values: `[Q]`; NaN goes to the part that is unknown.
    edges: rising; values below the first or above the last go to the outermost parts.
    unit: written behind the numbers.
    unknown: label of captions whose value is NaN.

  Returns:
    The parts that hold a caption.
  """
  values = np.asarray(values, np.float64)
  place = np.clip(np.searchsorted(edges, values, side='left') - 1, 0, len(edges) - 2)
  place[np.isnan(values)] = -1
  unit = f' {unit}' if unit else ''
  labels = [f'({_number(a)}, {_number(b)}]{unit}' for a, b in itertools.pairwise(edges)]
  return [s for s in [*_parts(place, labels), Slice(unknown, place == -1)] if s.rows.any()]


def by_quantiles(values: np.ndarray, unit: str = '', parts: int = _PARTS, unknown: str = 'unknown') -> list[Slice]:
  """Parts of about as many captions each, by rising value; equal values stay together.

  Args:
    values: `[Q]`; NaN goes to the part that is unknown.
    unit: written behind the numbers.
    parts: at most.
    unknown: label of captions whose value is NaN.

  Returns:
    The parts that hold a caption, each labelled with its smallest and largest value.
  """
  values = np.asarray(values, np.float64)
  known = values[~np.isnan(values)]
  borders = np.unique(np.quantile(known, np.arange(1, parts) / parts, method='lower')) if known.size else np.zeros(0)
  place = np.searchsorted(borders, values, side='left')
  place[np.isnan(values)] = -1
  unit = f' {unit}' if unit else ''
  found = []
  for index in range(len(borders) + 1):
    rows = place == index
    if rows.any():
      low, high = _number(values[rows].min()), _number(values[rows].max())
      found.append(Slice((low if low == high else f'{low} to {high}') + unit, rows))
  return found + [Slice(unknown, place == -1)] * bool((place == -1).any())


def words(captions: Sequence[str]) -> np.ndarray:
  """Returns the number of words of each caption, `[Q]`: what white space separates."""
  return np.array([len(caption.split()) for caption in captions], np.float64)


def _parts(place: np.ndarray, labels: Sequence[str]) -> list[Slice]:
  return [Slice(label, place == index) for index, label in enumerate(labels)]


def _number(value: float) -> str:
  return f'{value:.0f}' if float(value).is_integer() else f'{value:.1f}'
