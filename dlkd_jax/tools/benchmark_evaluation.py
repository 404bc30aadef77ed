"""Measures an evaluation of random features: time, memory, and the share of the machine's matmul rate that it reaches.

  python -m dlkd_jax.tools.benchmark_evaluation --size=activitynet --json=/tmp/evaluation.json
  python -m dlkd_jax.tools.benchmark_evaluation --size=small --teacher

The student multiplies in what the platform would run (`model.precision=auto`: bfloat16 on a GPU or a TPU). The rate is
that of a plain product of two matrices of the same type, of 2048 × 2048 on a CPU and 8192 × 8192 elsewhere, measured
before, between the repetitions and after; the best counts. The work is the FLOPs of all matrix products that real
captions and frames need, encoding included.

The split is kept as a training keeps validation: the first evaluation compiles and takes the features to the devices,
later ones (`--repeat`) are what one behind an epoch costs. Features, float16 as they are stored, are views of one small
pool, so that neither their making nor their place on the host is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import resource
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax import files, tables
from dlkd_jax.config_defaults import load_recipe
from dlkd_jax.data.evaluation_blocks import Block
from dlkd_jax.files import expand
from dlkd_jax.models.students import init_parameters
from dlkd_jax.retrieval.evaluate import Encoders, Evaluator, encoders_of
from dlkd_jax.retrieval.metrics import table_rows
from dlkd_jax.sharding import make_mesh
from dlkd_jax.tools.rates import MatmulRate, product_flops
from dlkd_jax.training import recipe

_POOL_ROWS = 1 << 14


@dataclasses.dataclass(frozen=True)
class Size:
  """Sizes of an evaluation: captions, videos, frames, words, and the features of each kind."""

  captions: int
  videos: int
  frames: int
  words: int = 30
  frame_features: int = 1024
  token_features: int = 1024
  teacher_features: int = 512


SIZES = {
  'activitynet': Size(15753, 4430, 128),
  'charades': Size(3720, 1334, 40),
  'tvr': Size(10895, 2179, 128, frame_features=3072, token_features=768),
  'small': Size(2000, 512, 128),
  'tiny': Size(200, 64, 16, 8, frame_features=32, token_features=32, teacher_features=16),
}


class _Pool:
  """Random rows; a block of features, of the shape without its last axis, is a view at a random place."""

  def __init__(self, shape: tuple[int, ...], features: int, seed: int, dtype=np.float16):
    self._rng, self._shape, self._count = np.random.default_rng(seed), shape, math.prod(shape)
    rows = max(_POOL_ROWS, 2 * self._count)
    self._rows = self._rng.standard_normal((rows, features), np.float32).astype(dtype)

  def take(self) -> np.ndarray:
    """Returns the features of one block."""
    start = self._rng.integers(len(self._rows) - self._count)
    return self._rows[start : start + self._count].reshape(*self._shape, -1)


class RandomSplit:
  """Blocks of random captions and videos, all words and frames real; caption i belongs to video i modulo V.

  As of a split that is kept, they are the same at every walk.
  """

  def __init__(self, size: Size, block_captions: int, block_videos: int, teacher: bool):
    self.num_videos = size.videos
    captions, videos = [*_caption_blocks(size, block_captions, teacher)], [*_video_blocks(size, block_videos, teacher)]
    self.captions, self.videos = lambda: iter(captions), lambda: iter(videos)


def _caption_blocks(size: Size, block: int, teacher: bool) -> Iterator[Block]:
  tokens = _Pool((block, size.words), size.token_features, 0)
  texts = _Pool((block,), size.teacher_features, 1, np.float32)
  for start in range(0, size.captions, block):
    rows = range(start, min(start + block, size.captions))
    yield Block(
      features=tokens.take(),
      mask=np.ones((block, size.words), bool),
      teacher=texts.take() if teacher else None,
      ids=[f'c{i}' for i in rows],
      video_ids=[f'v{i % size.videos}' for i in rows],
    )


def _video_blocks(size: Size, block: int, teacher: bool) -> Iterator[Block]:
  frames = _Pool((block, size.frames), size.frame_features, 2)
  teacher_frames = _Pool((block, size.frames), size.teacher_features, 3, np.float32)
  mask = np.ones((block, size.frames), bool)
  for start in range(0, size.videos, block):
    yield Block(
      features=frames.take(),
      mask=mask,
      teacher=teacher_frames.take() if teacher else None,
      teacher_mask=mask if teacher else None,
      ids=[f'v{i}' for i in range(start, min(start + block, size.videos))],
    )


class _Timed(Evaluator):
  """An evaluator that notes when all is encoded; the gallery is then complete on the devices."""

  def _rank(self, *arguments):
    self.encoded = time.perf_counter()
    return super()._rank(*arguments)


def peak_bytes() -> int:
  """Peak resident memory of this process so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work_flops(encoders: Encoders, params, size: Size, hidden: int, teacher: bool) -> int:
  """Returns the FLOPs of the matrix products of an evaluation: encoding and scoring."""
  shape = jax.ShapeDtypeStruct
  words, frames = (1, size.words), (1, size.frames)
  a_caption = product_flops(
    encoders.tokens, params, shape((*words, size.token_features), jnp.float32), shape(words, bool)
  )
  a_video = product_flops(
    encoders.frames, params, shape((*frames, size.frame_features), jnp.float32), shape(frames, bool)
  )
  width = 2 * hidden + (size.teacher_features if teacher else 0)
  scores = 2 * size.captions * size.videos * size.frames * width
  return a_caption * size.captions + a_video * size.videos + scores


def matmul_rate(rate: MatmulRate, seconds: float = 0.5) -> float:
  """Measures the rate of a plain product, in FLOP/s: the best of those done in so many seconds."""
  until, best = time.perf_counter() + seconds, 0.0
  while time.perf_counter() < until:
    best = max(best, rate.measure())
  return best


def _flags(arguments: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--size', choices=SIZES, default='small')
  parser.add_argument('--video_block', type=int, default=32, help='videos encoded at once')
  parser.add_argument('--caption_block', type=int, default=128, help='captions encoded at once')
  parser.add_argument('--product_mb', type=float, help='largest product of queries and frames, MiB')
  parser.add_argument('--hidden', type=int, default=384)
  parser.add_argument('--captions', type=int, help='fewer captions than the size has, to save time')
  parser.add_argument('--videos', type=int, help='fewer videos than the size has, to save time')
  parser.add_argument('--repeat', type=int, default=1, help='evaluations; only the first compiles')
  parser.add_argument('--teacher', action=argparse.BooleanOptionalAction, default=False)
  parser.add_argument('--json', type=expand, help='file to write the measurements to')
  return parser.parse_args(arguments)


def measure(flags: argparse.Namespace) -> dict:
  """Runs the evaluations and returns what was measured; seconds, FLOP/s and bytes."""
  size = SIZES[flags.size]
  fewer = {name: getattr(flags, name) for name in ('captions', 'videos') if getattr(flags, name)}
  size = dataclasses.replace(size, **fewer)
  config = load_recipe('tvr')
  with config.unlocked():
    config.model.hidden = flags.hidden
  student = recipe.make_student(config)
  params = init_parameters(student, jax.random.key(0), size.frame_features, size.token_features)
  product_bytes = None if flags.product_mb is None else int(flags.product_mb * 2**20)
  mesh = make_mesh()
  options = recipe.make_evaluation_options(config, mesh, flags.teacher)
  evaluator = _Timed(
    encoders_of(student),
    RandomSplit(size, flags.caption_block, flags.video_block, flags.teacher),
    dataclasses.replace(options, product_bytes=product_bytes),
  )
  rate = MatmulRate(*[2048 if jax.default_backend() == 'cpu' else 8192] * 3, student.dtype)
  rates, seconds, ranking, before = [matmul_rate(rate)], [], [], peak_bytes()
  for _ in range(flags.repeat):
    started = time.perf_counter()
    result = evaluator(params)
    ended = time.perf_counter()
    seconds.append(ended - started)
    ranking.append(ended - evaluator.encoded)
    peak = peak_bytes()
    rates.append(matmul_rate(rate))
  flops = work_flops(encoders_of(student), params, size, flags.hidden, flags.teacher)
  # What the encoders give for V videos; blocks that are not full add to what the devices hold.
  teacher = 4 * size.teacher_features if flags.teacher else 0
  features = size.videos * size.frames * (2 * flags.hidden * jnp.dtype(student.dtype).itemsize + teacher)
  print(tables.as_text(table_rows(result.metrics, size.videos)))
  return {
    'size': dataclasses.asdict(size),
    'devices': [str(device) for device in jax.devices()],
    'dtype': jnp.dtype(student.dtype).name,
    'seconds': seconds,
    'ranking_seconds': ranking,
    'flops': flops,
    'matmul_rates': rates,
    'share_of_matmul_rate': flops / min(seconds) / max(rates),
    'queries_per_second': size.captions / min(seconds),
    'peak_bytes': peak,
    'peak_bytes_before': before,
    'gallery_bytes': result.gallery_bytes,
    'feature_bytes': features,
    'peak_beyond_features': peak - features,
  }


def main(arguments: list[str] | None = None) -> None:
  """Runs the benchmark and prints what it measured."""
  flags = _flags(arguments)
  found = measure(flags)
  mib = {name: round(size / 2**20) for name, size in found.items() if name.endswith(('bytes', 'before', 'features'))}
  times = ', '.join(f'{x:.3g} ({y:.3g})' for x, y in zip(found['seconds'], found['ranking_seconds'], strict=True))
  print(f'{found["size"]} in {found["dtype"]} on {found["devices"]}')
  print(f'seconds (of them ranking) {times}; the first compiles; {found["queries_per_second"]:.0f} queries/s')
  rate = f'matmul rate {max(found["matmul_rates"]) / 1e9:.0f} GFLOP/s'
  print(f'{found["flops"] / 1e12:.3f} TFLOP, {rate}; share of the rate {found["share_of_matmul_rate"]:.2f}')
  print(f'peak memory {mib["peak_bytes"]} MiB ({mib["peak_bytes_before"]} before the first evaluation)')
  print(f'gallery {mib["gallery_bytes"]} MiB; peak beyond the features {mib["peak_beyond_features"]} MiB')
  if flags.json:
    files.write_json(flags.json, found)


if __name__ == '__main__':
  main()
