"""What each of two processes runs in the tests of `multihost` and `checkpoints`; see `test_multihost.py`.

python -m tests.two_processes SCENE HOST:PORT PROCESS_ID FOLDER
"""

import json
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from dlkd_jax import files, multihost, sharding
from dlkd_jax.training.checkpoints import CheckpointError, Checkpoints, Progress
from dlkd_jax.training.state import TrainState

# A state of which `large` is split over a `model` axis, and the others are not.
STATE = TrainState(
  np.asarray(7, np.int32),
  {'large': np.arange(128 * 64, dtype=np.float32).reshape(128, 64), 'small': np.arange(6, dtype=np.float32)},
  (np.ones(3, np.float32),),
)


def place(state, mesh):
  """Puts a state of numpy arrays on a mesh, also where others hold a part of it."""
  shardings = sharding.state_shardings(state, mesh)
  return jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]), state, shardings)


def stop(folder):
  """Steps until process 1 got a signal; both write where they stopped, and how often they asked."""
  me, questions = jax.process_index(), []
  mesh, reduce = sharding.make_mesh(), multihost.all_reduce_max
  multihost.all_reduce_max = lambda *values: questions.append(1) or reduce(*values)
  with multihost.StopRequest() as request:
    step = 0
    while not request.agreed(step):
      with jax.transfer_guard('disallow'):  # As the loop has it.
        sharding.shard_batch(np.ones((4, 3), np.float32), mesh)
      time.sleep(0.01)
      step += 1
      if step == 50 and me == 1:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
      assert step < 1000
    found = {'step': step, 'signal': request.signal and request.signal.name, 'questions': len(questions)}
    (folder / f'{me}.json').write_text(json.dumps(found))
    multihost.exit_together(request.describe(multihost.Stopped('as asked')), request.code)


def main_fails(folder):
  """Process 0 fails in what it alone does."""

  def fail():
    raise OSError('no room')

  try:
    multihost.on_main(fail)
  except OSError as error:
    (folder / '0.json').write_text(json.dumps(str(error)))
  except multihost.OtherProcessError as error:
    (folder / '1.json').write_text(json.dumps(str(error)))


def one_dies(folder):
  """Process 1 leaves while process 0 waits for it in a step."""
  values = jax.make_array_from_process_local_data(sharding.rows(sharding.make_mesh()), np.ones(2, np.float32))
  total = jax.jit(jnp.sum)
  assert float(total(values)) == 4.0
  if jax.process_index() == 1:
    multihost.exit_alone('error: bad features', 1)
  try:
    for _ in range(1000):
      float(total(values))
  except Exception as error:
    multihost.exit_alone(f'error: {str(error)[:200]}', 1)


def checkpoint(folder):
  """Saves a state that is split over both processes, and reads it back; a failure of process 0 is told to both."""
  checkpoints, state = Checkpoints(folder), place(STATE, sharding.make_mesh(model=4))
  assert not state.params['large'].is_fully_addressable
  assert checkpoints.newest_whole() is None
  checkpoints.save(7, state, Progress({'batches': 7}, best_sum_r=3.0, best_step=7))
  assert checkpoints.newest_whole() == checkpoints.best_whole() == 7
  restored, progress = checkpoints.restore(7, state)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a.addressable_data(0), b.addressable_data(0)), restored, state
  )
  assert progress.best_step == 7
  if jax.process_index() == 0:
    files.seal = None  # Cannot be called.
  try:
    checkpoints.save(8, state, progress)
    checkpoints.wait()
  except (CheckpointError, multihost.OtherProcessError) as error:
    (folder / f'{jax.process_index()}.json').write_text(json.dumps(str(error)))


def main():
  """Runs the scene as one of two processes."""
  scene, address, process_id, folder = sys.argv[1:]
  multihost.initialize(address, 2, int(process_id))
  assert jax.process_count() == 2 and not multihost.alone()
  globals()[scene](pathlib.Path(folder))


if __name__ == '__main__':
  main()
