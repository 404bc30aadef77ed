"""Measures an evaluation of random features: time, queries per second and the peak memory of the process.

  python -m dlkd_jax.tools.benchmark_evaluation --size=activitynet
  python -m dlkd_jax.tools.benchmark_evaluation --size=charades --no-teacher

Features are drawn block by block, so the memory measured is that of the evaluation, not of a data set.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import time
from collections.abc import Iterator

import jax
import numpy as np

from dlkd_jax.data.evaluation_blocks import CaptionBlock, VideoBlock
from dlkd_jax.models.student import Student, init_parameters
from dlkd_jax.retrieval.evaluation import EvaluationOptions
from dlkd_jax.retrieval.evaluator import Evaluator
from dlkd_jax.retrieval.tables import text_table


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
  'tiny': Size(200, 64, 16, 8, frame_features=32, token_features=32, teacher_features=16),
}


def random_captions(size: Size, block: int, teacher: bool) -> Iterator[CaptionBlock]:
  """Yields blocks of random captions; caption i belongs to video i modulo V."""
  rng = np.random.default_rng(0)
  for start in range(0, size.captions, block):
    real = np.arange(start, start + block) < size.captions
    rows = range(start, min(start + block, size.captions))
    yield CaptionBlock(
      student_tokens=rng.standard_normal((block, size.words, size.token_features), np.float32),
      token_mask=np.ones((block, size.words), bool),
      teacher_text=_normal(rng, (block, size.teacher_features)) if teacher else None,
      caption_mask=real,
      caption_ids=[f'c{i}' for i in rows],
      video_ids=[f'v{i % size.videos}' for i in rows],
      captions=[''] * len(rows),
      moments=np.full((block, 2), np.nan, np.float32),
      durations=np.full(block, np.nan, np.float32),
    )


def random_videos(size: Size, block: int, teacher: bool) -> Iterator[VideoBlock]:
  """Yields blocks of random videos, all frames real."""
  rng = np.random.default_rng(1)
  mask = np.ones((block, size.frames), bool)
  for start in range(0, size.videos, block):
    yield VideoBlock(
      student_frames=_normal(rng, (block, size.frames, size.frame_features)),
      frame_mask=mask,
      teacher_frames=_normal(rng, (block, size.frames, size.teacher_features)) if teacher else None,
      teacher_mask=mask if teacher else None,
      video_mask=np.arange(start, start + block) < size.videos,
      video_ids=[f'v{i}' for i in range(start, min(start + block, size.videos))],
    )


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  return rng.standard_normal(shape, np.float32)


def peak_megabytes() -> float:
  """Peak resident memory of this process so far, in MB of 2**20 bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> None:
  """Runs the benchmark and prints what it measured."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--size', choices=SIZES, default='charades')
  parser.add_argument('--video_block', type=int, default=32, help='videos encoded at once')
  parser.add_argument('--caption_block', type=int, default=128, help='captions encoded at once')
  parser.add_argument('--product_mb', type=int, default=32, help='largest array of products, MB')
  parser.add_argument('--hidden', type=int, default=384)
  parser.add_argument('--videos', type=int, help='fewer videos than the size has, to save time')
  parser.add_argument('--repeat', type=int, default=1, help='evaluations; only the first compiles')
  parser.add_argument('--teacher', action=argparse.BooleanOptionalAction, default=True)
  flags = parser.parse_args(arguments)

  size = SIZES[flags.size]
  if flags.videos:
    size = dataclasses.replace(size, videos=flags.videos)
  student = Student(hidden=flags.hidden)
  params = init_parameters(student, jax.random.key(0), size.frame_features, size.token_features)
  options = EvaluationOptions(teacher=flags.teacher, product_bytes=flags.product_mb << 20)
  evaluator = Evaluator(student, options)
  print(f'{size}, {jax.devices()}; {peak_megabytes():.0f} MB before')
  for _ in range(flags.repeat):
    started, cpu_started = time.perf_counter(), time.process_time()
    result = evaluator(
      params,
      lambda: random_captions(size, flags.caption_block, flags.teacher),
      lambda: random_videos(size, flags.video_block, flags.teacher),
      size.videos,
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    print(
      f'{seconds:.1f} s ({cpu:.1f} s of CPU time), {size.captions / seconds:.0f} queries/s, '
      f'{size.captions * size.videos / seconds / 1e6:.2f} M pairs/s, peak {peak_megabytes():.0f} MB'
    )
  print(text_table(result.metrics, size.videos))


if __name__ == '__main__':
  main()
