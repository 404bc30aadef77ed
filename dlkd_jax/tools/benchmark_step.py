"""Benchmark of the training step: packed rows and the blocked similarity against full padding and a plain einsum.

    python -m dlkd_jax.tools.benchmark_step
    python -m dlkd_jax.tools.benchmark_step --model=activitynet --videos=64
    python -m dlkd_jax.tools.benchmark_step --model=full --forms=packed --trace=runs/trace
    python -m dlkd_jax.tools.benchmark_step --forms=packed --scaling=64,256,1024,4096
    python -m dlkd_jax.tools.benchmark_step --forms=packed,plus

Features are random, lengths those of a model of a data set (`dlkd_jax.tools.lengths`; `full` has every frame and word
real). Both forms train on the same videos with the same step, dropout on, from a batch on the device; they and a plain
product of `[videos·frames, Dv]` by `[Dv, 768]`, of the step's type, are timed in turn, so that other load on the
machine falls on all, and medians are reported. On accelerators 20 calls are timed as one, as a training starts them.
The share is the rate of the step's matrix products over the rate of the plain product. The form `plus` is packed, with
all pieces of the recipe argument `plus`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from dlkd_jax import files, sharding
from dlkd_jax.config_defaults import PLUS, load_recipe
from dlkd_jax.data.batch import Batch, Parcel, pack
from dlkd_jax.files import expand
from dlkd_jax.models.students import Student, init_parameters
from dlkd_jax.tools import lengths as models
from dlkd_jax.tools.random_data import random_batch
from dlkd_jax.tools.rates import MatmulRate, calls_together, product_flops, seconds
from dlkd_jax.tools.step_profile import time_by_kind
from dlkd_jax.training import recipe
from dlkd_jax.training.objective import Embeddings, ObjectiveOptions, contrast
from dlkd_jax.training.state import create_state, make_train_step

RECIPES = {'tvr': 'tvr', 'activitynet': 'activitynet', 'full': 'tvr'}
FORMS = ('packed', 'baseline', 'plus')


@dataclasses.dataclass
class Step:
  """A compiled training step on one batch."""

  config: ml_collections.ConfigDict
  student: Student
  options: ObjectiveOptions
  batch: Batch  # And as it travels to the devices:
  parcel: Parcel
  key: jax.Array
  state: Any
  compiled: Any
  flops: int

  def run(self) -> Any:
    """Trains one step; returns its metrics."""
    self.state, metrics = self.compiled(self.state, self.parcel, self.key)
    return metrics

  @property
  def temporary_bytes(self) -> int:
    """What the compiler reserves besides arguments and results, a device."""
    return self.compiled.memory_analysis().temp_size_in_bytes


def make_config(model: str, form: str, videos: int) -> ml_collections.ConfigDict:
  """Returns the recipe of a model of lengths in one form, encoded in parts of at most 128 videos."""
  config = load_recipe(RECIPES[model])
  with config.unlocked():
    config.data.batch_videos = videos
    config.training.micro_batches = max(1, videos // 128)
    if form == 'plus':
      for piece in PLUS.values():
        piece(config)
    if form == 'baseline':
      config.data.packing, config.similarity.form = False, 'plain'
  return config


def make_step(model: str, form: str, videos: int) -> Step:
  """Compiles the step of a form for a batch of so many videos of a model."""
  config, mesh = make_config(model, form, videos), sharding.make_mesh()
  student, options = recipe.make_student(config), recipe.make_objective_options(config)
  batch = random_batch(model, recipe.make_pipeline_options(config, mesh.size, teacher=True))
  optimizer, rate = recipe.make_optimizer(config, 100)
  sizes = models.SIZES[model]
  state = create_state(lambda key: init_parameters(student, key, *sizes[:2]), optimizer, mesh, jax.random.key(0))
  step = make_train_step(student, optimizer, recipe.make_coefficients(config, 100), rate, options, mesh)
  parcel, key = sharding.shard_batch(pack(batch, mesh.size), mesh), jax.random.key(0)
  compiled = step.lower(state, parcel, key).compile()
  flops = product_flops(step, state, parcel, key)
  return Step(config, student, options, sharding.shard_batch(batch, mesh), parcel, key, state, compiled, flops)


def contrast_bytes(step: Step) -> int:
  """Returns the temporary memory of similarities and losses alone, with their gradient, for the batch of a step."""
  hidden, mesh = step.config.model.hidden, sharding.make_mesh()
  rows = lambda layout, *shape: jax.ShapeDtypeStruct(  # noqa: E731
    (layout.slot.shape[0], *shape), step.student.dtype, sharding=sharding.rows(mesh)
  )
  layouts = jax.eval_shape(step.student.layouts, step.batch.frame_layout)
  embeddings = Embeddings(
    {n: rows(layout, layout.slot.shape[1], hidden) for n, layout in layouts.items()},
    {n: rows(step.batch.token_layout, step.batch.token_layout.slots, hidden) for n in step.student.branches},
  )
  loss = functools.partial(
    contrast,
    student=step.student,
    coefficients=recipe.make_coefficients(step.config, 100)(jnp.asarray(0)),
    key=jax.random.key(0),
    options=step.options,
    mesh=mesh,
  )
  compiled = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(embeddings, step.batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def measure(model: str, forms: tuple[str, ...], videos: int, repeats: int) -> dict[str, Any]:
  """Times the forms and a plain product in turn.

  Returns:
    By form: seconds a step, FLOPs of its products, share of the product's rate, temporary bytes of the step and of
    similarities and losses alone, share of padding among frames and tokens; and the product's rate.
  """
  steps = {form: make_step(model, form, videos) for form in forms}
  rate = MatmulRate(videos * 128, models.SIZES[model][0], 768, steps[forms[0]].student.dtype)
  times, rates = {form: [] for form in forms}, []
  for step in steps.values():
    seconds(step.run)
  for _ in range(repeats):
    for form, step in steps.items():
      rates.append(rate.measure())
      times[form].append(seconds(step.run, calls=calls_together()))
  result: dict[str, Any] = {'model': model, 'videos': videos, 'product_rate': statistics.median(rates)}
  for form, step in steps.items():
    middle = statistics.median(times[form])
    result[form] = {
      'seconds': middle,
      'videos_per_second': videos / middle,
      'flops': step.flops,
      'share_of_product_rate': step.flops / middle / result['product_rate'],
      'temporary_bytes': step.temporary_bytes,
      'contrast_temporary_bytes': contrast_bytes(step),
      'padding_frames': float(1 - jnp.mean(step.batch.frame_layout.mask)),
      'padding_tokens': float(1 - jnp.mean(step.batch.token_layout.mask)),
    }
  return result


def table(result: dict[str, Any]) -> str:
  """Formats what `measure` returned."""
  lines = [f'{result["model"]}, {result["videos"]} videos; plain product {result["product_rate"] / 1e9:.1f} GFLOP/s']
  for form in (f for f in FORMS if f in result):
    r = result[form]
    lines.append(
      f'  {form:9s} {1e3 * r["seconds"]:9.2f} ms a step  {r["videos_per_second"]:7.1f} videos/s  '
      f'{r["flops"] / 1e9:7.0f} GFLOP '
      f'({r["share_of_product_rate"]:.0%} of the product)  temporary {r["temporary_bytes"] / 2**20:7.0f} MiB  '
      f'similarity and losses {r["contrast_temporary_bytes"] / 2**20:7.1f} MiB  '
      f'padding {r["padding_frames"]:.1%} of frames, {r["padding_tokens"]:.1%} of tokens'
    )
  for form, other in (('packed', 'baseline'), ('plus', 'packed')):
    if form in result and other in result:
      keys = 'seconds', 'temporary_bytes', 'contrast_temporary_bytes'
      time, memory, losses = (result[form][key] / result[other][key] for key in keys)
      lines.append(
        f'  {form} over {other}: time {time:.2f}, temporary memory {memory:.2f}, similarity and losses {losses:.3f}'
      )
  return '\n'.join(lines)


def profile(model: str, form: str, videos: int, folder: pathlib.Path) -> dict[str, float]:
  """Writes a profile of two steps (TensorBoard, Perfetto); returns the share of time by kind of operation."""
  step = make_step(model, form, videos)
  seconds(step.run)
  with jax.profiler.trace(str(folder)):
    seconds(step.run), seconds(step.run)
  return time_by_kind(folder, step.compiled.as_text())


def _flags(arguments: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', choices=RECIPES, default='tvr', help='lengths and sizes (default %(default)s)')
  parser.add_argument('--videos', type=int, default=128, help='videos in the batch (default %(default)s)')
  parser.add_argument('--forms', default='packed,baseline', help='of packed, baseline and plus (default %(default)s)')
  parser.add_argument('--repeats', type=int, default=5, help='timed repetitions (default %(default)s)')
  parser.add_argument('--scaling', help='comma-separated numbers of videos to measure one after another')
  parser.add_argument('--trace', type=expand, help='folder for a profile of the first form')
  parser.add_argument('--json', type=expand, help='file to write the numbers to')
  return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
  """Runs the benchmark and prints what it measured."""
  flags = _flags(arguments)
  forms = tuple(flags.forms.split(','))
  if unknown := set(forms) - set(FORMS):
    raise SystemExit(f'unknown form(s) {sorted(unknown)}; expected some of {", ".join(FORMS)}')
  sizes = [int(size) for size in flags.scaling.split(',')] if flags.scaling else [flags.videos]
  print(f'{jax.device_count()} x {jax.devices()[0].device_kind}', flush=True)
  results = []
  for videos in sizes:
    results.append(measure(flags.model, forms, videos, flags.repeats))
    print(table(results[-1]), flush=True)
  if flags.trace:
    print('time of operations')
    for kind, share in profile(flags.model, forms[0], sizes[0], flags.trace).items():
      print(f'  {100 * share:5.1f}%  {kind}')
  if flags.json:
    files.write_json(flags.json, results)


if __name__ == '__main__':
  main()
