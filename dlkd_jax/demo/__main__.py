"""From nothing to a table: renders films, pretrains a teacher, extracts features, trains students and compares them.

    python -m dlkd_jax.demo --workdir=runs/demo

Each stage is done once: the same command goes on where it was stopped. `--until=films` stops behind that stage.
"""

from absl import flags

from dlkd_jax import doors

_WORKDIR = doors.DEFINE_path('workdir', 'runs/demo', 'Folder that everything is written to.')
_UNTIL = flags.DEFINE_string('until', None, 'Name of the last stage to do; default: all.')
_SIZE = flags.DEFINE_enum('size', 'whole', ['whole', 'tiny'], 'tiny: a check of the whole path, not a result.')


def main(names):
  """Runs the stages."""
  doors.no_arguments(names)
  from dlkd_jax.demo import account
  from dlkd_jax.demo.settings import SIZES

  account.demonstrate(SIZES[_SIZE.value], _WORKDIR.value, _UNTIL.value)


if __name__ == '__main__':
  doors.run(main, stopped='stopped: what is made is kept; the same command goes on')
