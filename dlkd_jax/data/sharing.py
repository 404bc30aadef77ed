"""Sharing the videos of a batch among the devices, evenly in number and in work.

All devices take a step together, in arrays of one shape, so what counts is the fullest: of frames, of tokens and of
captions alike.
"""

from __future__ import annotations

import numpy as np


def share(loads: np.ndarray, shards: int) -> np.ndarray:
  """Shares videos among shards.

  The heaviest video goes first, each to the shard that has place and for which the sum over resources of (load so far
  × load of the video), in shares of the whole, is least: a shard gets little of what it already has much of.

  Args:
    loads: `[n, k]` whole numbers, how much of each of k resources a video takes: frames, tokens, captions.
    shards: D.

  Returns:
    `[n]` shard of each video, from 0. A shard has at most ceil(n / D) of them. The same for the same arguments.
  """
  count = len(loads)
  if shards == 1 or not count:
    return np.zeros(count, np.int64)
  # In whole millionths, so that no rounding tells one process from another.
  relative = loads * 1_000_000 // np.maximum(loads.sum(axis=0), 1)
  order = np.argsort(-relative.sum(axis=1), kind='stable')
  limit = -(-count // shards)
  taken = np.zeros(shards, np.int64)
  held = np.zeros((shards, loads.shape[1]), np.int64)
  found = np.zeros(count, np.int64)
  for video in order:
    cost = held @ relative[video]
    cost[taken >= limit] = np.iinfo(np.int64).max
    shard = int(cost.argmin())
    found[video] = shard
    held[shard] += relative[video]
    taken[shard] += 1
  return found
