"""Distillation of how the teacher's sentence vectors lie to each other: distances and angles among captions.

Relational distillation (Park et al. 2019), as terms of `dlkd_jax.losses.total`. Vectors are taken with length 1, since
scores are cosines.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlkd_jax.losses.pairs import global_sum, masked_mean, random_ranks
from dlkd_jax.losses.total import LossInputs
from dlkd_jax.similarity.common import unit

_SAME = 1e-6  # Squared distance below which two vectors are one, whose distance has no gradient.
_ANGLE_KEY = 1


def text_distance(inputs: LossInputs, branch: str, key: jax.Array):
  """Draws the distances among a branch's captions to the teacher's: mean of smooth L1 over all pairs of captions.

  On either side a distance is divided by the mean over all pairs of different captions. Its part `correlation` is that
  of the distances of both over these pairs.
  """
  del key
  own, everyone, axes = inputs.text, inputs.video, inputs.axes
  real = own.captions[:, None] & everyone.captions[None]
  others = real & (own.caption_ordinals[:, None] != everyone.caption_ordinals[None])
  scaled = []
  for view in (inputs.branches[branch], inputs.teacher):
    distance = _distances(view.own_queries, view.queries)
    scaled.append(distance / jnp.maximum(masked_mean(distance, others, axes), 1e-6))
  student, teacher = scaled
  loss = masked_mean(_smooth_l1(student - teacher), real, axes)
  # Both means are 1.
  products = [(student - 1.0) * (teacher - 1.0), (student - 1.0) ** 2, (teacher - 1.0) ** 2]
  together, mine, theirs = (masked_mean(jax.lax.stop_gradient(x), others, axes) for x in products)
  return loss, {'correlation': together * jax.lax.rsqrt(jnp.maximum(mine * theirs, 1e-12))}


def text_angle(inputs: LossInputs, branch: str, key: jax.Array, *, captions: int):
  """Draws the angles among a branch's captions to the teacher's: mean of smooth L1 over all triples of captions.

  The angle of i, j, k is ⟨e_ij, e_ik⟩, e_ij the unit vector from i to j. So many captions are drawn among those of the
  batch; a number whose cube fits into memory.
  """
  everyone, axes = inputs.video, inputs.axes
  total = everyone.captions.shape[0]
  count = global_sum(jnp.sum(inputs.text.captions), axes)
  ranks = random_ranks(jax.random.fold_in(key, _ANGLE_KEY), total, count)
  ranks = jnp.where(everyone.captions, ranks[jnp.maximum(everyone.caption_ordinals, 0)], total)
  drawn = jnp.argsort(ranks)[: min(captions, total)]
  real = everyone.captions[drawn]
  # Each device has the triples whose corner is a caption of its own videos.
  corner = jnp.any(everyone.own, axis=1)[drawn]
  student, teacher = (_angles(view.queries[drawn]) for view in (inputs.branches[branch], inputs.teacher))
  triples = corner[:, None, None] & real[None, :, None] & real[None, None]
  loss = jnp.sum(jnp.where(triples, _smooth_l1(student - teacher), 0.0))
  return global_sum(loss, axes) / jnp.maximum(jnp.minimum(count, drawn.shape[0]), 1).astype(jnp.float32) ** 3, {}


def _distances(rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Distances of unit vectors, `[q, Q]`."""
  squares = 2.0 - 2.0 * (unit(rows) @ unit(columns).T)
  return jnp.where(squares > _SAME, jnp.sqrt(jnp.maximum(squares, _SAME)), 0.0)


def _angles(vectors: jax.Array) -> jax.Array:
  """Angles of all triples, `[K, K, K]`, the corner first."""
  directions = unit(vectors)
  edges = unit(directions[None] - directions[:, None])
  return jnp.einsum('ijh,ikh->ijk', edges, edges)


def _smooth_l1(x: jax.Array) -> jax.Array:
  size = jnp.abs(x)
  return jnp.where(size < 1.0, 0.5 * x * x, size - 0.5)
