"""Choosing a few levels of static sizes for many batches, so that little of them stays empty."""

from __future__ import annotations

import numpy as np

# A level is worth its compilation where it saves one part in so many of the cost.
_WORTH = 200
# Room of a level for a kind of which one was seen: one part in so many.
_LEAST_ROOM = 40
_ROUNDS = 12


def choose(needs: np.ndarray, weights: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
  """Chooses levels of sizes.

  The largest level holds every batch seen, with as much again above it as the largest lies above the typical one, for
  batches that were not seen. The others are moved, one size of one level at a time, for as long as the cost sinks.
  Everything is whole numbers, so that all processes choose alike.

  Args:
    needs: `[n, k]` whole numbers, what each of n batches needs of each of k sizes.
    weights: `[k]` whole numbers, cost of a unit of each size.
    most: the most levels.

  Returns:
    `[m, k]` levels, cheapest first, m at most `most`; and `[n]` the level that each batch takes, the first that holds
    it.
  """
  top = needs.max(axis=0)
  top = top + (top - np.sort(needs, axis=0)[len(needs) // 2])
  best = top[None]
  best_cost = _cost(best, needs, weights)
  for count in range(2, most + 1):
    levels = _improve(_start(needs, weights, top, count), needs, weights)
    cost = _cost(levels, needs, weights)
    if (best_cost - cost) * _WORTH >= best_cost:
      best, best_cost = levels, cost
  best = best[np.argsort(best @ weights, kind='stable')]
  taken = _taken(best, needs)
  # A level that nobody takes is dropped, but for the largest: it is there for batches to come.
  kept = [level for level in range(len(best)) if level == len(best) - 1 or np.any(taken == level)]
  best = _roomy(best[kept], needs, weights)
  return best, _taken(best, needs)


def _roomy(levels: np.ndarray, needs: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns the levels, with room in those that lie far below the next.

  Such a level holds a kind of batches of its own, as the short last one of an epoch. Few of them were seen, and one
  that is a little larger would pay for the next level.
  """
  levels = levels.copy()
  taken = _taken(levels, needs)
  price = levels @ weights
  for level in range(len(levels) - 1):
    if price[level] * 5 < price[level + 1] * 4:
      own = np.sort(needs[taken == level], axis=0)
      room = np.maximum(own[-1] - own[len(own) // 2], -(-levels[level] // _LEAST_ROOM))
      # A size that no batch of this kind differs in needs none.
      constant = (own[0] == own[-1]) & (len(own) > 1)
      levels[level] = np.minimum(levels[level] + np.where(constant, 0, room), levels[-1])
  return levels[np.argsort(levels @ weights, kind='stable')]


def _start(needs: np.ndarray, weights: np.ndarray, top: np.ndarray, count: int) -> np.ndarray:
  """Returns levels that hold equal parts of the batches in the order of their cost, and the largest."""
  ordered = needs[np.argsort(needs @ weights, kind='stable')]
  ends = [max(1, len(needs) * part // count) for part in range(1, count)]
  return np.stack([*(ordered[:end].max(axis=0) for end in ends), top])


def _improve(levels: np.ndarray, needs: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Moves single sizes of all levels but the last to where the whole cost is least, until nothing moves."""
  candidates = [np.unique(needs[:, size]) for size in range(needs.shape[1])]
  cost = _cost(levels, needs, weights)
  for _ in range(_ROUNDS):
    before = cost
    for level in range(len(levels) - 1):
      for size, values in enumerate(candidates):
        tried = np.repeat(levels[None], len(values), axis=0)
        tried[:, level, size] = values
        costs = _costs(tried, needs, weights)
        least = int(costs.argmin())
        if costs[least] < cost:
          levels, cost = tried[least], costs[least]
    if cost == before:
      break
  return levels


def _costs(levels: np.ndarray, needs: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns `[c]` cost of all batches under each of c choices of levels `[c, m, k]`, of which the last holds all."""
  fits = (needs[:, None, None] <= levels).all(axis=-1)  # [n, c, m]
  price = levels @ weights
  return np.where(fits, price, np.iinfo(np.int64).max).min(axis=-1).sum(axis=0)


def _cost(levels: np.ndarray, needs: np.ndarray, weights: np.ndarray) -> int:
  return int(_costs(levels[None], needs, weights)[0])


def _taken(levels: np.ndarray, needs: np.ndarray) -> np.ndarray:
  """Returns `[n]` the first level that holds each batch; levels are in the order of their price."""
  return (needs[:, None] <= levels).all(axis=-1).argmax(axis=1)
