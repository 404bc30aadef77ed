"""How many bytes a compiled program moves between a chip and its main memory."""

from __future__ import annotations

import math

from dlkd_jax.tools.planning.hlo import Computation, Execution, Instruction, Program

# These name arrays, or stand for others that are counted.
_FREE = {
  'parameter', 'constant', 'get-tuple-element', 'tuple', 'bitcast', 'while', 'conditional', 'call', 'after-all',
  'partition-id', 'replica-id', 'iota', 'copy-done', 'opt-barrier',
}  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')


def memory_bytes(program: Program) -> float:
  """Returns the bytes that a device reads from and writes to its main memory, loops counted as often as they run.

  Every instruction that is executed by itself reads its operands and writes its result, as far as these lie in main
  memory; what is fused lies in registers, and what the compiler placed on the chip costs nothing. A slice costs what is
  taken of its operand. Padding of layouts is not counted, and reading an operand twice counts once, so this is a lower
  estimate.
  """
  return sum(
    execution.times * _bytes(program, execution)
    for execution in program.executions()
    if not execution.fused and execution.instruction.opcode not in _FREE and not _done(execution.instruction)
  )


def _done(instruction: Instruction) -> bool:
  return instruction.opcode.endswith(('-done', '-update')) and not instruction.opcode.startswith('dynamic')


def _bytes(program: Program, execution: Execution) -> float:
  instruction, scope = execution.instruction, execution.computation
  if instruction.opcode == 'slice-start':  # (source, destination, context); as much is read as is written
    source, destination = instruction.arrays[:2]
    return destination.bytes * ((source.space == 0) + (destination.space == 0))
  if instruction.opcode.endswith('-start') and len(instruction.arrays) > 1:  # Source and destination are results both.
    return _main(instruction)
  if instruction.opcode in _SLICES:
    return 2 * _main(instruction)
  if instruction.opcode == 'dynamic-update-slice':
    return 2 * _main(scope[instruction.operands[1]])
  if instruction.opcode == 'fusion':
    return _fusion_bytes(program, instruction, scope)
  return _main(instruction) + sum(_main(scope[name]) for name in dict.fromkeys(instruction.operands))


def _fusion_bytes(program: Program, instruction: Instruction, scope: Computation) -> float:
  """Returns what a fusion reads and writes; of an operand that it only takes slices of, the slices."""
  fused = program.computations[instruction.called('calls')]
  total = 0
  for place, name in enumerate(instruction.operands):
    whole = _main(scope[name])
    total += min(whole, _read(program, fused, _parameter(fused, place))) if whole else 0
  root = next(i for i in fused.values() if i.root)
  while root.opcode in ('bitcast', 'convert') and root.operands:
    root = fused[root.operands[0]]
  if root.opcode == 'dynamic-update-slice':
    return total + sum(array.bytes for array in fused[root.operands[1]].arrays)
  return total + _main(instruction)


def _parameter(fused: Computation, place: int) -> Instruction:
  return next(i for i in fused.values() if i.opcode == 'parameter' and int(i.argument) == place)


def _read(program: Program, fused: Computation, source: Instruction) -> float:
  """Returns the bytes that a fused computation reads of one of its values; infinite where it takes it whole."""
  total = 0.0
  for user in fused.values():
    if source.name not in user.operands:
      continue
    if user.opcode in _SLICES and user.operands[0] == source.name:
      total += sum(array.bytes for array in user.arrays)
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] == source.name:
      continue  # Written in place.
    elif user.opcode == 'bitcast':
      total += _read(program, fused, user)
    elif user.opcode == 'fusion':
      inner = program.computations[user.called('calls')]
      places = [place for place, name in enumerate(user.operands) if name == source.name]
      total += sum(_read(program, inner, _parameter(inner, place)) for place in places)
    else:
      return math.inf
  return total


def _main(instruction: Instruction) -> int:
  """Returns the bytes of an instruction's result that lie in main memory."""
  return sum(array.bytes for array in instruction.arrays if array.space == 0)
