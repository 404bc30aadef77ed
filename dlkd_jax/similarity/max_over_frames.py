"""Similarity of a query and a video: the maximum over the video's frames, as cosine and as dot product.

Three forms with the same values and gradients: `plain` holds all products (the oracle, and the baseline of benchmarks),
`blocked` goes over blocks of rows, one where the products fit into memory, `pallas` is a kernel for TPUs. In all of
them the gradient of a maximum goes to the first frame that reaches it.

Sizes: B videos, Q captions, R rows of L frames, S slots a row, H hidden.
"""

from __future__ import annotations

import chex
import flax.struct
import jax
import jax.numpy as jnp

from dlkd_jax.errors import UserError
from dlkd_jax.layout import Layout, padded_layout
from dlkd_jax.similarity import blocked
from dlkd_jax.similarity.common import (
  MOST_FRAMES,
  PADDED,
  SlotTable,
  inverse_norm,
  own_rows,
  product_bytes,
  slot_table,
  vary_alike,
)

FORMS = ('plain', 'blocked', 'pallas')


@flax.struct.dataclass
class FrameSimilarity:
  """Similarities of Q captions and B videos under one branch.

  Attributes:
    cosine: `[Q, B]` float32, maximum over real frames of the cosine.
    dot: `[Q, B]` float32, the same of the dot product; may sit on another frame.
    own_curve: `[Q, L]` float32, cosine with every position of the row that holds the caption's own video; `own_mask`
      names the positions of that video. 0 where the label is -1. None where no labels were given.
  """

  cosine: jax.Array
  dot: jax.Array
  own_curve: jax.Array | None = None


def choose_form(form: str, platform: str | None = None) -> str:
  """Returns the form that a setting means: 'auto' is 'pallas' on a TPU and 'blocked' elsewhere."""
  if form == 'auto':
    return 'pallas' if (platform or jax.default_backend()) == 'tpu' else 'blocked'
  return form


def max_frame_similarity(
  queries: jax.Array,
  frames: jax.Array,
  layout: Layout | jax.Array,
  labels: jax.Array | None = None,
  *,
  form: str = 'blocked',
  block_rows: int | None = None,
  most_bytes: int | None = None,
) -> FrameSimilarity:
  """Computes cosine and dot maxima over frames from one matrix product.

  cosine[q, v] = max_l ⟨x_q, f_vl⟩ / (‖x_q‖ ‖f_vl‖) and dot[q, v] = max_l ⟨x_q, f_vl⟩, l over the real frames of v.
  The norm of the query is divided out after the maximum, so both maxima come from the same products.

  Padded videos and those without a real frame get -1e10, with a zero gradient.

  Args:
    queries: `[Q, H]`, float32 or bfloat16; products are summed in float32 either way.
    frames: `[R, L, H]`, of the queries' dtype.
    layout: of the videos in the rows, or `[R, L]` bool, true at real frames, for one video a row. Column b of the
      result is the video at `layout.where[b]`.
    labels: `[Q]` int32, column of each caption's own video, -1 where it has none here; gives the own-video curves.
    form: one of `FORMS`. Pallas is compiled where the program is lowered for a TPU and interpreted elsewhere, which is
      slow and which JAX refuses inside a `shard_map` with `check_vma`.
    block_rows: rows of a block of the form 'blocked'; None: as many as `most_bytes` allow.
    most_bytes: what the products of a block may take; None: what suits this process's backend (`product_bytes`).

  Raises:
    UserError: a row is longer than 32767, in a form other than plain.
  """
  if form not in FORMS:
    raise ValueError(f'form of the similarity is {form!r}; choose one of {", ".join(FORMS)}')
  layout = _as_layout(layout)
  queries, frames = jnp.asarray(queries), jnp.asarray(frames)
  chex.assert_rank([queries, frames], [2, 3])
  chex.assert_equal(queries.shape[-1], frames.shape[-1])
  chex.assert_equal(queries.dtype, frames.dtype)
  chex.assert_shape(layout.slot, frames.shape[:2])
  table = slot_table(layout)
  rows = None
  if labels is not None:
    chex.assert_shape(labels, queries.shape[:1])
    rows = own_rows(layout, jnp.asarray(labels))

  if form == 'plain':
    cosine, dot, curve = _plain(queries, frames, table, rows)
  else:
    cosine, dot, curve = _by_index(form, block_rows, most_bytes, queries, frames, table, rows)

  # The norm of the query comes last, and no form returns anything but -1e10 for a video that is not there.
  query_scale = inverse_norm(queries)[:, None]
  cosine = jnp.where(table.present[None], cosine * query_scale, PADDED)
  dot = jnp.where(table.present[None], dot, PADDED)
  return FrameSimilarity(cosine, dot, None if curve is None else curve * query_scale)


def own_mask(layout: Layout | jax.Array, labels: jax.Array) -> jax.Array:
  """Tells which positions of an own curve are frames of the caption's own video: `[Q, L]` bool.

  Layout and labels are those of `max_frame_similarity`; all is false where the label is -1.
  """
  layout, labels = _as_layout(layout), jnp.asarray(labels)
  own_slot = layout.where[jnp.maximum(labels, 0)] % layout.slots
  slot = layout.slot[jnp.maximum(own_rows(layout, labels), 0)]
  return (slot == own_slot[:, None]) & (labels >= 0)[:, None]


def _as_layout(layout: Layout | jax.Array) -> Layout:
  return jax.tree.map(jnp.asarray, layout if isinstance(layout, Layout) else padded_layout(jnp.asarray(layout)))


def _plain(
  queries: jax.Array, frames: jax.Array, table: SlotTable, rows: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Maxima over frames of `[Q, R, L]` products; cosines still lack the norm of the query."""
  products = jnp.einsum('qh,rlh->qrl', queries, frames, preferred_element_type=jnp.float32)
  scaled = products * inverse_norm(frames)[None]
  results = []
  for values in (scaled, products):
    slots = [_first_maximum(values, table.slot == s) for s in range(table.first.shape[1])]
    results.append(jnp.stack(slots, axis=-1).reshape(queries.shape[0], -1)[:, table.slot_of])
  curve = None
  if rows is not None:
    curve = jnp.take_along_axis(scaled, jnp.maximum(rows, 0)[:, None, None], axis=1)[:, 0]
    curve = jnp.where((rows >= 0)[:, None], curve, 0.0)
  return (*results, curve)


def _by_index(form, block_rows, most_bytes, queries, frames, table, rows):
  """The forms that keep the frame of each maximum for a backward pass of their own."""
  length = frames.shape[1]
  if length > MOST_FRAMES:
    raise UserError(
      f'rows of {length} frames; the {form} similarity goes up to {MOST_FRAMES}: lower config.data.max_frames, or set '
      'config.similarity.form=plain'
    )
  with_curve = rows is not None
  if rows is None:
    rows = jnp.full(queries.shape[:1], -1, jnp.int32)
  queries, frames, rows, *fields = vary_alike(queries, frames, rows, *jax.tree.leaves(table))
  table = jax.tree.unflatten(jax.tree.structure(table), fields)
  if form == 'pallas':
    from dlkd_jax.similarity import pallas_tpu  # Pallas takes a tenth of a training's start, and is for TPUs alone.

    dot, cosine, curve = pallas_tpu.maxima(with_curve, queries, frames, table, rows)
  else:
    most_bytes = most_bytes or product_bytes(jax.default_backend())
    block = blocked.block_size(frames.shape[0], length * queries.shape[0] * 4, block_rows, most_bytes)
    dot, cosine, curve = blocked.maxima(block, with_curve, queries, frames, table, rows)
  return cosine.T, dot.T, curve.T if with_curve else None


def _first_maximum(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Maximum of `[Q, R, L]` values over `[R, L]` true positions, with the gradient at the first that reaches it."""
  values = jnp.where(mask[None], values, PADDED)
  first = jnp.argmax(jax.lax.stop_gradient(values), axis=-1)
  at_first = jnp.arange(values.shape[-1])[None, None] == first[..., None]
  return jnp.sum(jnp.where(at_first, values, 0.0), axis=-1)
