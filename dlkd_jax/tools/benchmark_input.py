"""Measures how fast training batches are made, and how long a training step waits for them.

  python -m dlkd_jax.tools.benchmark_input
  python -m dlkd_jax.tools.benchmark_input --data_dir=data --name=charades_prvr --split=train

Without a data set, one of random features at the sizes of TVR is written to a temporary folder (about 0.9 MB a video)
and read back from it. Printed are the rate of the pipeline alone, and for each step time asked for the wait per step of
a consumer that sleeps that long (an accelerator works, this machine's cores are free) or multiplies matrices (`--busy`:
it works on the same cores).
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from dlkd_jax.data.batch import Batch
from dlkd_jax.data.input_pipeline import train_pipeline
from dlkd_jax.data.options import PipelineOptions
from dlkd_jax.data.sources import Record, open_source


def random_record(index: int, sizes: argparse.Namespace, rng: np.random.Generator) -> Record:
  """Returns the record of a video with random features, float16, of the given sizes."""

  def features(rows: int, width: int) -> np.ndarray:
    return rng.standard_normal((rows, width), np.float32).astype(np.float16)

  captions = sizes.captions
  return {
    'video_id': f'video_{index:05d}',
    'student_frames': features(sizes.frames, sizes.student_dim),
    'teacher_frames': features(sizes.teacher_frames or sizes.frames, sizes.teacher_dim),
    'student_tokens': features(captions * sizes.words, sizes.token_dim),
    'token_lengths': np.full(captions, sizes.words, np.int32),
    'teacher_text': features(captions, sizes.teacher_dim),
    'captions': [f'caption {k} of video {index}' for k in range(captions)],
    'caption_ids': [f'video_{index:05d}#enc#{k}' for k in range(captions)],
    'moments': np.full((captions, 2), np.nan, np.float32),
    'duration': np.float32(np.nan),
  }


def write_random_set(data_dir: pathlib.Path, sizes: argparse.Namespace) -> str:
  """Writes a data set of random features and returns its name."""
  import tensorflow_datasets as tfds

  def tensor(width: int) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None, width), dtype=np.float16, encoding='bytes')

  features = tfds.features.FeaturesDict(
    {
      'video_id': tfds.features.Text(),
      'student_frames': tensor(sizes.student_dim),
      'teacher_frames': tensor(sizes.teacher_dim),
      'student_tokens': tensor(sizes.token_dim),
      'token_lengths': tfds.features.Tensor(shape=(None,), dtype=np.int32),
      'teacher_text': tensor(sizes.teacher_dim),
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
      for index in range(sizes.videos):
        yield index, random_record(index, sizes, rng)

  builder = BenchmarkPrvr(data_dir=str(data_dir), file_format='array_record')
  builder.download_and_prepare()
  return builder.name


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds that a consumer waited for each batch, in all, and the bytes of a batch."""

  waits: list[float]
  total: float
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
  begin = time.perf_counter()
  for _ in range(count):
    start = time.perf_counter()
    batch = next(batches)
    waits.append(time.perf_counter() - start)
    del batch  # Otherwise two batches are held while the next is made.
    _work(step_seconds, busy)
  return Timing(waits, time.perf_counter() - begin, size)


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
  add = parser.add_argument
  add('--data_dir', type=pathlib.Path, help='folder of built data sets; random features without it')
  add('--name', default='tvr_prvr', help='data set in --data_dir (default %(default)s)')
  add('--split', default='train', help='split of it (default %(default)s)')
  add('--no_teacher', action='store_true', help='read no teacher features')
  add('--batches', type=int, default=8, help='batches to time (default %(default)s)')
  add('--batch_videos', type=int, default=128, help='videos in a batch (default %(default)s)')
  add('--threads', type=int, default=PipelineOptions.read_threads, help='threads a batch (default %(default)s)')
  add('--prefetch', type=int, default=PipelineOptions.prefetch_batches, help='batches ahead (default %(default)s)')
  add('--workers', type=int, default=0, help='worker processes (default %(default)s)')
  add('--steps', type=float, nargs='*', default=[0.05, 1.0], help='seconds a step to wait for (default %(default)s)')
  add('--busy', action='store_true', help='multiply matrices during a step in place of sleeping')
  random = parser.add_argument_group('sizes of the random features')
  for name, value in (('videos', 512), ('frames', 128), ('teacher_frames', 0), ('student_dim', 3072)):
    random.add_argument(f'--{name}', type=int, default=value, help='(default %(default)s)')
  for name, value in (('teacher_dim', 512), ('token_dim', 768), ('captions', 5), ('words', 30)):
    random.add_argument(f'--{name}', type=int, default=value, help='(default %(default)s)')
  return parser


def _report(flags: argparse.Namespace, data_dir: pathlib.Path, name: str) -> None:
  source = open_source(data_dir, name, flags.split)
  options = PipelineOptions(
    batch_videos=flags.batch_videos,
    read_threads=flags.threads,
    prefetch_batches=flags.prefetch,
    num_workers=flags.workers,
    teacher=not flags.no_teacher,
  )
  print(f'{name}/{flags.split}: {len(source)} videos, {options}')
  start = time.perf_counter()
  reads = min(len(source), 64)
  for index in range(reads):
    source[index]
  print(f'reading alone, one thread: {(time.perf_counter() - start) / reads * 1e3:.2f} ms a video')
  for step in (0.0, *flags.steps):
    batches = iter(train_pipeline(source, options, seed=0))
    timing = consume(batches, flags.batches, step, flags.busy)
    batches.close()
    megabytes = timing.batch_bytes / 1e6
    if not step:
      print(
        f'pipeline alone: {timing.per_batch * 1e3:.0f} ms a batch of {options.batch_videos} ({megabytes:.0f} MB), '
        f'{1 / timing.per_batch:.2f} batches/s, {megabytes / timing.per_batch:.0f} MB/s'
      )
      continue
    print(
      f'step of {step:g} s {"working" if flags.busy else "sleeping"}: waits {statistics.mean(timing.waits) * 1e3:.1f} '
      f'ms a step on average, {max(timing.waits) * 1e3:.1f} ms at most '
      f'({sum(timing.waits) / timing.total:.1%} of the time)'
    )


def main(argv: list[str] | None = None) -> None:
  """Runs the benchmark."""
  flags = _parser().parse_args(argv)
  if flags.data_dir is not None:
    _report(flags, flags.data_dir, flags.name)
    return
  with tempfile.TemporaryDirectory(prefix='benchmark_input_') as folder:
    print(f'writing {flags.videos} videos of random features to {folder} …', flush=True)
    _report(flags, pathlib.Path(folder), write_random_set(pathlib.Path(folder), flags))


if __name__ == '__main__':
  main()
