"""Options as the recipes' defaults have them, with changes; what no configuration holds is as for one device."""

from typing import Any

import jax
import jax.numpy as jnp

from dlkd_jax.config_defaults import base
from dlkd_jax.data.batch import PipelineOptions
from dlkd_jax.losses.total import Term
from dlkd_jax.models.dldkd import DlDkdStudent
from dlkd_jax.retrieval.evaluate import EvaluationOptions
from dlkd_jax.training import recipe
from dlkd_jax.training.objective import ObjectiveOptions

WEIGHTS = {'inheritance': 0.7, 'exploration': 0.3}


def _group(name: str, *without: str) -> dict[str, Any]:
  return {field: value for field, value in base('none')[name].items() if field not in without}


def student(**changes) -> DlDkdStudent:
  """A student of the default sizes in float32."""
  fields = _group('model', 'name', 'options', 'distilled', 'precision')
  return DlDkdStudent(**(fields | {'max_frames': 128, 'max_words': 30, 'dtype': jnp.float32} | changes))


def terms(branches=tuple(WEIGHTS), distilled=('inheritance',), **changes) -> tuple[Term, ...]:
  """The losses of the default recipe, with changes of the group `loss`."""
  config = base('none')
  config.model.branches, config.model.distilled = branches, distilled
  config.loss.update(changes)
  return recipe.make_terms(config)


def coefficients(alpha, beta, distillation, hard_negatives=True) -> dict[str, jax.Array]:
  """Scheduled scalars of the losses."""
  values = {'alpha': alpha, 'beta': beta, 'distillation': distillation}
  values = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
  return values | {'hard_negatives': jnp.asarray(hard_negatives)}


def objective_options(loss: tuple[Term, ...] | None = None, **changes) -> ObjectiveOptions:
  """The objective of the default recipe, in the blocked form."""
  given = {'form': 'blocked', 'block_rows': None, 'product_bytes': None, 'micro_batches': 1, 'teacher_dtype': None}
  return ObjectiveOptions(loss or terms(), **(given | changes))


def pipeline_options(**changes) -> PipelineOptions:
  """The pipeline of the default recipe, on one device and with the teacher's features."""
  given = _group('data', 'dataset', 'data_dir', 'max_videos', 'on_device')
  given |= {'teacher': True, 'pixels': False, 'shards': 1, 'row_multiple': 1, 'word_sizes': (30,)}
  return PipelineOptions(**(given | changes))


def evaluation_options(**changes) -> EvaluationOptions:
  """The evaluation of the default recipe, on this process's first device."""
  given = {'weights': WEIGHTS, 'teacher': True, 'keep_scores': False, 'product_bytes': None, 'mesh': None}
  return EvaluationOptions(**(given | changes))
