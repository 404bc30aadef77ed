"""Trains or evaluates a student.

  dlkd train --config=configs/charades.py --workdir=runs/charades
  dlkd train --config=configs/charades.py:hard,seed=1 --workdir=runs/hard --config.training.epochs=20
  dlkd eval --workdir=runs/charades

The first command resumes a run that was stopped, too. Arguments of the recipe follow a colon, single
fields are overridden by name. A run is evaluated with its own settings; behind a recipe some can be set
anew by name, as --config.data.data_dir and --config.evaluation.weights.

On several machines the same command runs on each, with a --workdir that all of them see. SLURM, mpirun
and a TPU slice that names its workers in the environment are noticed; elsewhere give --distributed, or
--coordinator_address, --num_processes and --process_id.

SIGTERM (exit code 75) and Ctrl-C (130) stop it within one step and with all saved that the same command
needs to go on.
"""

import traceback

from absl import flags
from ml_collections import config_flags

from dlkd_jax import doors
from dlkd_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Recipe, as configs/charades.py.', lock_config=True)
_WORKDIR = doors.DEFINE_path(
  'workdir', None, 'Folder of checkpoints, logs and results, also gs://bucket/folder; made where absent.', bucket=True
)
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval'], 'Train (and evaluate at the end), or only evaluate.')
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Split that --mode=eval evaluates.')
_PARAMS = doors.DEFINE_path(
  'params', None, 'With --mode=eval: a safetensors file of parameters to evaluate instead of the best checkpoint.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Join the processes of a cluster even where the environment does not name one (TPU pods).'
)
_COORDINATOR = flags.DEFINE_string('coordinator_address', None, 'Of several processes: HOST:PORT of process 0.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Of several processes: how many there are.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Of several processes: which one this is, from 0.')


def main(names):
  """Dispatches to training or evaluation."""
  doors.collect_seldom()
  # Imported here, so that --help answers at once.
  from dlkd_jax import multihost
  from dlkd_jax.training import evaluate_run, train

  config = None if _CONFIG.value is None else doors.config_of(_CONFIG)
  if config is None and _MODE.value == 'train':
    raise UserError('--mode=train needs a recipe, as --config=configs/charades.py')
  stop = multihost.StopRequest()
  try:
    multihost.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _DISTRIBUTED.value)
    with stop:
      doors.keep_compiled(_WORKDIR.value / 'compiled')
      if _MODE.value == 'train':
        train.train(config, _WORKDIR.value, stop)
      else:
        given = [] if config is None else config_flags.get_override_values(flags.FLAGS['config'])
        evaluate_run.evaluate(config, _WORKDIR.value, _SPLIT.value, _PARAMS.value, stop, given)
  except multihost.Stopped as stopped:
    doors.ignore_terminations()
    multihost.exit_together(stop.describe(stopped), stop.code)
  except KeyboardInterrupt as interrupt:
    multihost.exit_alone(str(interrupt) or 'interrupted before anything was changed', multihost.INTERRUPTED)
  except Exception as error:
    if multihost.alone():
      raise
    if not isinstance(error, UserError | OSError):
      traceback.print_exc()
    multihost.exit_alone(f'error: {doors.describe(error)}', 1)


if __name__ == '__main__':
  doors.run(main, required=['workdir'])
