"""Reads the text of an optimised XLA program: computations, instructions, and how often each is executed.

The compiler's own cost analysis counts the body of a loop once. Here loops are counted as often as they run, as far as
the text tells: from the compiler's note, or from a counter that is compared with a constant.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_BYTES = {'pred': 1, 'c64': 8, 'c128': 16, 'token': 0, 'opaque': 0}
_ARRAY = re.compile(r'(?P<type>[a-z]\w*)\[(?P<dims>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?')
_HEADER = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) (?:\(.*\) -> .*)?\{$')
_INSTRUCTION = re.compile(r'^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$')
_NAME = re.compile(r'%([\w.\-]+)')
_SPACE = re.compile(r'S\((\d+)\)')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's result.

  Attributes:
    bits: of an element.
    dims: its shape.
    space: memory space; 0 is the main memory (HBM), others are on the chip.
  """

  bits: int
  dims: tuple[int, ...]
  space: int

  @property
  def bytes(self) -> int:
    """Bytes of its elements; padding of the layout is not counted."""
    return -(-math.prod(self.dims) * self.bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  Attributes:
    name: unique in its computation.
    opcode: as `fusion` or `all-reduce-start`.
    arrays: of the result, in order; several for a tuple.
    operands: names of the instructions it takes.
    argument: the text between its parentheses.
    attributes: the text behind them.
    root: whether it is the computation's result.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  argument: str
  attributes: str
  root: bool

  def called(self, attribute: str) -> str | None:
    """Returns the computation that an attribute (`calls`, `body`, …) names."""
    found = re.search(rf'\b{attribute}=%?([\w.\-]+)', self.attributes)
    return found[1] if found else None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
  """A parsed program.

  Attributes:
    computations: by name; instructions by name, in order.
    entry: name of the one that runs.
  """

  computations: dict[str, Computation]
  entry: str

  def executions(self) -> Iterator[Execution]:
    """Yields every instruction that is executed by itself, and every fused one, with the times it is executed."""
    yield from self._executions(self.entry, 1, False, True)

  @property
  def unknown_loops(self) -> list[str]:
    """Names of the loops whose number of rounds the text does not tell; they are counted as one round."""
    return sorted({e.instruction.name for e in self.executions() if e.instruction.opcode == 'while' and not e.known})

  def _executions(self, name: str, times: int, fused: bool, known: bool) -> Iterator[Execution]:
    computation = self.computations[name]
    for instruction in computation.values():
      opcode, inner = instruction.opcode, []
      trips = None
      if opcode == 'while':
        trips = self._trips(computation, instruction)
        inner = [instruction.called('body')]
      elif opcode in ('fusion', 'call', 'async-start'):
        inner = [instruction.called('calls') or instruction.called('to_apply')]
      elif opcode == 'conditional':
        inner = _branches(instruction)
      loop_known = opcode != 'while' or trips is not None
      yield Execution(instruction, computation, times, fused, loop_known)
      for called in filter(None, inner):
        rounds = times * (1 if trips is None else trips)
        yield from self._executions(called, rounds, fused or opcode == 'fusion', known)

  def _trips(self, computation: Computation, loop: Instruction) -> int | None:
    """Returns the rounds of a loop, None where they are not understood."""
    noted = re.search(r'"?known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', loop.attributes)
    if noted:
      return int(noted[1])
    bound = self._bound(loop.called('condition'))
    if bound is None:
      return None
    index, limit, strict = bound
    first = self._first_value(computation, loop, index)
    step = self._step(loop.called('body'), index)
    if first is None or not step or step < 0:
      return None
    return max(0, -(-(limit + (not strict) - first) // step))

  def _bound(self, name: str) -> tuple[int, int, bool] | None:
    """Returns (place of the counter, constant it is compared with, whether the counter stays below it)."""
    condition = self.computations[name]
    compare = next(i for i in condition.values() if i.root)
    outer = compare.operands
    if compare.opcode == 'fusion':
      inner = self.computations[compare.called('calls')]
      compare = next(i for i in inner.values() if i.root)
      sides = [inner[o] for o in compare.operands]
      sides = [condition[outer[int(s.argument)]] if s.opcode == 'parameter' else s for s in sides]
    else:
      sides = [condition[o] for o in outer]
    direction = re.search(r'direction=(\w+)', compare.attributes)
    if compare.opcode != 'compare' or len(sides) != 2 or direction is None or direction[1] not in ('LT', 'LE'):
      return None
    counter, limit = sides
    place, value = _place(counter), _constant(limit)
    return None if place is None or value is None else (place, value, direction[1] == 'LT')

  def _first_value(self, computation: Computation, loop: Instruction, index: int) -> int | None:
    state = computation[loop.operands[0]]
    if state.opcode != 'tuple':
      return None
    first = computation[state.operands[index]]
    while first.opcode in ('copy', 'bitcast', 'convert'):
      first = computation[first.operands[0]]
    return _constant(first)

  def _step(self, name: str, index: int) -> int | None:
    """Returns what a round adds to the counter."""
    body = self.computations[name]
    result = next(i for i in body.values() if i.root)
    if result.opcode != 'tuple':
      return None
    new, scope, outer = body[result.operands[index]], body, None
    while new.opcode in ('copy', 'bitcast'):
      new = scope[new.operands[0]]
    if new.opcode == 'fusion':
      scope, outer = self.computations[new.called('calls')], [body[o] for o in new.operands]
      new = next(i for i in scope.values() if i.root)
    if new.opcode != 'add':
      return None
    sides = [scope[o] for o in new.operands]
    if outer is not None:
      sides = [outer[int(s.argument)] if s.opcode == 'parameter' else s for s in sides]
    constants = [value for value in map(_constant, sides) if value is not None]
    return constants[0] if len(constants) == 1 else None


@dataclasses.dataclass(frozen=True)
class Execution:
  """An instruction and how often it is executed.

  Attributes:
    instruction: the instruction.
    computation: the one it stands in, where its operands are found.
    times: how often a device executes it, loops counted.
    fused: whether it is part of a fusion.
    known: false for a loop whose rounds are not understood.
  """

  instruction: Instruction
  computation: Computation
  times: int
  fused: bool
  known: bool


def parse(text: str) -> Program:
  """Parses the text of an optimised program, as `jax.stages.Compiled.as_text()` gives it.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry, current = None, None
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      current = computations.setdefault(header['name'], {})
      entry = header['name'] if header['entry'] else entry
    elif current is not None and (found := _INSTRUCTION.match(line)):
      instruction = _instruction(found['name'], found['rest'], bool(found['root']))
      current[instruction.name] = instruction
  if entry is None:
    raise ValueError('the text has no ENTRY computation; expected that of an optimised XLA program.')
  return Program(computations, entry)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
  end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:end], rest[end:].lstrip()
  opening = rest.index('(')
  closing = _closing(rest, opening)
  argument = rest[opening + 1 : closing]
  return Instruction(
    name=name,
    opcode=rest[:opening],
    arrays=tuple(_arrays(kind)),
    operands=tuple(_NAME.findall(argument)),
    argument=argument,
    attributes=rest[closing + 1 :],
    root=root,
  )


def _closing(text: str, opening: int) -> int:
  """Returns the place of the parenthesis that closes the one at `opening`."""
  depth = 0
  for place in range(opening, len(text)):
    depth += (text[place] == '(') - (text[place] == ')')
    if depth == 0:
      return place
  raise ValueError(f'a parenthesis is not closed in {text[:200]!r}.')


def _arrays(kind: str) -> Iterator[Array]:
  for found in _ARRAY.finditer(kind):
    name = found['type']
    digits = re.search(r'\d+', name)
    bits = _BYTES[name] * 8 if name in _BYTES else int(digits[0])
    space = _SPACE.search(found['layout'] or '')
    dims = tuple(int(d) for d in found['dims'].split(',') if d)
    yield Array(bits, dims, int(space[1]) if space else 0)


def _branches(instruction: Instruction) -> list[str]:
  listed = re.search(r'branch_computations=\{([^}]*)\}', instruction.attributes)
  if listed:
    return _NAME.findall(listed[1])
  return [instruction.called('true_computation'), instruction.called('false_computation')]


def _place(instruction: Instruction) -> int | None:
  found = re.search(r'\bindex=(\d+)', instruction.attributes)
  return int(found[1]) if instruction.opcode == 'get-tuple-element' and found else None


def _constant(instruction: Instruction) -> int | None:
  if instruction.opcode == 'constant' and re.fullmatch(r'-?\d+', instruction.argument):
    return int(instruction.argument)
  return None
