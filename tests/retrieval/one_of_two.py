"""One of several processes that evaluate a world together; started by `test_processes`.

  python -m tests.retrieval.one_of_two <address> <processes> <index> <case>

Writes what it found to standard output, as one line of JSON after `found:`.
"""

import json
import sys

import jax
import numpy as np

from dlkd_jax import sharding
from dlkd_jax.multihost import Stopped
from dlkd_jax.retrieval.evaluate import Evaluator
from tests import options as made
from tests.retrieval import worlds

BLOCK = 4


def share(blocks, index, count):
  """Returns every `count`-th block, as if this process had read no other."""
  return [block for place, block in enumerate(blocks) if place % count == index]


def galleries(world, index, count):
  """Blocks of videos of two lengths; the numbers of blocks differ among the processes, by length too."""
  blocks = [*world.video_blocks(BLOCK, 4)][:3] + [*world.video_blocks(BLOCK, 3)][3:]
  return share(blocks, index, count)


def run(mesh, index, count, case):
  """Evaluates this process's share; returns what the test compares."""
  world, polls = worlds.tied_world(), iter(range(1000))

  def stop():
    return case == 'stop' and index == 1 and next(polls) == 3

  if case == 'fail' and index == 1:
    world.frames[5] = world.frames[5][:0]
  params = jax.device_put({'scale': np.ones(8, np.float32)}, jax.NamedSharding(mesh, jax.P('model')))
  try:
    split = worlds.Blocks(
      len(world.frames),
      lambda: share(world.caption_blocks(2 * BLOCK), index, count),
      lambda: galleries(world, index, count),
    )
    options = made.evaluation_options(mesh=mesh, keep_scores=True)
    result = Evaluator(worlds.sign_encoders(), split, options)(params, stop)
  except (Stopped, RuntimeError, ValueError) as error:
    return {'error': f'{type(error).__name__}: {error}'}
  ranks = {name: dict(zip(result.caption_ids, values.tolist(), strict=True)) for name, values in result.ranks.items()}
  rows, columns = np.argsort(result.caption_ids), np.argsort(result.video_ids)
  scores = {name: values[np.ix_(rows, columns)].tolist() for name, values in result.scores.items()}
  return {'ranks': ranks, 'scores': scores, 'metrics': result.as_dict(), 'bytes': result.gallery_bytes}


def main(address, count, index, case):
  """Joins the other processes and prints what was found."""
  jax.config.update('jax_num_cpu_devices', 2)
  jax.distributed.initialize(address, int(count), int(index))
  if case == 'one chip':  # As if programs over one process's devices were refused.
    sharding._all_or_one = lambda mesh: True
  mesh = sharding.make_mesh(model=2)
  assert mesh.size == 2 * int(count)
  print('found:' + json.dumps(run(mesh, int(index), int(count), case)), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
