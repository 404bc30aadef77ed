"""Searches films by a sentence, down to the second, and trains what searches them.

  dlkd add films                          a folder of films, into an index
  dlkd search "a dog jumps into a lake"
  dlkd serve                              and the page, to watch what is found

The index is --index=FOLDER, or $DLKD_INDEX, or the folder `index` where the command runs.
"""

import difflib
import pathlib
import runpy
import signal
import sys
from typing import NoReturn

import dlkd_jax
from dlkd_jax import commands

_HELP = ('-h', '-help', '--help', '--helpfull', '-?')


def _help() -> str:
  """Returns what there is to call."""
  width = max(map(len, commands.COMMANDS))
  lists = [
    f'{title}:\n' + '\n'.join(f'  {name:{width}}  {what}' for name, (_, what) in listed.items())
    for title, listed in (('Searching films', commands.SEARCHING), ('Training on captions', commands.TRAINING))
  ]
  more = f'{commands.program} COMMAND --help shows examples and options; --version, the version.'
  return '\n\n'.join([commands.as_called(__doc__.strip()), *lists, more])


def _module(arguments: list[str]) -> list[str]:
  """Returns the module that the first argument names, and what the module is given; ends where it names none."""
  name, *rest = arguments or ['--help']
  if name in _HELP or name == '--version':
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # A reader that goes away is no error.
    print(_help() if name in _HELP else f'dlkd {dlkd_jax.__version__}')
    sys.exit(0)
  if name not in commands.COMMANDS:
    near = difflib.get_close_matches(name, commands.COMMANDS, 1)
    meant = f'did you mean {near[0]}?' if near and name[0] != '-' else f'{commands.program} --help lists them'
    sys.exit(f'error: there is no command {name!r}; {meant}')
  return [*commands.COMMANDS[name][0].split(), *rest]


def main() -> NoReturn:
  """Runs a command, as `python -m` does with its module."""
  commands.program = 'dlkd' if pathlib.Path(sys.argv[0]).suffix != '.py' else 'python -m dlkd_jax'
  module, *sys.argv[1:] = _module(sys.argv[1:])
  from dlkd_jax import doors  # Here, so that --help answers at once.

  def work() -> None:
    runpy.run_module(module, run_name='__main__', alter_sys=True)

  sys.exit(doors.guarded(work))


if __name__ == '__main__':
  main()
