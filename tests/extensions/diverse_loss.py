"""A loss term on the vectors of captions: those of one video shall point into different directions."""

import jax
import jax.numpy as jnp

from dlkd_jax.losses.pairs import global_sum
from dlkd_jax.losses.total import LossInputs
from dlkd_jax.similarity.common import inverse_norm


def diverse(
  inputs: LossInputs, branch: str, key: jax.Array, *, margin: float, sharpness: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """(1/Q) Σ over ordered pairs of captions of one video of (1 + cos)·softplus(sharpness·(cos + margin))."""
  view, own, everyone = inputs.branches[branch], inputs.text, inputs.video
  assert view.own_queries is not None and view.queries is not None  # Of the teacher they may be.
  queries, others = (x * inverse_norm(x)[:, None] for x in (view.own_queries, view.queries))
  cosine = queries @ others.T
  pairs = (own.labels[:, None] == everyone.labels[None]) & own.captions[:, None] & everyone.captions[None]
  pairs &= own.caption_ordinals[:, None] != everyone.caption_ordinals[None]
  terms = jnp.where(pairs, (1 + cosine) * jax.nn.softplus(sharpness * (cosine + margin)), 0.0)
  total, captions = global_sum(jnp.stack([terms.sum(), own.captions.sum().astype(jnp.float32)]), inputs.axes)
  return total / captions, {'pairs': global_sum(pairs.sum(), inputs.axes)}
