"""Benchmark of checkpoints: seconds to save and to restore the training state of a recipe, and its bytes.

python -m dlkd_jax.tools.benchmark_checkpoint
python -m dlkd_jax.tools.benchmark_checkpoint --model=activitynet --repeats=10 --json=checkpoint.json
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax

from dlkd_jax import files, sharding
from dlkd_jax.config_defaults import load_recipe
from dlkd_jax.files import expand
from dlkd_jax.models.students import init_parameters
from dlkd_jax.tools import lengths as models
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from dlkd_jax.training.state import create_state


def measure(model: str, repeats: int) -> dict[str, Any]:
  """Saves and restores a state `repeats` times; returns median seconds, and bytes in memory and on disk."""
  config, mesh = load_recipe(model), sharding.make_mesh()
  student, (optimizer, _) = recipe.make_student(config), recipe.make_optimizer(config, 100)
  sizes = models.SIZES[model]
  state = create_state(lambda key: init_parameters(student, key, *sizes[:2]), optimizer, mesh, jax.random.key(0))
  jax.block_until_ready(state)
  waited, saving, restoring = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = Checkpoints(pathlib.Path(folder))
    for step in range(1, repeats + 1):
      start = time.perf_counter()
      checkpoints.save(step, state, Progress({'batches': step}))
      waited.append(time.perf_counter() - start)
      checkpoints.wait()
      saving.append(time.perf_counter() - start)
      start = time.perf_counter()
      jax.block_until_ready(checkpoints.restore(step, state))
      restoring.append(time.perf_counter() - start)
    newest = pathlib.Path(folder) / 'checkpoints' / str(repeats)
    on_disk = sum(path.stat().st_size for path in newest.rglob('*') if path.is_file())
  return {
    'model': model,
    'blocked_seconds': statistics.median(waited),
    'save_seconds': statistics.median(saving),
    'restore_seconds': statistics.median(restoring),
    'state_bytes': sum(x.nbytes for x in jax.tree.leaves(state)),
    'disk_bytes': on_disk,
  }


def main(arguments: list[str] | None = None) -> None:
  """Runs the benchmark and prints what it measured."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    '--model', choices=('tvr', 'activitynet'), default='tvr', help='whose state (default %(default)s)'
  )
  parser.add_argument('--repeats', type=int, default=5, help='(default %(default)s)')
  parser.add_argument('--json', type=expand, help='file to write the numbers to')
  flags = parser.parse_args(arguments)
  found = measure(flags.model, flags.repeats)
  print(
    f'{flags.model}: state of {found["state_bytes"] / 2**20:.0f} MiB, {found["disk_bytes"] / 2**20:.0f} MiB on disk; '
    f'save {found["save_seconds"]:.2f} s, of which the training waits {found["blocked_seconds"]:.2f} s; '
    f'restore {found["restore_seconds"]:.2f} s (medians of {flags.repeats})'
  )
  if flags.json:
    files.write_json(flags.json, found)


if __name__ == '__main__':
  main()
