"""Reductions over a matrix of scores, a part of it at a time.

Sizes: B videos, Q captions, N entries: the captions or the videos.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlkd_jax.losses.masks import Pairs

_PARTS = 8
# Numbers in a matrix below which it is taken whole.
_SMALL = 2**19
# Entries of a part are a multiple of the lanes of a TPU's vector unit.
_LANES = 128


def by_blocks(
  function: Callable[[jax.Array, Pairs, Any], Any],
  scores: Any,
  pairs: Pairs,
  vectors: Any = None,
  *,
  axis: int,
) -> Any:
  """Computes vectors over the entries of a view from its matrices, in about eight parts one after another.

  What the function makes of a whole matrix on its way (masked scores, exponentials, targets) then exists for a part of
  the entries only, whether or not the compiler folds it into the reductions.

  Args:
    function: (scores, pairs, vectors) of a part → `[n]` arrays over its n entries. It may not mix entries.
    scores: pytree of `[Q, B]`.
    pairs: pairs of the view.
    vectors: pytree of `[N]` arrays over the entries.
    axis: along which the function reduces: 1 over videos, so that the entries are captions, 0 the other way round.

  Returns:
    What the function returns for the whole, `[N]` arrays.
  """
  matrix = jax.tree.leaves(scores)[0]
  entries = matrix.shape[1 - axis]
  size = -(-entries // (_PARTS * _LANES)) * _LANES
  if matrix.size < _SMALL or size >= entries:
    return function(scores, pairs, vectors)

  def part(start):
    def take(x, axis=0):
      return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    slices = jax.tree.map(lambda x: take(x, 1 - axis), scores), _take_entries(pairs, take, axis)
    return function(*slices, jax.tree.map(take, vectors))

  count = -(-entries // size)
  # The last part starts early enough to be whole; what it computes again is dropped.
  starts = jnp.minimum(jnp.arange(count) * size, entries - size)
  results = jax.lax.map(part, starts)
  last = entries - (count - 1) * size
  return jax.tree.map(lambda x: jnp.concatenate([x[:-1].reshape(-1), x[-1, size - last :]]), results)


def _take_entries(pairs: Pairs, take: Callable[[jax.Array], jax.Array], axis: int) -> Pairs:
  """Takes a part of the captions (axis 1) or of the videos (axis 0) of a view."""
  names = ('labels', 'captions', 'caption_ordinals') if axis else ('videos', 'video_ids', 'video_ordinals')
  return pairs.replace(**{name: take(getattr(pairs, name)) for name in names})
