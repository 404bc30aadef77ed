"""Gradients of the objective: in one piece, or of a batch that is encoded in parts and contrasted whole.

Encoding in parts ("gradient caching", Gao et al. 2021) keeps the activations of one part at a time. The batch is
encoded part by part without keeping anything but the embeddings; losses and their gradients with respect to the
embeddings are computed over the whole batch; then each part is encoded again and its embeddings' gradients are carried
back to the parameters. The result is the gradient of the whole batch, dropout included, for one encoding more.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dlkd_jax.data.batch import Batch
from dlkd_jax.errors import UserError
from dlkd_jax.models.students import Student
from dlkd_jax.training.objective import (
  Embeddings,
  compute_objective,
  contrast,
  encode_frames,
  encode_tokens,
)


def objective_and_gradients(
  params: Any, student: Student, batch: Batch, *, key: jax.Array, **contrasted: Any
) -> tuple[dict[str, jax.Array], Any]:
  """Computes the objective of a batch and its gradient with respect to the parameters.

  Arguments are those of `compute_objective`; `options.micro_batches` says in how many parts the batch is encoded.

  Returns:
    Every part of the objective by name, and the gradients.

  Raises:
    UserError: the rows of a device do not divide by the number of parts.
  """
  parts, mesh = contrasted['options'].micro_batches, contrasted['mesh']
  if parts == 1:
    objective = jax.value_and_grad(compute_objective, has_aux=True)
    (_, found), gradients = objective(params, student, batch, key=key, **contrasted)
    return found, gradients

  dropout_key, loss_key = jax.random.split(key)
  frames = {'student_frames': batch.student_frames, 'frame_layout': batch.frame_layout.replace(where=None)}
  tokens = {'student_tokens': batch.student_tokens, 'token_layout': batch.token_layout.replace(where=None)}
  tokens |= {'query_anchors': batch.query_anchors}
  frames = _Encoder(encode_frames, student, dropout_key, frames, parts, mesh)
  tokens = _Encoder(encode_tokens, student, dropout_key, tokens, parts, mesh)
  embeddings = Embeddings(frames.encode(params), tokens.encode(params))
  loss = jax.value_and_grad(contrast, has_aux=True)
  (_, found), cotangents = loss(embeddings, batch, student, key=loss_key, **contrasted)
  gradients = frames.carry_back(params, cotangents.frames, jax.tree.map(jnp.zeros_like, params))
  return found, tokens.carry_back(params, cotangents.queries, gradients)


class _Encoder:
  """One side of the student, on one part of the rows after another."""

  def __init__(self, encode, student: Student, key: jax.Array, rows: dict[str, Any], parts: int, mesh: Mesh | None):
    count, devices = jax.tree.leaves(rows)[0].shape[0], 1 if mesh is None else mesh.size
    if count % (parts * devices):
      raise UserError(
        f'a batch has {count} rows on {devices} device(s), which config.training.micro_batches = {parts} parts do not '
        'divide; choose a number of parts that divides the rows of a device.'
      )
    self._encode, self._student, self._key, self._parts = encode, student, key, parts
    self._rows = jax.tree.map(self._interleave, rows)

  def _interleave(self, array: jax.Array) -> jax.Array:
    """`[R, …]` → `[R / parts, parts, …]`: part k has every parts-th row, so that each device has rows of each part."""
    return array.reshape(-1, self._parts, *array.shape[1:])

  def _apply(self, params: Any, part: jax.Array) -> dict[str, jax.Array]:
    rows = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, part, axis=1, keepdims=False), self._rows)
    nothing = dict.fromkeys(Batch.__dataclass_fields__)
    return self._encode(params, self._student, Batch(**{**nothing, **rows}), self._key)

  def encode(self, params: Any) -> dict[str, jax.Array]:
    """Encodes all rows, part by part."""
    encoded = jax.lax.map(lambda part: self._apply(params, part), jnp.arange(self._parts))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), encoded)

  def carry_back(self, params: Any, cotangents: dict[str, jax.Array], gradients: Any) -> Any:
    """Adds to `gradients` those that the embeddings' cotangents give for the parameters."""
    cotangents = jax.tree.map(self._interleave, cotangents)

    def add(total, part):
      _, backward = jax.vjp(lambda p: self._apply(p, part), params)
      own = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, part, axis=1, keepdims=False), cotangents)
      return jax.tree.map(jnp.add, total, backward(own)[0]), None

    return jax.lax.scan(add, gradients, jnp.arange(self._parts))[0]
