"""Trains or evaluates a student.

    python -m dlkd_jax.main --config=configs/charades.py --workdir=runs/charades
    python -m dlkd_jax.main --config=configs/charades.py --workdir=runs/charades --mode=eval

The same command resumes a run that was stopped. Arguments of the recipe follow a colon
(`--config=configs/charades.py:hard,seed=1`), single fields are overridden by name (`--config.training.epochs=20`).
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Recipe, as configs/charades.py.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints, logs and results; made where absent.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval'], 'Train (and evaluate at the end), or only evaluate.')
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Split that --mode=eval evaluates.')
_PARAMS = flags.DEFINE_string(
  'params', None, 'With --mode=eval: a safetensors file of parameters to evaluate instead of the best checkpoint.'
)


def main(argv):
  """Dispatches to training or evaluation; errors of the user's input end with one message and exit code 1."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  # Imported here, so that --help answers at once.
  from dlkd_jax.training import evaluation_run, loop

  workdir = pathlib.Path(_WORKDIR.value)
  try:
    if _MODE.value == 'train':
      loop.train(_CONFIG.value, workdir)
    else:
      evaluation_run.evaluate(_CONFIG.value, workdir, _SPLIT.value, _PARAMS.value)
  except (ValueError, FileNotFoundError, loop.NonFiniteLossError) as error:
    logging.debug('the traceback', exc_info=True)
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print('\ninterrupted; the same command goes on from the newest checkpoint', file=sys.stderr)
    sys.exit(130)


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main)
