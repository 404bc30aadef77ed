"""The page of all commands says what the parsers do, and no example is one that they refuse."""

import re
import subprocess
import sys

from dlkd_jax import command_help, doors
from tests.environment import environment
from tests.paths import repository


def call(*arguments):
  """Runs Python; the flags of many commands do not go into one process with those of others."""
  return subprocess.run(
    [sys.executable, *arguments], cwd=repository(), env=environment(DLKD_INDEX='x'), capture_output=True, text=True
  )


def test_the_documents_are_what_the_parsers_say():
  done = call('-m', 'dlkd_jax.tools.command_pages', '--check')
  assert done.returncode == 0, (
    f'{done.stdout}{done.stderr}\nWho changes an option, a help or a field writes the documents anew with '
    '`python -m dlkd_jax.tools.command_pages`, and mends the examples that are named here.'
  )


def test_what_is_wrong_with_an_example_is_said():
  texts = {
    'a': 'Text:\n\n  dlkd serach "x"\n  dlkd search "x" \\\n    --topp=3   a remark\n  dlkd search "x" --top=many',
    'b': 'dlkd train --config=configs/demo.py --workdir=r --config.training.epocs=1\ndlkd train',
    'c': 'A=1 dlkd info --prune\ndlkd info x\ndlkd build tvr\n',
    'dlkd x --help': 'Does x.\n\ndlkd --version',
    'dlkd y --help': '\n  dlkd --help\n' * 30,
    'good': 'dlkd search "x" --top=3\ndlkd --help\ndlkd info --help\ndlkd_jax is a package\nso says dlkd nothing',
  }
  code = f'from dlkd_jax.tools import command_pages as c; print(*c.refused({texts!r}), sep="\\n")'
  said = call('-c', code).stdout.splitlines()
  assert len(said) == 10 and not [line for line in said if line.startswith('good')], said
  for expected in (
    r'a: dlkd serach "x": there is no command serach',
    r'a: dlkd search "x" --topp=3: Unknown command line flag',
    r'a: dlkd search "x" --top=many: flag --top=many: invalid',
    r'b: dlkd train .*: .*epocs',
    r'b: dlkd train: --workdir is absent',
    r'c: dlkd info --prune: --prune means nothing to info',
    r'dlkd y --help: it leaves no room',
    r'dlkd x --help: there is no example',
    r"c: dlkd info x: \['x'\] are no options",
    r'c: dlkd build tvr: .*--manual_dir',
  ):
    assert [line for line in said if re.match(expected, line)], (expected, said)


def test_codes_and_variables_are_those_of_the_code():
  assert set(command_help.EXIT_CODES) == {0, 1, doors.TERMINATED, doors.INTERRUPTED, 141}
  code = '\n'.join(path.read_text(encoding='utf-8') for path in (repository() / 'dlkd_jax').rglob('*.py'))
  read = set(re.findall(r"environ(?:\.get\(|\[)'([A-Z_]+)'", code))
  assert 'DLKD_INDEX' in read and read - {'XLA_FLAGS', 'PYTHONPATH'} <= set(command_help.ENVIRONMENT)
