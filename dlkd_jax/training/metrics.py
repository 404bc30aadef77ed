"""The metrics of a step: a collection of clu, added up on the devices and fetched once a record."""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics


@flax.struct.dataclass
class Means(metrics.Metric):
  """Means of named scalars over steps. All are one vector: one array more or less costs each step its dispatch."""

  total: jax.Array  # `[n]` float32, sums over steps.
  count: jax.Array  # int32, of steps.
  names: tuple[str, ...] = flax.struct.field(pytree_node=False)

  @classmethod
  def from_model_output(cls, scalars: Mapping[str, jax.Array], **_) -> Means:
    total = jnp.stack([jnp.asarray(value, jnp.float32) for value in scalars.values()])
    return cls(total, jnp.ones((), jnp.int32), tuple(scalars))

  def merge(self, other: Means) -> Means:
    return self.replace(total=self.total + other.total, count=self.count + other.count)

  def compute(self) -> dict[str, float]:
    return dict(zip(self.names, np.asarray(self.total / self.count).tolist(), strict=True))


# What is recorded of steps; any other metric of clu may stand beside the means, with values by name.
StepMetrics = metrics.Collection.create(means=Means)


def of_step(scalars: Mapping[str, jax.Array]) -> StepMetrics:
  """Makes the metrics of one step from its named scalars."""
  return StepMetrics.single_from_model_output(scalars=scalars)


merge = jax.jit(lambda earlier, later: earlier.merge(later))


def fetch(collection: StepMetrics) -> dict[str, float]:
  """Waits for the steps and returns every metric of them by name."""
  computed = jax.device_get(collection).compute()
  return {name: float(value) for values in computed.values() for name, value in values.items()}
