"""Measures how fast training batches are made, how long a step waits for them, and how much of them is padding.

  python -m dlkd_jax.tools.benchmark_input
  python -m dlkd_jax.tools.benchmark_input --model=activitynet --shards=8
  python -m dlkd_jax.tools.benchmark_input --data_dir=data --name=charades_prvr --split=train

Without a data set, one of random features is written to a temporary folder, of lengths drawn from a model of TVR's or
ActivityNet's (`dlkd_jax.tools.lengths`: models, not the data sets) and read back from it. Packed and padded batches are
measured in turn. Printed are, for each form, the plan of its shapes; padding share and number of shapes over an epoch
of the whole model (or of the data set), from lengths alone; the rate of the pipeline alone; and for each step time
asked for the wait per step of a consumer that sleeps that long (an accelerator works, this machine's cores are free) or
multiplies matrices (`--busy`: it works on the same cores); and what else the training's own thread does a step, as CPU
time: placing the batch on the devices, and gathering metrics, with a record every 20 steps. Features of the set lie on
the devices, as where they fit; with `--streamed` each batch holds its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import math
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax import files, sharding
from dlkd_jax.config_defaults import load_recipe
from dlkd_jax.data.batch import Batch, PipelineOptions
from dlkd_jax.data.packing import arrange
from dlkd_jax.data.sources import Lengths, Source, open_lengths, open_source, scan_lengths
from dlkd_jax.data.train_pipeline import TrainPipeline, plan_of_run, train_pipeline
from dlkd_jax.files import expand
from dlkd_jax.tools import lengths as models
from dlkd_jax.tools.random_data import random_record
from dlkd_jax.training import metrics as metrics_lib
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import Progress
from dlkd_jax.training.monitoring import Compilations, Records
from dlkd_jax.training.train import PlacedBatches


def write_random_set(data_dir: pathlib.Path, lengths: Lengths, sizes: tuple[int, int, int]) -> str:
  """Writes a data set of random features, one record for each of the lengths, and returns its name."""
  import tensorflow_datasets as tfds

  def tensor(width: int) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None, width), dtype=np.float16, encoding='bytes')

  features = tfds.features.FeaturesDict(
    {
      'video_id': tfds.features.Text(),
      'student_frames': tensor(sizes[0]),
      'teacher_frames': tensor(sizes[2]),
      'student_tokens': tensor(sizes[1]),
      'token_lengths': tfds.features.Tensor(shape=(None,), dtype=np.int32),
      'teacher_text': tensor(sizes[2]),
      'captions': tfds.features.Sequence(tfds.features.Text()),
      'caption_ids': tfds.features.Sequence(tfds.features.Text()),
      'moments': tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
      'duration': np.float32,
    }
  )

  class BenchmarkPrvr(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Random features."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      del dl_manager
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      rng = np.random.default_rng(0)
      for index in range(len(lengths)):
        yield index, random_record(index, lengths, sizes, rng)

  builder = BenchmarkPrvr(data_dir=str(data_dir), file_format='array_record')
  builder.download_and_prepare()
  return builder.name


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds that a consumer waited for each batch, in all, those of all cores together, and the bytes of a batch."""

  waits: list[float]
  total: float
  cpu: float
  batch_bytes: int

  @property
  def per_batch(self) -> float:
    """Seconds from one batch to the next."""
    return self.total / len(self.waits)


def consume(batches: Iterator[Batch], count: int, step_seconds: float, busy: bool) -> Timing:
  """Takes `count` batches, working `step_seconds` on each, and times the waits, after a start that is not timed."""
  size = sum(array.nbytes for array in jax.tree.leaves(next(batches)))
  for _ in range(2):  # The first batch is waited for whole, and nothing was made ahead for the second.
    _work(step_seconds, busy)
    next(batches)
  _work(step_seconds, busy)
  waits = []
  begin, cpu = time.perf_counter(), time.process_time()
  for _ in range(count):
    start = time.perf_counter()
    batch = next(batches)
    waits.append(time.perf_counter() - start)
    del batch  # Otherwise two batches are held while the next is made.
    _work(step_seconds, busy)
  return Timing(waits, time.perf_counter() - begin, time.process_time() - cpu, size)


def _work(seconds: float, busy: bool) -> None:
  if not busy:
    time.sleep(seconds)
    return
  matrix = np.ones((1024, 1024), np.float32)
  end = time.perf_counter() + seconds
  while time.perf_counter() < end:
    matrix = matrix @ matrix * np.float32(1 / 1024)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m dlkd_jax.tools.benchmark_input',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add, data = parser.add_argument, load_recipe('tvr').data
  add('--data_dir', type=expand, help='folder of built data sets; random features without it')
  add('--name', default='tvr_prvr', help='data set in --data_dir (default %(default)s)')
  add('--split', default='train', help='split of it (default %(default)s)')
  add(
    '--model', default='tvr', choices=models.MODELS, help='lengths and sizes of random features (default %(default)s)'
  )
  add('--videos', type=int, default=512, help='videos of random features to write (default %(default)s)')
  add('--form', nargs='*', default=['packed', 'padded'], choices=['packed', 'padded'], help='(default: both)')
  add('--streamed', action='store_true', help='batches hold features, as where those of the set do not fit')
  add('--shards', type=int, default=1, help='devices that share a batch (default %(default)s)')
  add('--no_teacher', action='store_true', help='read no teacher features')
  add('--batches', type=int, default=8, help='batches to time (default %(default)s)')
  add('--batch_videos', type=int, default=128, help='videos in a batch (default %(default)s)')
  add('--threads', type=int, default=data.read_threads, help='threads a batch (default %(default)s)')
  add('--prefetch', type=int, default=data.prefetch_batches, help='batches ahead (default %(default)s)')
  add('--steps', type=float, nargs='*', default=[0.05, 1.0], help='seconds a step to wait for (default %(default)s)')
  add('--busy', action='store_true', help='multiply matrices during a step in place of sleeping')
  add('--json', type=expand, help='also write the numbers to this file')
  return parser


def epoch_shapes(lengths: Lengths, options: PipelineOptions) -> dict[str, float]:
  """Returns padding shares and number of shapes over the second epoch of a run, from lengths alone."""
  plan = plan_of_run(lengths, options, seed=0)
  print(plan)
  order = np.random.default_rng(1).permutation(len(lengths))
  batches = [order[start : start + options.batch_videos] for start in range(0, len(order), options.batch_videos)]
  start = time.perf_counter()
  shapes, real = [], np.zeros(2)
  for records in batches:
    shards = arrange(records, lengths, options, plan.slots)
    shapes.append(plan.shape_for(shards))
    real += sum(shard.frames.lengths.sum() for shard in shards), sum(shard.tokens.lengths.sum() for shard in shards)
  seconds = (time.perf_counter() - start) / len(batches)
  room = sum(shape.positions for shape in shapes)
  padding = 1 - real / (room * options.shards)
  return {
    'padding_frames': padding[0],
    'padding_tokens': padding[1],
    'shapes': len(set(shapes)),
    'arranging_ms': seconds * 1e3,
  }


def _report(flags: argparse.Namespace, data_dir: pathlib.Path, name: str, epoch: Lengths | None) -> list[dict]:
  """Measures and prints all forms; `epoch` are lengths to plan with, the set's own where None."""
  source = open_source(data_dir, name, flags.split)
  lengths = open_lengths(data_dir, name, flags.split) or scan_lengths(source)
  start = time.perf_counter()
  reads = min(len(source), 64)
  for index in range(reads):
    source[index]
  print(
    f'{name}/{flags.split}: {len(source)} videos; reading alone, one thread: '
    f'{(time.perf_counter() - start) / reads * 1e3:.2f} ms a video'
  )
  results = []
  for form in flags.form:
    options = dataclasses.replace(
      recipe.make_pipeline_options(load_recipe('tvr'), flags.shards, teacher=not flags.no_teacher),
      batch_videos=flags.batch_videos,
      packing=form == 'packed',
      read_threads=flags.threads,
      prefetch_batches=flags.prefetch,
    )
    result = {'form': form, **epoch_shapes(lengths if epoch is None else epoch, options)}
    print(
      f'{form}: over an epoch {result["padding_frames"]:.1%} of frames and {result["padding_tokens"]:.1%} of tokens '
      f'are padding, {result["shapes"]} shapes; arranging a batch takes {result["arranging_ms"]:.1f} ms'
    )
    results.append(result | _speed(flags, source, options, lengths, form))
  return results


def host_work(pipeline: TrainPipeline, steps: int) -> dict[str, float]:
  """Returns milliseconds of CPU time of the training's thread a step, besides collation: `place_ms`, `metrics_ms`."""
  mesh = sharding.make_mesh(jax.devices()[: pipeline.plan.options.shards])
  names = ['loss/total', *(f'loss/{number}' for number in range(26))]
  metrics = jax.jit(
    lambda: metrics_lib.of_step(dict.fromkeys(names, jnp.zeros(()))), out_shardings=sharding.replicated(mesh)
  )
  records = Records(None, Compilations(), Progress({}), pathlib.Path(), every=20, per_epoch=steps, epochs=2)
  spent = {'place_ms': 0.0, 'metrics_ms': 0.0}
  with PlacedBatches(pipeline, mesh) as batches, contextlib.redirect_stdout(io.StringIO()):
    for step in range(1, 2 * steps + 1):  # The first half compiles, and fills what is made ahead.
      start = time.thread_time()
      batches.place_next()
      placed = time.thread_time()
      records.add(step, metrics(), 0.0)
      if step > steps:
        spent['place_ms'] += (placed - start) / steps * 1e3
        spent['metrics_ms'] += (time.thread_time() - placed) / steps * 1e3
  return spent


def _speed(
  flags: argparse.Namespace, source: Source, options: PipelineOptions, lengths: Lengths, form: str
) -> dict[str, float]:
  """Measures and prints the pipeline alone and what a step waits."""
  result = {}
  pipeline = train_pipeline(source, options, seed=0, lengths=lengths, room=0 if flags.streamed else math.inf)
  if pipeline.resident is not None:
    start = time.perf_counter()
    mesh = sharding.make_mesh(jax.devices()[: options.shards])
    pipeline.resident.place(functools.partial(sharding.replicate, mesh=mesh))
    result |= {'load_s': time.perf_counter() - start, 'resident_megabytes': pipeline.resident.nbytes / 1e6}
    print(
      f'{form}: {result["resident_megabytes"]:,.0f} MB of features were read and put onto the device(s) in '
      f'{result["load_s"]:.1f} s, {result["load_s"] / len(source) * 1e3:.2f} ms a video'
    )
  for step in (0.0, *flags.steps):
    batches = iter(pipeline)
    timing = consume(batches, flags.batches, step, flags.busy)
    batches.close()
    megabytes = timing.batch_bytes / 1e6
    if not step:
      cpu = timing.cpu / len(timing.waits) * 1e3
      result |= {'batch_ms': timing.per_batch * 1e3, 'cpu_ms': cpu, 'batch_megabytes': megabytes}
      print(
        f'{form}: pipeline alone {timing.per_batch * 1e3:.0f} ms a batch of {options.batch_videos} ({megabytes:.2f} MB)'
        f', {1 / timing.per_batch:.2f} batches/s, {megabytes / timing.per_batch:.0f} MB/s; {cpu:.0f} ms of CPU a batch'
      )
      continue
    result[f'wait_ms_at_{step:g}_s'] = statistics.mean(timing.waits) * 1e3
    print(
      f'{form}: step of {step:g} s {"working" if flags.busy else "sleeping"}: waits '
      f'{statistics.mean(timing.waits) * 1e3:.1f} ms a step on average, {max(timing.waits) * 1e3:.1f} ms at most '
      f'({sum(timing.waits) / timing.total:.1%} of the time)'
    )
  if options.shards <= jax.device_count():
    result |= (work := host_work(pipeline, max(20, flags.batches)))
    print(f'{form}: CPU of the thread that trains, a step: ' + ', '.join(f'{n} {v:.2f}' for n, v in work.items()))
  return result


def main(argv: list[str] | None = None) -> None:
  """Runs the benchmark."""
  flags = _parser().parse_args(argv)
  if flags.data_dir is not None:
    results = _report(flags, flags.data_dir, flags.name, None)
  else:
    with tempfile.TemporaryDirectory(prefix='benchmark_input_') as folder:
      print(f'writing {flags.videos} videos of random features to {folder} …', flush=True)
      model = models.MODELS[flags.model]
      name = write_random_set(pathlib.Path(folder), model(flags.videos), models.SIZES[flags.model])
      results = _report(flags, pathlib.Path(folder), name, model())
  if flags.json is not None:
    files.write_json(flags.json, results)


if __name__ == '__main__':
  main()
