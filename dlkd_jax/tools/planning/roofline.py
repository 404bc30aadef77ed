"""The time below which a step cannot come, by the published numbers of the chips it runs on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dlkd_jax.tools.planning.topologies import Chip


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds that each resource of a chip is busy at its peak rate. A bound and not a measurement.

  Attributes:
    products: matrix products.
    memory: traffic with the main memory.
    interconnect: exchange with other chips, every link busy in the best pattern.
  """

  products: float
  memory: float
  interconnect: float

  @property
  def seconds(self) -> float:
    """The bound: everything overlaps, and the busiest resource never waits."""
    return max(self.products, self.memory, self.interconnect)

  @property
  def limit(self) -> str:
    """Name of the busiest resource."""
    return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]

  @property
  def seconds_apart(self) -> float:
    """Seconds where nothing overlaps, each resource still at its peak."""
    return self.products + self.memory + self.interconnect


def bound(chip: Chip, products: Mapping[str, float], memory: float, sent: float) -> Roofline:
  """Returns the roofline of a program.

  Args:
    chip: numbers of each device.
    products: operations of matrix products on one device, by type of the operands. Those of types narrower than
      float32 run at the rate of bfloat16.
    memory: bytes between a device and its main memory.
    sent: bytes that a device sends.
  """
  rates = {'float32': chip.float32, 'float64': chip.float32}
  seconds = sum(operations / rates.get(kind, chip.bfloat16) for kind, operations in products.items())
  return Roofline(seconds, memory / chip.bandwidth, sent / chip.interconnect)
