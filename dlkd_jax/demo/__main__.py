"""From nothing to a table: renders films, pretrains a teacher, extracts features, trains students and
compares them.

  dlkd demo
  dlkd demo --size=tiny --workdir=runs/tiny      the whole path in a few minutes, not a result
  dlkd demo --until=films                        stops behind that stage

Each stage is done once: the same command goes on where it was stopped.
"""

import dataclasses

from absl import flags

from dlkd_jax import doors

_WORKDIR = doors.DEFINE_path('workdir', 'runs/demo', 'Folder that everything is written to.')
_UNTIL = flags.DEFINE_string('until', None, 'Name of the last stage to do; default: all.')
_SEEDS = flags.DEFINE_integer(
  'seeds', None, 'Trainings of each kind of student, which differ in their seeds; default: 1.', lower_bound=1
)
_SIZE = flags.DEFINE_enum('size', 'whole', ['whole', 'tiny'], 'tiny: a check of the whole path, not a result.')


def main(names):
  """Runs the stages."""
  doors.collect_seldom()
  from dlkd_jax.demo import demonstration
  from dlkd_jax.demo.settings import SIZES

  settings = SIZES[_SIZE.value]
  if _SEEDS.value is not None:
    settings = dataclasses.replace(settings, students=_SEEDS.value)
  demonstration.demonstrate(settings, _WORKDIR.value, _UNTIL.value)


if __name__ == '__main__':
  doors.run(main, stopped='stopped: what is made is kept; the same command goes on')
