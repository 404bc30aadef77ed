"""The stream of training batches: shuffled each epoch, shared by processes, resumed exactly.

Everything follows from the seed and the number of batches taken: batch number n of a run is a pure function of the two,
whatever the number of threads, processes or devices, so resuming is starting at n. How the videos of a batch are shared
among devices and packed into rows follows from their lengths; it changes where they lie, not which they are.

A batch at the sizes of TVR is 60 MB, so each video is copied once, from its record to its place, by several threads
(numpy lets go of the interpreter meanwhile), into memory that earlier batches no longer need.
"""

from __future__ import annotations

import concurrent.futures
import math
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from dlkd_jax.allocation import KEPT_SHARE, available_bytes, keep_large_blocks
from dlkd_jax.data import sources, transforms
from dlkd_jax.data.batch import Batch, Feature, PipelineOptions, ShardShape, batch_shapes
from dlkd_jax.data.packing import Plan, Shard, arrange, make_layout, make_plan
from dlkd_jax.data.sources import Lengths, Source, scan_lengths
from dlkd_jax.errors import UserError

# What a plan looks at, whichever is least: numbers, not seconds, so that all processes look at the same.
_PLANNED_BATCHES = 200
_PLANNED_EPOCHS = 5
_PLANNED_VIDEOS = 50_000
_ALIGNMENT = 64  # Bytes; from there JAX takes an array on the CPU as it lies.
_BLOCK_BYTES = 64 << 20


class TrainPipeline:
  """An endless stream of batches; each epoch has every video exactly once, in an order of its own.

  Batches do not straddle epochs. The last batch of an epoch may have fewer videos; it is kept, with as many places for
  videos as the others and `video_mask` false in the rest.

  Attributes, the same on every process:
    steps_per_epoch: batches in an epoch.
    num_videos: videos in the source.
    plan, features: those of the `Collator`.
  """

  def __init__(self, collator: Collator, videos: int, seed: int):
    self.plan, self.features, self.num_videos = collator.plan, collator.features, videos
    batches = _drawn(videos, self.plan.options, seed)
    self.steps_per_epoch = len(batches)
    self._dataset = batches.map(collator).repeat()
    self._order = {'seed': int(seed), 'num_videos': videos, 'batch_videos': self.plan.options.batch_videos}

  def __iter__(self) -> TrainIterator:
    """Starts at the first batch of the first epoch."""
    return TrainIterator(self._dataset, self._order, self.plan.options.prefetch_batches)

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
) -> TrainPipeline:
  """Makes the stream of training batches of a source; `iter` of it can be stopped and resumed.

  Args:
    source: records of videos, see `dlkd_jax.data.sources`.
    options: sizes of batches and how to read them.
    seed: of the order of the videos.
    process_index: this process, from 0.
    process_count: processes that share each batch; each reads and gives the shards of its own devices.
    lengths: of the records of the source, from `open_lengths`; None: every record is read once to find them.

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
  collator = Collator(source, lengths, plan_of_run(lengths, options, seed), process_index, process_count)
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
  """Makes batches out of the records of a source; arguments and errors are those of `train_pipeline`.

  D shards go to P processes in order, D / P each, and a process reads the records of its own alone. A shard may have no
  video at all in the short last batch of an epoch; it then holds padding, of the same shape as the others.

  Attributes:
    plan: the shapes of the batches, and the options.
    features: width and type of each array of features.
  """

  def __init__(self, source: Source, lengths: Lengths, plan: Plan, process_index: int = 0, process_count: int = 1):
    options = plan.options
    if options.shards % process_count:
      raise UserError(
        f'shards is {options.shards}, which {process_count} processes cannot share evenly; make it a multiple: the '
        'number of devices of all processes'
      )
    local = options.shards // process_count
    self.plan, self.features = plan, _features(source[0], lengths, options)
    self._mine = slice(process_index * local, (process_index + 1) * local)
    self._source, self._lengths, self._options = source, lengths, options
    self._checked = np.zeros(len(source), bool)  # Records that are known to be as they should.
    self._kept: dict[int, sources.Record] = {}
    self._block, self._lock = np.empty(0, np.uint8), threading.Lock()
    self._room = int(available_bytes() * KEPT_SHARE / process_count)
    self._pool = concurrent.futures.ThreadPoolExecutor(options.read_threads, thread_name_prefix='collate')
    self._memory = _Memory(batch_shapes(plan.levels[-1], local, self.features))

  def __call__(self, records: np.ndarray) -> Batch:
    """Reads these records of the source, a global batch, and returns this process's part of it.

    Raises:
      UserError: a record lacks what training needs, holds NaN or infinities, or has other lengths than were listed.
      DamagedFileError: a record cannot be read.
    """
    shards = arrange(np.asarray(records), self._lengths, self._options, self.plan.slots)
    shape = self.plan.shape_for(shards)
    mine = shards[self._mine]
    batch = self._empty_batch(mine, shape)
    videos = [each for number, shard in enumerate(mine) for each in _places(number, shard, shape)]

    def write(thread: int) -> None:
      for index, frames, captions, tokens in videos[thread :: self._options.read_threads]:
        record = self._read(index)
        _write_frames(batch, frames, record, self._options)
        _write_captions(batch, captions, tokens, record)

    # The list makes the errors of the threads surface here.
    list(self._pool.map(write, range(self._options.read_threads)))
    return batch

  def _read(self, index: int) -> sources.Record:
    """Returns what a batch takes of a record, which is kept where there is room."""
    if (kept := self._kept.get(index)) is not None:
      return kept
    record = self._source[index]
    if not self._checked[index]:
      self._check(record, index)
    names = {*self.features, 'token_lengths', *(['teacher_frames'] if self._options.teacher else [])}
    used = {name: record[name] for name in names}
    size = sum(array.nbytes for array in used.values())
    if size <= self._room:
      self._room -= size
      self._kept[index] = used = {name: self._copied(array) for name, array in used.items()}
    return used

  def _copied(self, array: np.ndarray) -> np.ndarray:
    """Copies an array to an aligned place in a large block, whose pages are large: it is read a quarter faster."""
    size = -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    with self._lock:
      if size > len(self._block):
        self._block = _aligned(max(_BLOCK_BYTES, size))
      piece, self._block = self._block[:size], self._block[size:]
    copy = piece[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy

  def _check(self, record: sources.Record, index: int) -> None:
    """Checks that training can use a record and that it is as long as listed."""
    sources.check_trainable(record, self._options)
    found, listed = sources.record_lengths(record), self._lengths.of(index)
    if found[::2] != listed[::2] or (self._options.teacher and found[1] != listed[1]):
      raise UserError(
        f'video {sources.text(record["video_id"])!r} has {found[0]} student and {found[1]} teacher frames and captions '
        f'of {found[2]} tokens; listed are {listed[0]}, {listed[1]} and {listed[2]}: the lengths are of other records; '
        'build the data set again, or remove its lengths-*.npz files'
      )
    for name, expected in self.features.items():
      width, dtype = math.prod(record[name].shape[1:]), record[name].dtype
      if width != expected.width or expected.dtype not in (dtype, np.float32):
        raise UserError(
          f'video {sources.text(record["video_id"])!r} has {name} of {width} features; expected {expected.width}, as '
          f'the others have, and {expected.dtype} (these are {dtype}); build the data set again'
        )
    with sources.naming_bad_rows(record):
      for name in self.features:
        transforms.check_finite(record[name])
    self._checked[index] = True

  def _empty_batch(self, mine: list[Shard], shape: ShardShape) -> Batch:
    """Allocates this process's shards of a batch, complete but for the features of real positions."""
    frame_layout, videos = make_layout([shard.frames for shard in mine], shape.frames)
    token_layout, captions = make_layout([shard.tokens for shard in mine], shape.tokens)
    labels = np.zeros((len(mine), shape.tokens.sequences), np.int32)
    for number, shard in enumerate(mine):
      first = (self._mine.start + number) * shape.frames.sequences
      owners = np.repeat(np.arange(len(shard.records)), shard.captions)
      labels[number, : len(owners)] = first + owners
    real = {'student_tokens': token_layout.mask, 'teacher_text': captions >= 0}
    real['query_anchors'] = token_layout.ordinals >= 0
    abstract = batch_shapes(shape, len(mine), self.features)
    features = {
      name: self._memory.padded(name, getattr(abstract, name), real.get(name, frame_layout.mask))
      for name in self.features
    }
    return Batch(
      frame_layout=frame_layout,
      token_layout=token_layout,
      labels=labels.reshape(-1),
      video_mask=videos >= 0,
      caption_mask=captions >= 0,
      video_ordinals=videos,
      caption_ordinals=captions,
      **features,
    )


class _Memory:
  """Memory for the features of batches, used again once nobody holds them.

  Of fresh memory the system clears every page when it is first written to, which takes longer than filling it.
  """

  def __init__(self, largest: Batch):
    """Takes the shapes of the largest batch; a larger one finds memory as well."""
    self._largest, self._free = largest, {}

  def padded(self, name: str, like: Any, real: np.ndarray) -> np.ndarray:
    """Returns an array for features of such a shape and type, 0 where they are not real and anything elsewhere."""
    count, dtype = math.prod(like.shape), np.dtype(like.dtype)
    size = max(count, math.prod(getattr(self._largest, name).shape)) * dtype.itemsize
    free = self._free.setdefault(name, [])
    piece = free.pop() if free else None
    if piece is None or len(piece) < count * dtype.itemsize:
      piece = memoryview(_aligned(size))
    array = np.frombuffer(piece, dtype, count)
    # All views of the array hold it, those within JAX as well; none of them holds `piece` alone.
    weakref.finalize(array, free.append, piece).atexit = False
    array = array.reshape(like.shape)
    array[~real] = 0
    return array


def _aligned(size: int) -> np.ndarray:
  """Allocates so many bytes, without clearing them."""
  fresh = np.empty(size + _ALIGNMENT, np.uint8)
  return fresh[-fresh.ctypes.data % _ALIGNMENT :][:size]


def _features(record: sources.Record, lengths: Lengths, options: PipelineOptions) -> dict[str, Feature]:
  """Returns width and type of each array of features of a batch; a picture is so many numbers."""
  sources.check_trainable(record, options)
  teacher = ('teacher_pixels' if options.pixels else 'teacher_frames', 'teacher_text') if options.teacher else ()
  averaged = lengths.averages(options)

  def dtype(name: str) -> np.dtype:
    stored = record[name].dtype
    exact = stored in (np.float16, np.uint8) and not averaged.get(name)
    return stored if exact else np.dtype(np.float32)

  anchors = ('query_anchors',) if 'query_anchors' in record else ()
  names = ('student_frames', 'student_tokens', *anchors, *teacher)
  return {name: Feature(math.prod(record[name].shape[1:]), dtype(name)) for name in names}


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


def _write_frames(batch: Batch, place: tuple[int, int, int], record: sources.Record, options: PipelineOptions) -> None:
  """Writes student frames, and what the teacher sees of them, to a row, from a position, so many."""
  row, start, count = place
  own, student = slice(start, start + count), record['student_frames']
  if options.teacher:
    student, teacher = transforms.at_common_length(student, record['teacher_frames'])
    if options.pixels:
      chosen = transforms.middle_rows(len(record['teacher_frames']), len(teacher))
      chosen = chosen[transforms.middle_rows(len(chosen), options.max_frames)]
      batch.teacher_pixels[row, own] = record['teacher_pixels'][chosen].reshape(len(chosen), -1)
    else:
      transforms.resample_frames(teacher, options.max_frames, batch.teacher_frames[row, own])
  transforms.resample_frames(student, options.max_frames, batch.student_frames[row, own])


def _write_captions(batch: Batch, own: slice, places: list[tuple[int, int, int]], record: sources.Record) -> None:
  """Writes the teacher's text, the anchors and the tokens of captions, each to a row, from a position, so many."""
  tokens, at = record['student_tokens'], 0
  for length, (row, start, kept) in zip(record['token_lengths'].tolist(), places, strict=True):
    batch.student_tokens[row, start : start + kept] = tokens[at : at + kept]
    at += length
  if batch.query_anchors is not None:
    for anchor, (row, start, _) in zip(record['query_anchors'], places, strict=True):
      batch.query_anchors[row, batch.token_layout.slot[row, start]] = anchor
  if batch.teacher_text is not None:
    batch.teacher_text[own] = record['teacher_text']
