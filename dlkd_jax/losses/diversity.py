"""Losses on the captions of one video, which a ranking loss lets collapse: they differ, and fit different moments.

Both are GMMFormer v2's (Wang et al. 2024), as terms of `dlkd_jax.losses.total`. A caption lies on the device of its
video, so that all pairs of one video are on one device.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlkd_jax.losses.pairs import MASKED, global_sum, masked_mean, mean_and_count
from dlkd_jax.losses.total import LossInputs
from dlkd_jax.similarity.common import unit

_NEVER = 4.0  # Costs more than any cosine can.


def diverse(inputs: LossInputs, branch: str, key: jax.Array, *, margin: float, sharpness: float):
  """Pushes the captions of one video apart, until their cosine is about −margin.

  loss = (1/Q) Σ (1 + cos_ij)·softplus(sharpness·(cos_ij + margin)) over ordered pairs of captions i ≠ j of one video.
  Its part `same_video_cosine` is the mean of cos_ij.
  """
  del key
  own, queries = inputs.text, unit(inputs.branches[branch].own_queries)
  cosine = queries @ queries.T
  together = (own.labels[:, None] == own.labels[None]) & own.captions[:, None] & own.captions[None]
  together &= own.caption_ordinals[:, None] != own.caption_ordinals[None]
  terms = jnp.where(together, (1.0 + cosine) * jax.nn.softplus(sharpness * (cosine + margin)), 0.0)
  total, captions = global_sum(jnp.stack([terms.sum(), own.captions.sum().astype(jnp.float32)]), inputs.axes)
  return total / jnp.maximum(captions, 1.0), {'same_video_cosine': masked_mean(cosine, together, inputs.axes)}


def matching(inputs: LossInputs, branch: str, key: jax.Array, *, captions: int):
  """Draws the captions of one video to different vectors of it: the assignment with the largest sum of cosines.

  loss = 1 − mean of cos(caption, its vector) over all assigned pairs of videos with at least two captions, of which the
  first `captions` are taken; 0 without any. No gradient flows through the choice. Reads own curves (`Term.own_curves`).
  Its part `distinct_best` is the share of these captions whose best vector no earlier one of the video has for its own.
  """
  del key
  view, own = inputs.branches[branch], inputs.video.own
  counts = jnp.sum(own, axis=0)
  order = jnp.arange(captions)[None]
  there = (order < counts[:, None]) & (counts >= 2)[:, None]
  # The captions of a video are adjacent.
  rows = jnp.minimum(jnp.argmax(own, axis=0)[:, None] + order, own.shape[0] - 1)
  width = max(view.own_curve.shape[1], captions)  # So that there is a column for each caption.
  fill = [(0, 0), (0, 0), (0, width - view.own_curve.shape[1])]
  curves = jnp.pad(view.own_curve[rows], fill)
  mask = jnp.pad(view.own_mask[rows], fill) & there[..., None]
  cost = jnp.where(there[..., None], jnp.where(mask, -curves, _NEVER), 0.0)
  chosen = jax.vmap(assign)(jax.lax.stop_gradient(cost))[..., None]
  cosine, matched = (jnp.take_along_axis(x, chosen, axis=2)[..., 0] for x in (curves, mask))
  mean, pairs = mean_and_count(cosine, matched, inputs.axes)
  best = jnp.argmax(jnp.where(mask, curves, MASKED), axis=2)
  earlier = (best[:, :, None] == best[:, None]) & there[:, None] & (order < order.T)[None]
  distinct = masked_mean(~jnp.any(earlier, axis=2), there, inputs.axes)
  return jnp.where(pairs > 0, 1.0 - mean, 0.0), {'distinct_best': distinct}


def assign(cost: jax.Array) -> jax.Array:
  """Assigns each row a column of its own with the least sum, by the Hungarian method (shortest augmenting paths).

  Args:
    cost: `[n, m]` finite, n ≤ m.

  Returns:
    `[n]` int32, the column of each row.
  """
  rows, columns = cost.shape
  # Rows and columns count from 1; column 0 holds the row that is being added. All is made of `cost`, so that it varies
  # over the axes of a mesh as `cost` does.
  zero, none = 0.0 * cost[0, 0], (0.0 * cost[0, 0]).astype(jnp.int32)
  blank = zero + jnp.zeros(columns + 1)

  def add(row, state):
    u, v, owner = state
    owner = owner.at[0].set(row)

    def extend(path):
      column, least, back, used, u, v = path
      used = used.at[column].set(True)
      reduced = cost[owner[column] - 1] - u[owner[column]] - v[1:]
      reduced = jnp.concatenate([jnp.full(1, jnp.inf), reduced])
      better = ~used & (reduced < least)
      least, back = jnp.where(better, reduced, least), jnp.where(better, column, back)
      free = jnp.where(used, jnp.inf, least)
      step = jnp.min(free)
      u, v = u.at[owner].add(jnp.where(used, step, 0.0)), jnp.where(used, v - step, v)
      return jnp.argmin(free).astype(jnp.int32), jnp.where(used, least, least - step), back, used, u, v

    start = none, blank + jnp.inf, none + jnp.zeros(columns + 1, jnp.int32), blank > 0.0, u, v
    column, _, back, _, u, v = jax.lax.while_loop(lambda path: owner[path[0]] != 0, extend, start)

    def turn(state):
      column, owner = state
      return back[column], owner.at[column].set(owner[back[column]])

    _, owner = jax.lax.while_loop(lambda state: state[0] != 0, turn, (column, owner))
    return u, v, owner

  first = zero + jnp.zeros(rows + 1), blank, none + jnp.zeros(columns + 1, jnp.int32)
  _, _, owner = jax.lax.fori_loop(1, rows + 1, add, first)
  mine = owner[None, 1:] == jnp.arange(1, rows + 1)[:, None]
  return jnp.argmax(mine, axis=1).astype(jnp.int32)
