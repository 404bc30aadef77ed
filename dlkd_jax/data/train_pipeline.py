"""The stream of training batches: shuffled each epoch, shared by processes, resumed exactly.

Everything follows from the seed and the number of batches taken: batch number n of a run is a pure function of the two,
whatever the number of threads, processes or devices, so resuming is starting at n. How the videos of a batch are shared
among devices and packed into rows follows from their lengths; it changes where they lie, not which they are.

Where the features of the whole split fit onto the devices, a batch is but the numbers of their rows
(`dlkd_jax.data.resident`). Where they do not, a batch at the sizes of TVR is 60 MB, so each video is copied once, from
its record to its place, by several threads (numpy lets go of the interpreter meanwhile).
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from dlkd_jax.allocation import KEPT_SHARE, available_bytes, keep_large_blocks
from dlkd_jax.data import sources
from dlkd_jax.data.batch import Batch, PipelineOptions, ShardShape, batch_shapes
from dlkd_jax.data.packing import Plan, Shard, arrange, make_layout, make_plan
from dlkd_jax.data.prepared import Prepared
from dlkd_jax.data.resident import Resident
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

  Attributes, the same on every process:
    steps_per_epoch: batches in an epoch.
    num_videos: videos in the source.
    plan, features, resident: those of the `Collator`.
  """

  def __init__(self, collator: Collator, videos: int, seed: int):
    self.plan, self.features, self.num_videos = collator.plan, collator.features, videos
    self.resident = collator.resident
    batches = _drawn(videos, self.plan.options, seed)
    self.steps_per_epoch = len(batches)
    self._dataset = batches.map(collator).repeat()
    self._order = {'seed': int(seed), 'num_videos': videos, 'batch_videos': self.plan.options.batch_videos}

  def __iter__(self) -> TrainIterator:
    """Starts at the first batch of the first epoch."""
    # Numbers of rows are made in less time than threads would take from the one that starts the steps.
    return TrainIterator(self._dataset, self._order, 0 if self.resident else self.plan.options.prefetch_batches)

  def shapes(self) -> list[Batch]:
    """Returns the batches that the step will see, of all processes together, as `jax.ShapeDtypeStruct`."""
    return [batch_shapes(level, self.plan.options.shards, self.features) for level in self.plan.levels]


class TrainIterator(Iterator[Batch]):
  """A place in the stream; `batches` were taken since the start of the run, those before a resume included."""

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
    """Returns where the stream stands, behind the batches that were taken, as a dictionary that JSON can hold.

    Neither processes, devices nor packing are part of it: a run of two processes is resumed by one.
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
  room: float = 0,
) -> TrainPipeline:
  """Makes the stream of training batches of a source; `iter` of it can be stopped and resumed.

  Args:
    source: records of videos, see `dlkd_jax.data.sources`.
    options: sizes of batches and how to read them.
    seed: of the order of the videos.
    process_index: this process, from 0.
    process_count: processes that share each batch; each reads and gives the shards of its own devices.
    lengths: of the records of the source, from `open_lengths`; None: every record is read once to find them.
    room: bytes that the features of the whole source may take on a device. Where they fit, batches are numbers of their
      rows (`dlkd_jax.data.resident`), which the step turns into features.

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
  keep_large_blocks()
  sources.check_lengths(source, lengths, options)
  records = Prepared(source, lengths, options)
  resident = None if options.pixels else Resident(records)
  if resident is None or resident.nbytes > room:
    resident = None
    records.keep(available_bytes() * KEPT_SHARE / process_count)
  collator = Collator(records, plan_of_run(lengths, options, seed), process_index, process_count, resident)
  return TrainPipeline(collator, len(source), seed)


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


class Collator:
  """Makes batches out of records; errors are those of `train_pipeline`.

  D shards go to P processes in order, D / P each, and a process reads the records of its own alone. A shard may have no
  video at all in the short last batch of an epoch; it then holds padding, of the same shape as the others.

  Attributes:
    plan: the shapes of the batches, and the options.
    resident: where the features lie that batches name the rows of; None: batches hold the features.
    features: width and type of each array of features.
  """

  def __init__(
    self,
    records: Prepared,
    plan: Plan,
    process_index: int = 0,
    process_count: int = 1,
    resident: Resident | None = None,
  ):
    options = plan.options
    if options.shards % process_count:
      raise UserError(
        f'shards is {options.shards}, which {process_count} processes cannot share evenly; make it a multiple: the '
        'number of devices of all processes'
      )
    local = options.shards // process_count
    self.plan, self.resident, self._records = plan, resident, records
    self.features = resident.features if resident else records.features
    self._mine = slice(process_index * local, (process_index + 1) * local)
    self._pool = concurrent.futures.ThreadPoolExecutor(options.read_threads, thread_name_prefix='collate')

  def __call__(self, records: np.ndarray) -> Batch:
    """Returns this process's part of the global batch of these records; errors are those of `Prepared`."""
    shards = arrange(np.asarray(records), self._records.lengths, self.plan.options, self.plan.slots)
    shape = self.plan.shape_for(shards)
    mine = shards[self._mine]
    batch = self._layouts(mine, shape)
    if self.resident:
      return batch.replace(**self.resident.numbers(batch, mine))
    shapes = batch_shapes(shape, len(mine), self.features)
    batch = batch.replace(**{name: np.zeros((x := getattr(shapes, name)).shape, x.dtype) for name in self.features})
    videos = [each for number, shard in enumerate(mine) for each in _places(number, shard, shape)]
    threads = self.plan.options.read_threads

    def write(thread: int) -> None:
      for index, frames, captions, tokens in videos[thread::threads]:
        record = self._records[index]
        _write_frames(batch, frames, record)
        _write_captions(batch, captions, tokens, record)

    # The list makes the errors of the threads surface here.
    list(self._pool.map(write, range(threads)))
    return batch

  def _layouts(self, mine: list[Shard], shape: ShardShape) -> Batch:
    """Returns this process's shards of a batch without their features."""
    frame_layout, videos = make_layout([shard.frames for shard in mine], shape.frames)
    token_layout, captions = make_layout([shard.tokens for shard in mine], shape.tokens)
    labels = np.zeros((len(mine), shape.tokens.sequences), np.int32)
    for number, shard in enumerate(mine):
      first = (self._mine.start + number) * shape.frames.sequences
      owners = np.repeat(np.arange(len(shard.records)), shard.captions)
      labels[number, : len(owners)] = first + owners
    return Batch(
      student_frames=None,
      student_tokens=None,
      frame_layout=frame_layout,
      token_layout=token_layout,
      labels=labels.reshape(-1),
      video_mask=videos >= 0,
      caption_mask=captions >= 0,
      video_ordinals=videos,
      caption_ordinals=captions,
    )


def _places(number: int, shard: Shard, shape: ShardShape) -> Iterator[tuple[int, tuple, slice, list]]:
  """Yields of each video of a shard: its record, where its frames, its captions and the tokens of each go."""
  frames, tokens = (
    list(zip((number * grid.rows + own.rows).tolist(), own.starts.tolist(), own.lengths.tolist(), strict=True))
    for own, grid in zip((shard.frames, shard.tokens), shape, strict=True)
  )
  first = 0
  for index, place, captions in zip(shard.records.tolist(), frames, shard.captions.tolist(), strict=True):
    start = number * shape.tokens.sequences + first
    yield index, place, slice(start, start + captions), tokens[first : first + captions]
    first += captions


def _write_frames(batch: Batch, place: tuple[int, int, int], record: Mapping[str, np.ndarray]) -> None:
  """Writes the frames of a video, and what the teacher sees of them, to a row, from a position, so many."""
  row, start, count = place
  for name in ('student_frames', 'teacher_frames', 'teacher_pixels'):
    if name in record:
      getattr(batch, name)[row, start : start + count] = record[name]


def _write_captions(
  batch: Batch, own: slice, places: list[tuple[int, int, int]], record: Mapping[str, np.ndarray]
) -> None:
  """Writes the teacher's text, the anchors and the tokens of captions, each to a row, from a position, so many."""
  tokens, at = record['student_tokens'], 0
  for row, start, count in places:
    batch.student_tokens[row, start : start + count] = tokens[at : at + count]
    at += count
  if batch.query_anchors is not None:
    for anchor, (row, start, _) in zip(record['query_anchors'], places, strict=True):
      batch.query_anchors[row, batch.token_layout.slot[row, start]] = anchor
  if batch.teacher_text is not None:
    batch.teacher_text[own] = record['teacher_text']
