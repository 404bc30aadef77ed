"""Plans a recipe's programs on a topology, and tells the result in words, as a table or as JSON."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from dlkd_jax import tables
from dlkd_jax.errors import UserError
from dlkd_jax.tools.planning import programs
from dlkd_jax.tools.planning.cost import Cost, DoesNotFitError, RefusedError, estimate
from dlkd_jax.tools.planning.programs import Gallery
from dlkd_jax.tools.planning.topologies import Topology
from dlkd_jax.tools.planning.workload import Workload

TRAIN, ENCODE, EVALUATE = 'train', 'encode', 'evaluate'
_TITLES = {
  TRAIN: 'train step, {videos} videos',
  ENCODE: 'evaluation: a block of videos encoded, by one process',
  EVALUATE: 'evaluation: a block of queries ranked in the whole gallery',
}
_HEADER = (
  'chips',
  'program',
  'memory a chip',
  'of it temporary',
  'products a chip',
  'sent a chip',
  'at least',
  'limited by',
  'videos/s at most',
)


@dataclasses.dataclass(frozen=True)
class Planned:
  """One program on one topology.

  Attributes:
    topology: the devices.
    program: `train`, `encode` or `evaluate`.
    videos: of the batch; None where there is no batch.
    cost: of the program; None where the compiler refused it.
    refusal: why it did: how much memory would be needed, or its own words.
  """

  topology: Topology
  program: str
  videos: int | None
  cost: Cost | None
  refusal: str | None = None

  @property
  def title(self) -> str:
    """What the program does."""
    return _TITLES[self.program].format(videos=f'{self.videos or 0:,}')

  def as_dict(self) -> dict[str, Any]:
    """Returns everything for a JSON file; numbers are of one device."""
    return {
      'topology': self.topology.name,
      'chip': self.topology.chip.name,
      'devices': len(self.topology.devices),
      'virtual': self.topology.virtual,
      'program': self.program,
      'videos': self.videos,
      'refusal': self.refusal,
      'cost': None if self.cost is None else self.cost.as_dict(),
    }


class Planner:
  """Plans the programs of one recipe."""

  def __init__(self, config: ml_collections.ConfigDict, workload: Workload, gallery: Gallery):
    """Takes the recipe, what its batches hold, and the split that it evaluates."""
    self._config, self._workload, self._gallery = config, workload, gallery

  def plan(self, topology: Topology, names: Sequence[str], batches: Sequence[int], grow: bool) -> Iterator[Planned]:
    """Compiles the programs and yields what each costs.

    Args:
      topology: the devices.
      names: of the programs.
      batches: videos of the train step's batches, over all devices.
      grow: doubles the last batch until it does not fit.

    Raises:
      ValueError: a program is unknown, or a batch does not suit the devices.
    """
    unknown = set(names) - set(_TITLES)
    if unknown:
      raise UserError(f'unknown programs {sorted(unknown)}; expected some of {", ".join(_TITLES)}.')
    if TRAIN in names:
      for videos in batches:
        planned = self._train(topology, videos)
        yield planned
      while grow and planned.cost is not None:
        videos *= 2
        planned = self._train(topology, videos)
        yield planned
    if ENCODE in names:
      traced = programs.encoding_step(self._config, topology, self._workload)
      yield self._estimate(traced, topology, ENCODE, None)
    if EVALUATE in names:
      traced = programs.evaluation_step(self._config, topology, self._gallery)
      yield self._estimate(traced, topology, EVALUATE, None)

  def _train(self, topology: Topology, videos: int) -> Planned:
    if videos < len(topology.devices):
      raise UserError(f'a batch of {videos} videos leaves some of the {len(topology.devices)} devices without any.')
    config = copy.deepcopy(self._config)
    config.data.batch_videos = videos
    return self._estimate(programs.train_step(config, topology, self._workload), topology, TRAIN, videos)

  def _estimate(self, traced, topology: Topology, program: str, videos: int | None) -> Planned:
    try:
      return Planned(topology, program, videos, estimate(traced, topology))
    except DoesNotFitError as error:
      needed = 'more memory than there is' if error.needed is None else _bytes(error.needed)
      return Planned(topology, program, videos, None, f'does not fit: needs {needed}')
    except RefusedError as error:
      return Planned(topology, program, videos, None, f'refused by the compiler: {error}')


def describe(planned: Planned) -> str:
  """Tells about one program in several lines."""
  chip, cost = planned.topology.chip, planned.cost
  lines = [f'{planned.topology.name} ({len(planned.topology.devices)} of {chip.name}): {planned.title}']
  if cost is None:
    return '\n'.join([*lines, f'  {planned.refusal}; a chip has {_bytes(chip.memory)}'])
  memory, bound = cost.memory, cost.roofline
  peak = f'{_bytes(memory.peak)} of {_bytes(chip.memory)}'
  if planned.topology.virtual:
    peak += ' (temporaries by the compiler of the CPU, not of a GPU)'
  lines += [
    f'  memory a chip      {peak}: arguments {_bytes(memory.arguments)}, outputs {_bytes(memory.outputs)}, '
    f'temporaries {_bytes(memory.temporaries)}, code {_bytes(memory.code)}',
    f'  products a chip    {_products(cost)}; the compiler, which counts loops once and kernels not at all, says '
    f'{cost.compiler_flops / 1e9:,.1f} GFLOP',
    f'  memory traffic     {_bytes(cost.memory_bytes)} a chip',
  ]
  for collective in cost.collectives:
    lines.append(
      f'  {collective.kind:<18} {collective.times:>4} times, results {_bytes(collective.result)}, '
      f'sent {_bytes(collective.sent)} a chip'
    )
  lines.append(
    f'  at least           {_seconds(bound.seconds)}, limited by {bound.limit} (products {_seconds(bound.products)}, '
    f'memory {_seconds(bound.memory)}, interconnect {_seconds(bound.interconnect)}; one after another '
    f'{_seconds(bound.seconds_apart)})'
  )
  if cost.unknown_loops:
    lines.append(f'  loops of unknown length, counted as one round: {", ".join(cost.unknown_loops)}')
  lines.append(f'  compiled here in   {cost.compile_seconds:.0f} s')
  return '\n'.join(lines)


def table(plans: Sequence[Planned]) -> str:
  """Returns a Markdown table of all programs."""
  return tables.as_markdown([_HEADER, *map(row, plans)], left=range(len(_HEADER)))


def row(planned: Planned) -> list[str]:
  """Returns the cells of one program in the table."""
  chip, cost = planned.topology.chip, planned.cost
  start = [f'{planned.topology.name} ({len(planned.topology.devices)})', planned.title]
  if cost is None:
    return [*start, planned.refusal, *[''] * (len(_HEADER) - 3)]
  sent = sum(collective.sent for collective in cost.collectives)
  rate = f'{planned.videos / cost.roofline.seconds:,.0f}' if planned.videos else ''
  cells = [
    f'{_bytes(cost.memory.peak)} of {_bytes(chip.memory)}',
    _bytes(cost.memory.temporaries),
    _products(cost),
    _bytes(sent),
    _seconds(cost.roofline.seconds),
    cost.roofline.limit,
    rate,
  ]
  return [*start, *cells]


def assumptions(plans: Sequence[Planned]) -> str:
  """Returns the peak rates that the times follow from, and where they are published."""
  chips = dict.fromkeys(planned.topology.chip for planned in plans)
  lines = [
    'Times are bounds by published peak rates as if everything overlapped, not measurements. A chip:',
    *(
      f'  {c.name}: {c.bfloat16 / 1e12:.0f} TFLOP/s bfloat16, {c.float32 / 1e12:.0f} float32 at default precision; '
      f'HBM {_bytes(c.memory)}, {c.bandwidth / 1e9:,.0f} GB/s; sends {c.interconnect / 1e9:.0f} GB/s. {c.source}'
      for c in chips
    ),
  ]
  if any(planned.topology.virtual for planned in plans):
    lines.append(
      '  Virtual devices stand for GPUs: operations, arguments and the exchange are those of the partitioned program; '
      'temporaries and memory traffic are of the CPU compiler.'
    )
  return '\n'.join(lines)


def _products(cost: Cost) -> str:
  parts = [f'{count / 1e9:,.1f} GFLOP {kind}' for kind, count in sorted(cost.products.items())]
  return ' + '.join(parts) or 'none'


def _bytes(count: float) -> str:
  for unit, size in (('GiB', 2**30), ('MiB', 2**20), ('KiB', 2**10)):
    if count >= size:
      return f'{count / size:,.1f} {unit}'
  return f'{count:.0f} B'


def _seconds(seconds: float) -> str:
  return f'{seconds * 1e3:,.2f} ms' if seconds >= 1e-4 else f'{seconds * 1e6:,.1f} µs'
