"""Operations of the matrix products and convolutions of a traced program, loops counted as often as they run.

The compiler's cost analysis counts the body of a loop once and a kernel not at all; the trace knows both.
"""

from __future__ import annotations

import collections
import math
from typing import Any

from jax.extend import core


def count(jaxpr: core.ClosedJaxpr) -> dict[str, int]:
  """Counts the operations of all products and convolutions, 2 for a multiplication with its addition, on all devices.

  Args:
    jaxpr: of the whole program, as `jax.stages.Traced.jaxpr`.

  Returns:
    Operations by the type of the operands (the wider of the two): 'bfloat16', 'float32', … Loops of unknown length
    count as one round, of branches the most expensive counts.
  """
  return dict(_count(jaxpr.jaxpr))


def _count(jaxpr: Any) -> collections.Counter[str]:
  total: collections.Counter[str] = collections.Counter()
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      left, right = (variable.aval for variable in equation.invars)
      (contracted, _), _ = equation.params['dimension_numbers']
      inner = math.prod(left.shape[axis] for axis in contracted)
      kind = max(left.dtype, right.dtype, key=lambda dtype: dtype.itemsize)
      total[str(kind)] += 2 * inner * math.prod(equation.outvars[0].aval.shape)
      continue
    if equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval
      channels = kernel.shape[equation.params['dimension_numbers'].rhs_spec[0]]
      total[str(kernel.dtype)] += 2 * math.prod(equation.outvars[0].aval.shape) * (kernel.size // channels)
      continue
    inner = [_count(each) for each in _jaxprs(equation.params)]
    if equation.primitive.name == 'cond':
      inner = [max(inner, key=lambda counts: sum(counts.values()))]
    times = _times(equation)
    for counts in inner:
      total.update({kind: times * operations for kind, operations in counts.items()})
  return total


def _times(equation: Any) -> int:
  """Returns how often the program inside an equation runs, over all devices."""
  name, parameters = equation.primitive.name, equation.params
  if name == 'scan':
    return parameters['length']
  if name == 'shard_map':  # Written for one device.
    return math.prod(size for axis, size in parameters['mesh'].shape.items() if axis in parameters['newly_manual_axes'])
  if name == 'pallas_call':
    return math.prod(parameters['grid_mapping'].grid)
  return 1


def _jaxprs(parameters: dict[str, Any]):
  """Yields the programs among an equation's parameters. A custom derivative is in it as its function alone."""
  for value in parameters.values():
    for each in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(each, 'eqns'):
        yield each
      elif hasattr(each, 'jaxpr') and hasattr(each.jaxpr, 'eqns'):
        yield each.jaxpr
