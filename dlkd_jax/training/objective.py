"""From a batch to the objective: student, similarities of its branches and of the teacher, total loss.

The encoders are plain functions of arrays that the partitioner spreads over the mesh. Similarities and losses, which
relate every caption to every video of the batch, run under `shard_map` and say themselves what the devices exchange.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, PartitionSpec

from dlkd_jax import sharding
from dlkd_jax.data.batch import Batch, unit_rows
from dlkd_jax.layout import Layout
from dlkd_jax.losses.pairs import Pairs, masked_mean
from dlkd_jax.losses.total import BranchView, LossInputs, Term, total_loss
from dlkd_jax.models.students import Student
from dlkd_jax.sharding import BATCH_AXES
from dlkd_jax.similarity.max_over_frames import max_frame_similarity, own_mask


@dataclasses.dataclass(frozen=True)
class ObjectiveOptions:
  """How the objective is computed."""

  terms: tuple[Term, ...]
  form: str  # Of the similarity: plain, blocked or pallas.
  block_rows: int | None  # Rows of frames that the blocked form takes at once; None: by `product_bytes`.
  product_bytes: int | None  # That the products of a block may take; None: what suits this process's backend.
  micro_batches: int  # Parts that a batch is encoded in, while the losses see it whole; divides a device's rows.
  teacher_dtype: Any  # Of the teacher's products; None keeps float32.


class Embeddings(NamedTuple):
  """What the student makes of a batch."""

  # Branch → `[R, L, H]`, or as `Student.layouts` says; and `[R, L]` of what a student sowed as `measures`, by names as
  # `<branch>/<module>/<name>`.
  frames: dict[str, jax.Array]
  queries: dict[str, jax.Array]  # Branch → `[Rw, S, H]`, by slots.


def encode_frames(params: Any, student: Student, batch: Batch, key: jax.Array, deterministic: bool = False):
  """Encodes the frames of a batch, or of a part of its rows; see `Student.encode_frames`."""
  rngs = {'dropout': jax.random.fold_in(key, 0)}
  arguments = unit_rows(batch.student_frames), batch.frame_layout, deterministic
  encode = functools.partial(student.apply, {'params': params}, rngs=rngs, method='encode_frames')
  frames, sown = encode(*arguments, mutable=['measures'])
  measures = traverse_util.flatten_dict(sown.get('measures', {}))
  return frames | {'/'.join((path[0], *path[-2:])): found[0] for path, found in measures.items()}


def encode_tokens(params: Any, student: Student, batch: Batch, key: jax.Array, deterministic: bool = False):
  """Encodes the tokens of a batch, or of a part of its rows; see `Student.encode_tokens`."""
  rngs = {'dropout': jax.random.fold_in(key, 1)}
  arguments = unit_rows(batch.student_tokens), batch.token_layout, deterministic
  anchors = {} if batch.query_anchors is None else {'anchors': batch.query_anchors}
  return student.apply({'params': params}, *arguments, **anchors, rngs=rngs, method='encode_tokens')


def contrast(
  embeddings: Embeddings,
  batch: Batch,
  student: Student,
  *,
  coefficients: Mapping[str, jax.Array],
  key: jax.Array,
  options: ObjectiveOptions,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the losses of a batch from what the student made of it, over all devices of the mesh.

  `coefficients` are the scheduled scalars of this step, `key` that of the draws, `mesh` what batch and embeddings are
  split over along their first axes. Returns the scalar to minimise, and every part of it by name.
  """
  batch = batch.replace(student_frames=None, student_tokens=None, query_anchors=None)
  run = functools.partial(_contrast, student=student, options=options)
  if mesh is None or mesh.size == 1:
    return run(embeddings, batch, coefficients, key, axes=())
  split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
  run = jax.shard_map(
    functools.partial(run, axes=BATCH_AXES), mesh=mesh, in_specs=(split, split, whole, whole), out_specs=whole
  )
  return run(embeddings, batch, coefficients, key)


def _contrast(embeddings, batch, coefficients, key, *, student, options: ObjectiveOptions, axes: tuple[str, ...]):
  """Computes the losses from this device's share of the embeddings and of the batch."""
  text, video = _pairs(batch, axes)
  columns = sharding.local_labels(video.labels, batch.video_mask.shape[0], axes)
  layouts, view = student.layouts(batch.frame_layout), functools.partial(_view, options=options, axes=axes)
  has_teacher = batch.teacher_frames is not None
  reading = [x for x in options.terms if x.weight and x.own_curves and (has_teacher or not x.needs_teacher)]
  with_curves = {name for term in reading for name in term.branches}
  branches = {}
  for name in student.branches:  # A dictionary that went through jit or shard_map is sorted by name.
    queries = batch.token_layout.take(embeddings.queries[name])
    branches[name] = view(queries, embeddings.frames[name], layouts[name], columns if name in with_curves else None)
  teacher = None
  if has_teacher:
    taught = any(term.needs_teacher for term in reading)
    frames, queries = (
      x.astype(options.teacher_dtype or jnp.float32) for x in (batch.teacher_frames, batch.teacher_text)
    )
    teacher = jax.lax.stop_gradient(view(queries, frames, batch.frame_layout, columns if taught else None))
  inputs = LossInputs(branches, teacher, text, video, coefficients, key, axes)
  total, parts = total_loss(inputs, options.terms, key)
  for name in sorted(embeddings.frames.keys() - branches.keys()):
    parts[name] = masked_mean(embeddings.frames[name], layouts[name.split('/')[0]].mask, axes)
  return total, parts


def _view(
  queries: jax.Array, frames: jax.Array, layout: Layout, columns: jax.Array | None, options: ObjectiveOptions, axes
) -> BranchView:
  """Scores all captions against this device's videos; with own curves where the captions' columns are given."""
  everyone = sharding.gather(queries, axes)
  found = max_frame_similarity(
    everyone,
    frames,
    layout,
    columns,
    form=options.form,
    block_rows=options.block_rows,
    most_bytes=options.product_bytes,
  )
  return BranchView(
    text_cosine=sharding.to_text_view(found.cosine, axes),
    text_dot=sharding.to_text_view(found.dot, axes),
    video_cosine=found.cosine,
    video_dot=found.dot,
    own_curve=found.own_curve,
    own_mask=None if columns is None else own_mask(layout, columns),
    queries=everyone,
    own_queries=queries,
    frames=frames,
    layout=layout,
  )


def _pairs(batch: Batch, axes: tuple[str, ...]) -> tuple[Pairs, Pairs]:
  """Returns the pairs of the text view (own captions, all videos) and of the video view (all captions, own videos)."""
  everyone, columns = functools.partial(sharding.gather, axes=axes), batch.video_mask.shape[0]
  videos, ordinals = everyone(batch.video_mask), everyone(batch.video_ordinals)
  ids = jnp.arange(videos.shape[0], dtype=jnp.int32)
  text = Pairs(batch.labels, batch.caption_mask, videos, ids, batch.caption_ordinals, ordinals)
  labels, captions, ordinals = (everyone(x) for x in (batch.labels, batch.caption_mask, batch.caption_ordinals))
  ids = sharding.first_index(columns, axes) + jnp.arange(columns, dtype=jnp.int32)
  video = Pairs(labels, captions, batch.video_mask, ids, ordinals, batch.video_ordinals)
  return jax.tree.map(jnp.asarray, (text, video))


def compute_objective(
  params: Any, student: Student, batch: Batch, *, key: jax.Array, deterministic: bool = False, **contrasted: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the training objective of one batch: the scalar to minimise, and every part of it by name.

  The key is that of this step, for dropout and the draws of the losses; `deterministic` leaves dropout out. Without
  teacher arrays in the batch nothing is distilled. `contrasted` are `coefficients`, `options` and `mesh` of `contrast`.
  """
  dropout_key, loss_key = jax.random.split(key)
  embeddings = Embeddings(
    encode_frames(params, student, batch, dropout_key, deterministic),
    encode_tokens(params, student, batch, dropout_key, deterministic),
  )
  return contrast(embeddings, batch, student, key=loss_key, **contrasted)
