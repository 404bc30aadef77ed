"""The stream of training batches: shuffled each epoch, shared by processes, resumed exactly.

Everything follows from the seed and the number of batches taken: batch number n of a run is a pure function of the two,
whatever the number of threads, processes or devices, so resuming is starting at n. How the videos of a batch are shared
among devices and packed into rows follows from their lengths; it changes where they lie, not which they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grain

from dlkd_jax.data.batch import Batch
from dlkd_jax.data.collation import Collator, check_lengths
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.data.shapes import Feature, Plan, batch_shapes, make_plan
from dlkd_jax.data.sources import Lengths, Source, scan_lengths
from dlkd_jax.errors import UserError

# What a plan looks at, whichever is least: numbers, not seconds, so that all processes look at the same.
_PLANNED_BATCHES = 200
_PLANNED_EPOCHS = 5
_PLANNED_VIDEOS = 50_000


class TrainPipeline:
  """An endless stream of batches; each epoch has every video exactly once, in an order of its own.

  Batches do not straddle epochs. The last batch of an epoch may have fewer videos; it is kept, with as many places for
  videos as the others and `video_mask` false in the rest.

  Attributes:
    steps_per_epoch: batches in an epoch, the same on every process.
    num_videos: videos in the source.
    plan: the shapes of the batches, the same on every process.
    features: width and type of each array of features, the same on every process.
  """

  def __init__(self, dataset: grain.MapDataset, order: dict[str, int], plan: Plan, features: dict[str, Feature]):
    self.steps_per_epoch = len(dataset)
    self.num_videos = order['num_videos']
    self.plan, self.features = plan, features
    self._dataset, self._order = dataset.repeat(), order

  def __iter__(self) -> TrainIterator:
    """Starts at the first batch of the first epoch."""
    return TrainIterator(self._dataset, self._order, self.plan.options.prefetch_batches)

  def shapes(self) -> list[Batch]:
    """Returns the batches that the step will see, of all processes together, as `jax.ShapeDtypeStruct`."""
    return [batch_shapes(level, self.plan.options.shards, self.features) for level in self.plan.levels]


class TrainIterator(Iterator[Batch]):
  """A place in the stream of batches.

  Attributes:
    batches: batches taken since the start of the run, those before a resume included.
  """

  def __init__(self, dataset: grain.MapDataset, order: dict[str, int], ahead: int):
    self._dataset, self._order, self._depth = dataset, order, ahead
    self._ahead: grain.DatasetIterator | None = None
    self.batches = 0

  def __next__(self) -> Batch:
    """Returns the next batch, as numpy arrays that nothing else holds."""
    if self._ahead is None:
      rest = self._dataset.slice(slice(self.batches, None))
      # One thread makes one batch at a time, with `read_threads` of its own: batches are large, and it is better to
      # have the next one early than several half done.
      self._ahead = iter(rest.to_iter_dataset(grain.ReadOptions(min(1, self._depth), self._depth)))
    batch = next(self._ahead)
    self.batches += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """Returns where the stream stands, as a dictionary that JSON can hold.

    It counts the batches that were taken, not those read ahead. Neither processes, devices nor packing are part of it:
    a run of two processes is resumed by one, and the other way round.
    """
    return {**self._order, 'batches': self.batches}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to where `get_state` stood; the next batches are the same to the bit.

    Raises:
      UserError: the state is of a stream in another order (seed, number of videos or batch size).
    """
    for name, value in self._order.items():
      if state.get(name) != value:
        raise UserError(
          f'the saved place in the data has {name} {state.get(name)} and this run has {value}; the order of videos '
          f'differs: run with the same {name}, or start anew in another work directory'
        )
    self.close()
    self.batches = int(state['batches'])

  def close(self) -> None:
    """Stops reading ahead; the next batch starts it again."""
    if self._ahead is not None:
      self._ahead.close()
      self._ahead = None


def train_pipeline(
  source: Source,
  options: PipelineOptions,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  *,
  lengths: Lengths | None = None,
) -> TrainPipeline:
  """Makes the stream of training batches of a source.

  Args:
    source: records of videos, see `dlkd_jax.data.sources`.
    options: sizes of batches and how to read them; `options.shards` counts the devices of all processes.
    seed: order of the videos; another seed gives another order in every epoch.
    process_index: this process, from 0.
    process_count: processes that share each batch; this one reads and gives the shards from
      `process_index * shards / process_count` on, `shards / process_count` of them.
    lengths: of the records of the source, from `open_lengths`; None: every record is read once to find them.

  Returns:
    The stream; `iter` of it gives batches and can be stopped and resumed, also by another number of processes.

  Raises:
    UserError: the source is empty, a record of it cannot be trained on, the lengths are of another number of records,
      or the shards do not divide over the processes.
  """
  if not 0 <= process_index < process_count:
    raise ValueError(f'process_index is {process_index}; expected 0 to {process_count - 1}')
  if len(source) == 0:
    raise UserError('the training split has no videos; expected at least one')
  if lengths is None:
    lengths = scan_lengths(source)
  if len(lengths) != len(source):
    raise UserError(f'there are lengths of {len(lengths)} records and {len(source)} records; cut both alike')
  check_lengths(source, lengths, options)
  collator = Collator(source, lengths, plan_of_run(lengths, options, seed), process_index, process_count)
  order = {'seed': int(seed), 'num_videos': len(source), 'batch_videos': options.batch_videos}
  dataset = _drawn(len(source), options, seed).map(collator)
  return TrainPipeline(dataset, order, collator.plan, collator.features)


def plan_of_run(lengths: Lengths, options: PipelineOptions, seed: int) -> Plan:
  """Returns the plan that `train_pipeline` makes, of the first batches of the run and the last of its first epoch."""
  batches = _drawn(len(lengths), options, seed)
  videos = min(len(lengths), options.batch_videos)
  most = max(1, min(_PLANNED_BATCHES, _PLANNED_EPOCHS * len(batches), _PLANNED_VIDEOS // videos))
  run, last = batches.repeat(), len(batches) - 1
  return make_plan((run[number] for number in sorted({*range(most), last})), lengths, options)


def _drawn(videos: int, options: PipelineOptions, seed: int) -> grain.MapDataset:
  """Returns one epoch of batches of records, by their number, drawn anew in the next."""
  # A process then reads its own videos only, and the order of an epoch, which all processes must agree on, does not
  # depend on how many they are. `seed` scatters the seeds; given to `shuffle` itself, which adds the epoch to it,
  # epoch 1 of seed 0 would repeat epoch 0 of seed 1.
  return grain.MapDataset.range(videos).seed(seed).shuffle().batch(options.batch_videos)
