"""What a compiled program costs: memory, operations, exchange, and the time that they imply."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax

from dlkd_jax.tools.planning import collectives, hlo, products, roofline, traffic
from dlkd_jax.tools.planning.collectives import Collective
from dlkd_jax.tools.planning.roofline import Roofline
from dlkd_jax.tools.planning.topologies import Topology

# Two wordings of the compiler's refusal.
_NEEDED = re.compile(r'Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds')


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device, by the compiler.

  Attributes:
    arguments: of the program.
    outputs: of it; those that take the place of an argument are not counted.
    temporaries: most at any time in between.
    code: of the program itself.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int

  @property
  def peak(self) -> int:
    """All together."""
    return self.arguments + self.outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one execution of a program costs on each device.

  Attributes:
    memory: as the compiler laid it out.
    products: operations of the matrix products on a device, by type of the operands, from the trace.
    compiler_flops: all operations on a device by the compiler, which counts loops once and kernels not at all.
    memory_bytes: moved between a device and its main memory.
    collectives: what it exchanges.
    roofline: the least time.
    unknown_loops: loops counted as one round because the program's text does not tell how many they make.
    compile_seconds: that the compilation took here.
  """

  memory: Memory
  products: dict[str, float]
  compiler_flops: float
  memory_bytes: float
  collectives: list[Collective]
  roofline: Roofline
  unknown_loops: list[str]
  compile_seconds: float

  def as_dict(self) -> dict[str, Any]:
    """Returns everything for a JSON file."""
    bound = {'seconds': self.roofline.seconds, 'limit': self.roofline.limit}
    return dataclasses.asdict(self) | {
      'memory': dataclasses.asdict(self.memory) | {'peak': self.memory.peak},
      'roofline': dataclasses.asdict(self.roofline) | bound,
    }


class RefusedError(Exception):
  """The compiler refused the program; the message is its own."""


class DoesNotFitError(RefusedError):
  """The program needs more memory than a device has.

  Attributes:
    needed: bytes, None where the compiler does not say.
  """

  def __init__(self, needed: float | None, message: str):
    """Takes the bytes needed and the compiler's words."""
    super().__init__(message)
    self.needed = needed


def estimate(traced: jax.stages.Traced, topology: Topology) -> Cost:
  """Compiles a traced program and reads off what it costs.

  Args:
    traced: the program; its arguments lie on devices of the topology.
    topology: the devices.

  Raises:
    DoesNotFitError: it needs more memory than a device has.
    RefusedError: the compiler refused it for another reason.
  """
  start = time.perf_counter()
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    message = str(error).splitlines()[0]
    if 'RESOURCE_EXHAUSTED' in message:
      raise DoesNotFitError(_needed(str(error)), message) from error
    raise RefusedError(message) from error
  seconds = time.perf_counter() - start
  devices = len(jax.tree.leaves(compiled.input_shardings)[0].device_set)
  program = hlo.parse(compiled.as_text())
  exchanged = collectives.find(program, devices)
  per_device = {kind: operations / devices for kind, operations in products.count(traced.jaxpr).items()}
  moved = traffic.memory_bytes(program)
  return Cost(
    memory=_memory(compiled),
    products=per_device,
    compiler_flops=float((compiled.cost_analysis() or {}).get('flops', 0.0)),
    memory_bytes=moved,
    collectives=exchanged,
    roofline=roofline.bound(topology.chip, per_device, moved, collectives.total_sent(exchanged)),
    unknown_loops=program.unknown_loops,
    compile_seconds=seconds,
  )


def _memory(compiled: jax.stages.Compiled) -> Memory:
  stats = compiled.memory_analysis()
  return Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
  )


def _needed(message: str) -> float | None:
  found = _NEEDED.search(message)
  if found is None:
    return None
  number, unit = (found[group] or found[group + 2] for group in (1, 2))
  return float(number) * 2 ** (10 * (1 + 'KMGT'.index(unit)))
