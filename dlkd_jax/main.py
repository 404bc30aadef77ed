"""Trains or evaluates a student.

    python -m dlkd_jax.main --config=configs/charades.py --workdir=runs/charades
    python -m dlkd_jax.main --config=configs/charades.py --workdir=runs/charades --mode=eval

The same command resumes a run that was stopped. Arguments of the recipe follow a colon
(`--config=configs/charades.py:hard,seed=1`), single fields are overridden by name (`--config.training.epochs=20`).

On several machines the same command runs on each, with a --workdir that all of them see. SLURM, mpirun and a TPU slice
that names its workers in the environment are noticed; elsewhere give --distributed, or --coordinator_address,
--num_processes and --process_id.

Exit codes: 0 done; 1 an error, with a message; 75 stopped by SIGTERM and 130 by Ctrl-C, within one step and with all
saved that the same command needs to go on.
"""

import pathlib
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Recipe, as configs/charades.py.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints, logs and results; made where absent.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval'], 'Train (and evaluate at the end), or only evaluate.')
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Split that --mode=eval evaluates.')
_PARAMS = flags.DEFINE_string(
  'params', None, 'With --mode=eval: a safetensors file of parameters to evaluate instead of the best checkpoint.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Join the processes of a cluster even where the environment does not name one (TPU pods).'
)
_COORDINATOR = flags.DEFINE_string('coordinator_address', None, 'Of several processes: HOST:PORT of process 0.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Of several processes: how many there are.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Of several processes: which one this is, from 0.')


def main(argv):
  """Dispatches to training or evaluation; errors of the user's input end with one message and exit code 1."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  # Imported here, so that --help answers at once.
  from dlkd_jax.training import checkpoints, cluster, evaluation_run, loop, shutdown

  expected = (ValueError, OSError, loop.NonFiniteLossError, checkpoints.CheckpointError, cluster.OtherProcessError)
  workdir = pathlib.Path(_WORKDIR.value)
  try:
    cluster.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _DISTRIBUTED.value)
    with shutdown.StopRequest() as stop:
      if _MODE.value == 'train':
        loop.train(_CONFIG.value, workdir, stop)
      else:
        evaluation_run.evaluate(_CONFIG.value, workdir, _SPLIT.value, _PARAMS.value, stop)
  except shutdown.StoppedError as stopped:
    cluster.leave_together(str(stopped), stopped.code)
  except expected as error:
    logging.debug('the traceback', exc_info=True)
    cluster.leave(f'error: {error}', 1)
  except KeyboardInterrupt:
    cluster.leave('interrupted before anything was changed', shutdown.INTERRUPTED)
  except Exception as error:
    if cluster.alone():
      raise
    traceback.print_exc()
    cluster.leave(f'error: {error}', 1)


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main)
