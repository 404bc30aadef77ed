"""Benchmark of one training step against the matrix product rate of the same machine, in the same run.

    python -m dlkd_jax.tools.benchmark_step
    python -m dlkd_jax.tools.benchmark_step --videos=32 --captions=160 --repeats=10 --trace=runs/trace

Prints seconds a step, floating-point operations of the compiled step by the compiler's cost analysis, the rate that
they imply, and its share of the rate of a plain jitted product of `[videos·frames, Dv]` by `[Dv, 768]`. Step and
product alternate, so that other load on the machine falls on both; medians are reported.
"""

import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from dlkd_jax import sharding
from dlkd_jax.data.batch import Batch
from dlkd_jax.models.student import init_parameters
from dlkd_jax.tools.step_profile import time_by_kind
from dlkd_jax.training import recipe
from dlkd_jax.training.state import create_state, make_train_step

_CONFIG = config_flags.DEFINE_config_file('config', 'configs/tvr.py', 'Recipe to take the step from.')
_VIDEOS = flags.DEFINE_integer('videos', 128, 'Videos in the batch.')
_CAPTIONS = flags.DEFINE_integer('captions', 640, 'Captions in the batch.')
_FRAMES = flags.DEFINE_integer('frames', 128, 'Frames a video, all real.')
_WORDS = flags.DEFINE_integer('words', 30, 'Words a caption, all real.')
_DV = flags.DEFINE_integer('dv', 3072, 'Feature size of student frames.')
_DQ = flags.DEFINE_integer('dq', 768, 'Feature size of student tokens.')
_DT = flags.DEFINE_integer('dt', 512, 'Feature size of the teacher.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed repetitions.')
_TRACE = flags.DEFINE_string(
  'trace', None, 'Folder for a profile of two steps (TensorBoard, Perfetto); also prints the time by kind of operation.'
)


def random_batch() -> Batch:
  """Makes a batch in which every frame and every word is real."""
  rng = np.random.default_rng(0)
  b, q, l, w = _VIDEOS.value, _CAPTIONS.value, _FRAMES.value, _WORDS.value

  def unit(*shape):
    rows = rng.standard_normal(shape, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

  return Batch(
    student_frames=unit(b, l, _DV.value),
    frame_mask=np.ones((b, l), bool),
    student_tokens=unit(q, w, _DQ.value),
    token_mask=np.ones((q, w), bool),
    labels=np.sort(np.arange(q) % b).astype(np.int32),
    video_mask=np.ones(b, bool),
    caption_mask=np.ones(q, bool),
    teacher_frames=10 * unit(b, l, _DT.value),
    teacher_text=10 * unit(q, _DT.value),
  ).check()


def seconds(function) -> float:
  """Times one call, to the end of its computation."""
  start = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - start


def main(_):
  """Runs the benchmark and prints its table."""
  config = _CONFIG.value
  mesh = sharding.make_mesh()
  student = recipe.make_student(config)
  optimizer, rate = recipe.make_optimizer(config, 100)
  key = jax.random.key(0)
  state = create_state(lambda: init_parameters(student, key, _DV.value, _DQ.value), optimizer, mesh)
  coefficients = recipe.make_coefficients(config, 100)
  step = make_train_step(student, optimizer, coefficients, rate, recipe.make_loss_options(config), mesh)
  batch = sharding.shard_batch(random_batch(), mesh)

  compiled = step.lower(state, batch, key).compile()
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  flops = cost['flops'] * mesh.size

  n, d = _VIDEOS.value * _FRAMES.value, _DV.value
  left, right = jnp.ones((n, d)) * 0.5, jnp.ones((d, 768)) * 0.5
  product = jax.jit(jnp.dot)

  def run_step():
    nonlocal state
    state, metrics = compiled(state, batch, key)
    return metrics

  times = {'step': [], 'product': []}
  for _ in range(2):
    seconds(run_step), seconds(lambda: product(left, right))
  for _ in range(_REPEATS.value):
    times['product'].append(seconds(lambda: product(left, right)))
    times['step'].append(seconds(run_step))
    times['product'].append(seconds(lambda: product(left, right)))
  step_time, product_time = (statistics.median(times[k]) for k in ('step', 'product'))
  step_rate, product_rate = flops / step_time, 2.0 * n * d * 768 / product_time
  print(f'device            {mesh.size} x {jax.devices()[0].device_kind}')
  videos, captions = (
    f'{_VIDEOS.value} videos x {_FRAMES.value} frames',
    f'{_CAPTIONS.value} captions x {_WORDS.value} words',
  )
  print(f'batch             {videos}, {captions}')
  print(f'step              {step_time:.3f} s (median of {_REPEATS.value}; least {min(times["step"]):.3f})')
  print(f'operations        {flops / 1e9:.0f} GFLOP a step (cost analysis of the compiled step)')
  print(f'temporary memory  {memory.temp_size_in_bytes / 2**30:.2f} GiB')
  print(f'step rate         {step_rate / 1e9:.1f} GFLOP/s')
  print(f'product rate      {product_rate / 1e9:.1f} GFLOP/s ({n} x {d} by {d} x 768, {product_time * 1e3:.0f} ms)')
  print(f'share             {100 * step_rate / product_rate:.1f}%')

  if _TRACE.value:
    with jax.profiler.trace(_TRACE.value):
      seconds(run_step), seconds(run_step)
    print('time of operations')
    for kind, share in time_by_kind(pathlib.Path(_TRACE.value), compiled.as_text()).items():
      print(f'  {100 * share:5.1f}%  {kind}')


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  app.run(main)
