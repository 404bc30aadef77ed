"""What all command lines share: errors of one line, exit codes, paths, and output that any terminal takes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from absl import flags

from dlkd_jax import doors
from dlkd_jax.errors import UserError
from tests.paths import repository

DOOR = """\
'''Does what it is told.'''

import os
import signal
import sys
import time

from absl import flags

from dlkd_jax import doors
from dlkd_jax.errors import UserError

PLACE = doors.DEFINE_path('place', None, 'A folder.')
SEVERAL = doors.DEFINE_multi_path('several', 'Folders.')
COUNT = flags.DEFINE_integer('count', 1, 'A number.')


def main(names):
  if names == ['user']:
    raise UserError('3 were found; expected 4: add one')
  if names == ['bug']:
    raise ValueError('Incompatible shapes for broadcasting: (3,) and (4,)')
  if names == ['absent']:
    open('/no/such/file')
  if names == ['folder']:
    os.mkdir('/dev/null/x')
  if names == ['places']:
    print(PLACE.value, *SEVERAL.value, sep='|')
  if names == ['lines']:
    for number in range(100_000):
      print(number)
  if names == ['odd']:
    print('\\u201ccaf\\u00e9\\u201d \\udce9 \\U0001f600')
    print('\\u201ccaf\\u00e9\\u201d', file=sys.stderr)
  if names == ['json']:
    doors.print_json({'text': '\\u201ccaf\\u00e9\\u201d \\U0001f600', 'name': 'caf\\udce9.mp4'})
  if names == ['long']:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # In the background it is ignored.
    print('begun', flush=True)
    time.sleep(60)
  if names == ['code']:
    return 3


if __name__ == '__main__':
  doors.run(main, stopped='stopped: the same command goes on', names='WORD…')
"""


@pytest.fixture(scope='module')
def door(tmp_path_factory):
  path = tmp_path_factory.mktemp('door') / 'door.py'
  path.write_text(DOOR, encoding='utf-8')
  return path


def run(door, *arguments, **environment):
  return subprocess.run(
    [sys.executable, door, *arguments],
    env={**os.environ, 'PYTHONPATH': str(repository()), **environment},
    capture_output=True,
    check=False,
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['user'], '3 were found; expected 4: add one'),
    (['absent'], '/no/such/file: No such file or directory'),
    (['folder'], '/dev/null/x: Not a directory'),
    (['--nosuch'], "Unknown command line flag 'nosuch'"),
    (['--cuont=3'], "Unknown command line flag 'cuont'. Did you mean: count ?"),
    (['--count=abc'], "flag --count=abc: invalid literal for int() with base 10: 'abc'"),
    (['--place='], "flag --place=: a path is ''; expected the name of a file or a folder"),
  ],
)
def test_what_was_given_is_an_error_of_one_line(door, arguments, message):
  done = run(door, *arguments)
  assert done.returncode == 1
  assert done.stderr.decode() == f'error: {message}\n' and not done.stdout


def test_a_bug_keeps_its_traceback(door):
  done = run(door, 'bug')
  assert done.returncode == 1
  assert b'Traceback' in done.stderr and b'in main' in done.stderr and b'Incompatible shapes' in done.stderr


def test_the_traceback_of_an_error_can_be_asked_for(door):
  assert b'Traceback' in run(door, 'absent', '--verbosity=1').stderr


@pytest.mark.parametrize('flag', ['--help', '-h', '--helpshort', '--helpfull'])
def test_help_is_no_error(door, flag):
  done = run(door, flag)
  assert done.returncode == 0 and not done.stderr
  assert b'Does what it is told.' in done.stdout and b'--place' in done.stdout


def test_help_behind_two_dashes_is_an_argument(door):
  assert b'Does what' not in run(door, '--', '--help').stdout


def test_exit_codes_of_the_command(door):
  assert run(door, 'code').returncode == 3
  assert run(door, 'nothing').returncode == 0


def test_paths_are_expanded(door, tmp_path):
  done = run(door, 'places', '--place=~/a b', '--several=~', '--several=./~', HOME=str(tmp_path))
  assert done.stdout.decode().rstrip('\n') == f'{tmp_path}/a b|{tmp_path}|{os.getcwd()}/~'


@pytest.mark.parametrize('encoding', ['latin-1', 'ascii', 'cp1252', 'utf-8'])
def test_what_a_terminal_lacks_is_escaped(door, encoding):
  done = run(door, 'odd', PYTHONIOENCODING=encoding)
  assert done.returncode == 0 and done.stdout.decode(encoding).endswith('\n') and b'Traceback' not in done.stderr
  assert b'\\udce9' in done.stdout
  done = run(door, 'json', PYTHONIOENCODING=encoding)
  content = json.loads(done.stdout.decode(encoding))
  assert content == {'text': '\u201ccaf\u00e9\u201d \U0001f600', 'name': 'caf\udce9.mp4'}


@pytest.mark.parametrize('arguments', [['lines'], ['--helpfull']])
def test_a_reader_that_goes_away_is_no_error(door, arguments):
  with subprocess.Popen(
    [sys.executable, door, *arguments],
    env={**os.environ, 'PYTHONPATH': str(repository())},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b''
  assert process.returncode in (0, 141)  # 0 where all of it had found room in the pipe.


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
def test_a_full_disk_behind_the_output_is_said(door):
  with open('/dev/full', 'w') as full:
    done = subprocess.run(
      [sys.executable, door, 'lines'],
      env={**os.environ, 'PYTHONPATH': str(repository())},
      stdout=full,
      stderr=subprocess.PIPE,
      check=False,
    )
  assert done.returncode == 1 and done.stderr == b'error: No space left on device\n'


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_stopped(door, number, code):
  with subprocess.Popen(
    [sys.executable, door, 'long'],
    env={**os.environ, 'PYTHONPATH': str(repository())},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(number)
    assert process.stderr.read() == b'stopped: the same command goes on\n'
  assert process.returncode == code


def test_flags_of_other_commands_are_refused():
  values = flags.FlagValues()
  one, two = (flags.DEFINE_bool(name, False, '', flag_values=values) for name in ('one', 'two'))
  values(['program', '--two'])
  meant = {'build': [one, two], 'add': [one], 'info': []}
  doors.only('build', meant)
  for command in ('add', 'info'):
    with pytest.raises(UserError, match=f'--two means nothing to {command}; it is of build'):
      doors.only(command, meant)


RECIPE = """\
import ml_collections
from dlkd_jax.errors import UserError


def get_config(argument=None):
  if argument == 'user':
    raise UserError('there is no argument user; expected none')
  if argument == 'bug':
    raise ValueError('a bug')
  return ml_collections.ConfigDict({'data': {'dataset': 'tvr', 'size': 3}, 'seed': 0})
"""


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    (['--config={}', '--config.data.datset=x'], "no field 'datset'; did you mean 'dataset'?"),
    (['--config={}', '--config.dta.dataset=x'], "no field 'dta'; did you mean 'data'?"),
    (['--config={}', '--config.data.size=many'], '--config.data.size=many'),
    (['--config={}', '--config.data=3'], '--config.data=3'),
    (['--config={}:user'], 'there is no argument user; expected none'),
    (['--config=/no/recipe.py'], '--config=/no/recipe.py: there is no such recipe'),
    (['--config='], 'there is no such recipe'),
  ],
)
def test_configurations_that_are_mistyped(tmp_path, given, expected):
  recipe, door = tmp_path / 'recipe.py', tmp_path / 'door.py'
  recipe.write_text(RECIPE)
  door.write_text(
    'from ml_collections import config_flags\nfrom dlkd_jax import doors\n'
    "CONFIG = config_flags.DEFINE_config_file('config', None, 'Recipe.', lock_config=True)\n"
    "doors.run(lambda names: print(doors.config_of(CONFIG).seed), required=['config'])\n"
  )
  done = run(door, *(each.format(recipe) for each in given))
  assert done.returncode == 1 and expected in done.stderr.decode()
  assert done.stderr.startswith(b'error: ') and done.stderr.count(b'\n') == 1
  assert run(door, f'--config={recipe}').stdout == b'0\n'
  assert b'Traceback' in run(door, f'--config={recipe}:bug').stderr


@pytest.mark.parametrize('platform', ['cuda', 'nonsense'])
def test_a_device_that_is_absent_is_one_line(platform, tmp_path):
  code = 'from dlkd_jax import doors\ndef main(names):\n  import jax\n  jax.devices()\ndoors.run(main)\n'
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | {'JAX_PLATFORMS': platform},
    cwd=repository(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert f'JAX_PLATFORMS is {platform!r}' in line and 'Traceback' not in done.stderr
