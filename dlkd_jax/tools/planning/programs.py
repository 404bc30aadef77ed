"""The programs of a run, traced for devices that are not here: the train step, and those of the evaluation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import NamedSharding

from dlkd_jax import sharding
from dlkd_jax.errors import UserError
from dlkd_jax.models.students import init_parameters
from dlkd_jax.retrieval import ranking
from dlkd_jax.similarity.common import product_bytes
from dlkd_jax.tools.planning.topologies import Topology
from dlkd_jax.tools.planning.workload import Workload, abstract_batch
from dlkd_jax.training import recipe
from dlkd_jax.training.state import abstract_state, make_train_step

# Nothing of a program's size depends on it; schedules are functions of the step.
_STEPS_PER_EPOCH = 100


def train_step(config: ml_collections.ConfigDict, topology: Topology, workload: Workload) -> jax.stages.Traced:
  """Traces the train step over all devices of a topology.

  Args:
    config: the recipe; `config.data.batch_videos` is the batch of all devices together.
    topology: the devices.
    workload: what batches hold.

  Raises:
    ValueError: the batch or the model axis does not divide over the devices, or the teacher is inside the step.
  """
  if config.teacher.online:
    raise UserError('steps that encode pictures cannot be planned; set config.teacher.online=False to plan the rest')
  mesh = sharding.make_mesh(topology.devices, config.mesh.model)
  student = recipe.make_student(config, topology.platform)
  optimizer, rate = recipe.make_optimizer(config, _STEPS_PER_EPOCH)
  state = abstract_state(_make_params(student, workload), optimizer, mesh)
  options = recipe.make_pipeline_options(config, mesh.size, config.loss.teacher)
  batch = _place(abstract_batch(workload, options), sharding.rows(mesh))
  key = _place(jax.eval_shape(lambda: jax.random.key(0, impl='threefry2x32')), sharding.replicated(mesh))
  coefficients = recipe.make_coefficients(config, _STEPS_PER_EPOCH)
  objective = recipe.make_objective_options(config, topology.platform)
  step = make_train_step(student, optimizer, coefficients, rate, objective, mesh)
  return step.trace(state, batch, key)


@dataclasses.dataclass(frozen=True)
class Gallery:
  """The split that an evaluation ranks.

  Attributes:
    videos: V.
    queries: Q.
  """

  videos: int = 2179
  queries: int = 10895


def evaluation_step(config: ml_collections.ConfigDict, topology: Topology, gallery: Gallery) -> jax.stages.Traced:
  """Traces the ranking of one block of queries in a gallery that is sharded over all devices.

  Scores of all branches, the fused score, and the rank of each query's own video. The videos fill whole blocks of
  `config.evaluation.block_videos`, lie in one segment, and are as long as the longest.

  Args:
    config: the recipe.
    topology: the devices.
    gallery: how many videos and queries.
  """
  mesh = sharding.make_mesh(topology.devices, config.mesh.model)
  student = recipe.make_student(config, topology.platform)
  options = recipe.make_evaluation_options(config, mesh, teacher=False)
  block = -(-config.evaluation.block_videos // mesh.size)
  videos = -(-gallery.videos // (block * mesh.size)) * block
  most_bytes = product_bytes(topology.platform)
  plan = ranking.plan_queries(gallery.queries, videos, config.data.max_frames, most_bytes)
  weights = tuple((name, options.weights[name]) for name in student.branches)
  fused = student.branches if len(weights) > 1 else ()

  def step(queries, frames, columns, own):
    scores = [ranking.score_segment(queries, frames, mesh=mesh, query_tile=plan.tile, most_bytes=most_bytes)]
    terms = ranking.weigh(scores, weights=weights) if fused else []
    return ranking.rank_block(scores, terms, columns, own, mesh=mesh, fused=fused, keep=False)

  whole, split = sharding.replicated(mesh), sharding.rows(mesh)
  hidden, every = config.model.hidden, videos * mesh.size
  array = lambda *shape, dtype=student.dtype: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
  names = student.branches
  return jax.jit(step).trace(
    _place({name: array(plan.block, hidden, dtype=jnp.float32) for name in names}, whole),
    _place({name: array(every, config.data.max_frames, hidden) for name in names}, split),
    _place(array(every, dtype=jnp.int32), split),
    _place(array(plan.block, dtype=jnp.int32), whole),
  )


def encoding_step(config: ml_collections.ConfigDict, topology: Topology, workload: Workload) -> jax.stages.Traced:
  """Traces the encoding of one block of the gallery's videos, on the devices that one process encodes on.

  Args:
    config: the recipe; `config.evaluation.block_videos` videos, made up to a multiple of the devices.
    topology: the devices of its first process are taken, or one alone where programs over some are refused.
    workload: for the feature size.
  """
  mesh = sharding.encoding_mesh(sharding.make_mesh(topology.devices))
  student = recipe.make_student(config, topology.platform)
  videos, length = -(-config.evaluation.block_videos // mesh.size) * mesh.size, config.data.max_frames

  def encode(params, frames, mask):
    encoded = student.apply({'params': params}, frames, mask, deterministic=True, method='encode_frames')
    return ranking.prepare_frames(encoded, dict.fromkeys(encoded, mask), mesh=mesh)

  params = _place(jax.eval_shape(_make_params(student, workload)), sharding.replicated(mesh))
  frames = jax.ShapeDtypeStruct((videos, length, workload.features[0]), jnp.float32)
  mask = jax.ShapeDtypeStruct((videos, length), jnp.bool_)
  return jax.jit(encode).trace(params, *_place((frames, mask), sharding.rows(mesh)))


def _make_params(student, workload: Workload):
  key = jax.random.key(0)
  return lambda: init_parameters(student, key, *workload.features[:2])


def _place(tree: Any, placement: NamedSharding) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement), tree)
