"""From nothing to a table: renders films, pretrains a teacher, extracts features, trains students and compares them.

    python -m dlkd_jax.demo --workdir=runs/demo

Each stage is done once: the same command goes on where it was stopped. `--until=films` stops behind that stage.
"""

import pathlib
import sys

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string('workdir', 'runs/demo', 'Folder that everything is written to.')
_UNTIL = flags.DEFINE_string('until', None, 'Name of the last stage to do; default: all.')
_SIZE = flags.DEFINE_enum('size', 'whole', ['whole', 'tiny'], 'tiny: a check of the whole path, not a result.')


def main(argv):
  """Runs the stages; errors of the user's input end with one message and exit code 1."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  from dlkd_jax.demo import account
  from dlkd_jax.demo.settings import SIZES

  try:
    account.demonstrate(SIZES[_SIZE.value], pathlib.Path(_WORKDIR.value), _UNTIL.value)
  except (ValueError, OSError) as error:
    logging.debug('the traceback', exc_info=True)
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print('stopped: what is made is kept; the same command goes on', file=sys.stderr)
    sys.exit(130)


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  app.run(main)
