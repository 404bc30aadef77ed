"""The stream of training batches: shuffled each epoch, shared by processes, resumed exactly.

Everything follows from the seed and the number of batches taken: batch number n of a run is a pure function of the two,
whatever the number of threads or worker processes, so resuming is starting at n.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grain
from absl import flags

from dlkd_jax.data.batch import Batch
from dlkd_jax.data.collation import Collator
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.data.sources import Source


class TrainPipeline:
  """An endless stream of batches; each epoch has every video exactly once, in an order of its own.

  Batches do not straddle epochs. The last batch of an epoch may have fewer videos; it is kept, and padded to the same
  number of rows as the others with `video_mask` false: it comes once in an epoch, so computing its padding is cheaper
  than compiling the step for one more shape. Its captions are padded to a size of their own, smaller one.

  Attributes:
    steps_per_epoch: batches in an epoch, the same on every process.
    num_videos: videos in the source.
  """

  def __init__(self, dataset: grain.MapDataset, order: dict[str, int], options: PipelineOptions):
    """See `train_pipeline`.

    Args:
      dataset: one epoch of batches, drawn anew in the next.
      order: what the order of videos depends on.
      options: how far and with how many processes to read ahead.
    """
    self.steps_per_epoch = len(dataset)
    self.num_videos = order['num_videos']
    self._dataset, self._order, self._options = dataset.repeat(), order, options

  def __iter__(self) -> TrainIterator:
    """Starts at the first batch of the first epoch."""
    return TrainIterator(self._dataset, self._order, self._options, self.steps_per_epoch)


class TrainIterator(Iterator[Batch]):
  """A place in the stream of batches.

  Attributes:
    batches: batches taken since the start of the run, those before a resume included.
  """

  def __init__(
    self,
    dataset: grain.MapDataset,
    order: dict[str, int],
    options: PipelineOptions,
    steps_per_epoch: int,
  ):
    """See `TrainPipeline.__iter__`."""
    self._dataset, self._order, self._options = dataset, order, options
    self._steps_per_epoch = steps_per_epoch
    self._ahead: grain.DatasetIterator | None = None
    self.batches = 0

  @property
  def epoch(self) -> int:
    """The epoch, from 0, that the next batch belongs to."""
    return self.batches // self._steps_per_epoch

  def __next__(self) -> Batch:
    """Returns the next batch, as numpy arrays that nothing else holds."""
    if self._ahead is None:
      self._ahead = self._start()
    batch = next(self._ahead)
    self.batches += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """Returns where the stream stands, as a dictionary that JSON can hold.

    It counts the batches that were taken, not those read ahead.
    """
    return {**self._order, 'batches': self.batches}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to where `get_state` stood; the next batches are the same to the bit.

    Raises:
      ValueError: the state is of a stream in another order (seed, number of videos or batch size).
    """
    for name, value in self._order.items():
      if state.get(name) != value:
        raise ValueError(
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

  def _start(self) -> grain.DatasetIterator:
    options = self._options
    rest = self._dataset.slice(slice(self.batches, None))
    # One thread makes one batch at a time, with `read_threads` of its own: batches are large, and it is better to have
    # the next one early than several half done.
    threads = min(1, options.prefetch_batches)
    ahead = rest.to_iter_dataset(grain.ReadOptions(threads, options.prefetch_batches))
    if options.num_workers:
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own here, which fails in a program that parses none.
      ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(options.num_workers))
    return iter(ahead)


def train_pipeline(
  source: Source,
  options: PipelineOptions,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
) -> TrainPipeline:
  """Makes the stream of training batches of a source.

  Args:
    source: records of videos, see `dlkd_jax.data.sources`.
    options: sizes of batches and how to read them.
    seed: order of the videos; another seed gives another order in every epoch.
    process_index: this process, from 0.
    process_count: processes that share each batch; this one gives `batch_videos / process_count` of its videos.

  Returns:
    The stream; `iter` of it gives batches and can be stopped and resumed.

  Raises:
    ValueError: the source is empty, or the options do not suit the number of processes.
  """
  if not 0 <= process_index < process_count:
    raise ValueError(f'process_index is {process_index}; expected 0 to {process_count - 1}')
  if len(source) == 0:
    raise ValueError('the training split has no videos; expected at least one')
  # The rows are drawn, not the records: a process then reads its own videos only, and the order of an epoch, which
  # all processes must agree on, does not depend on how many they are. `seed` scatters the seeds; given to `shuffle`
  # itself, which adds the epoch to it, epoch 1 of seed 0 would repeat epoch 0 of seed 1.
  rows = grain.MapDataset.range(len(source)).seed(seed).shuffle()
  batches = rows.batch(options.batch_videos)
  dataset = batches.map(Collator(source, options, process_index, process_count))
  order = {'seed': int(seed), 'num_videos': len(source), 'batch_videos': options.batch_videos}
  return TrainPipeline(dataset, order, options)
