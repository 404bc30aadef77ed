"""What the devices of a compiled program send each other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from dlkd_jax.tools.planning.hlo import Execution, Instruction, Program

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_GROUPS = re.compile(r'replica_groups=\{\{([\d,]*)\}')
_IOTA_GROUPS = re.compile(r'replica_groups=\[(\d+),(\d+)\]<=')


@dataclasses.dataclass(frozen=True)
class Collective:
  """The exchanges of one kind.

  Attributes:
    kind: of `KINDS`.
    times: how many a device takes part in, in one execution of the program.
    result: bytes of their results on a device.
    sent: bytes that a device sends at least, whatever the algorithm: a ring's for gathers and reductions.
  """

  kind: str
  times: int
  result: int
  sent: float


def find(program: Program, devices: int) -> list[Collective]:
  """Finds the exchanges of a program, loops counted as often as they run.

  The compiler may choose another kind than was written: for instance it may gather small arrays by a reduction.

  Args:
    program: the parsed program of one device.
    devices: of the whole program, for exchanges among all.

  Returns:
    One entry for every kind that occurs, in the order of `KINDS`.
  """
  totals: dict[str, Collective] = {}
  for execution in program.executions():
    instruction = execution.instruction
    kind = instruction.opcode.removesuffix('-start')
    group = _group(instruction, devices) if kind in KINDS else 1
    if kind not in KINDS or group == 1 or _continues(execution):
      continue
    size = _result_bytes(instruction, kind)
    old = totals.get(kind, Collective(kind, 0, 0, 0.0))
    totals[kind] = Collective(
      kind,
      old.times + execution.times,
      old.result + size * execution.times,
      old.sent + _sent(kind, size, group) * execution.times,
    )
  return [totals[kind] for kind in KINDS if kind in totals]


def total_sent(collectives: Iterable[Collective]) -> float:
  """Returns the bytes that a device sends in all."""
  return sum(collective.sent for collective in collectives)


def _sent(kind: str, result: int, group: int) -> float:
  """Returns the least bytes that each of `group` devices sends for a result of so many bytes on each."""
  if kind == 'collective-permute':
    return result
  if kind == 'reduce-scatter':  # The operand is as many times as large as the group.
    return result * (group - 1)
  return result * (group - 1) / group * (2 if kind == 'all-reduce' else 1)


def _result_bytes(instruction: Instruction, kind: str) -> int:
  arrays = instruction.arrays
  if instruction.opcode.endswith('-start') and kind == 'collective-permute':
    arrays = arrays[1:2]  # (operand, result, …)
  elif instruction.opcode.endswith('-start') and kind != 'all-reduce':
    arrays = arrays[len(instruction.operands) :]  # (operands, results)
  return sum(array.bytes for array in arrays)


def _group(instruction: Instruction, devices: int) -> int:
  """Returns how many devices exchange with each other."""
  if instruction.opcode.startswith('collective-permute'):
    return devices
  if listed := _GROUPS.search(instruction.attributes):
    return len(listed[1].split(','))
  if iota := _IOTA_GROUPS.search(instruction.attributes):
    return int(iota[2])
  return devices


def _continues(execution: Execution) -> bool:
  """Whether this goes on with an exchange that is counted where it starts.

  The TPU compiler weaves an exchange into the computations that hide it, and writes it down in each of them. Only the
  first hands it to `AsyncCollectiveStart`.
  """
  if not execution.fused or 'chain_id=' not in execution.instruction.attributes:
    return False
  return not any('AsyncCollectiveStart' in other.attributes for other in execution.computation.values())
