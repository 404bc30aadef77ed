"""The README.md files of the repository, and the commands in them."""

import re
import shlex

from tests.paths import repository

ROOMS = [path for room in ('dlkd_jax', 'configs', 'tfds_builders') for path in (repository() / room).rglob('README.md')]
FILES = [repository() / 'README.md', *sorted(ROOMS)]
TEXTS = {str(path.relative_to(repository())): path.read_text(encoding='utf-8') for path in FILES}
README = TEXTS['README.md']


def blocks(text, language):
  """What stands in the fenced blocks of a language."""
  return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


def commands(text):
  """Every command of a document's shell blocks: a line, or the lines that one quote or backslashes hold together."""
  found, begun = [], ''
  for line in ''.join(blocks(text, 'sh')).replace('\\\n', ' ').splitlines():
    begun += re.split(r'  +#', line)[0].rstrip()
    try:
      shlex.split(begun)
    except ValueError:  # A quote is open.
      begun += '\n'
      continue
    found += [begun] if begun else []
    begun = ''
  assert not begun, begun
  return found


def benchmarks(text):
  """Every `python -m …` between the lines, as it stands; tables of numbers say so what measured them."""
  return re.findall(r'`(python -m [^`]+)`', re.sub(r'```.*?```', '', text, flags=re.DOTALL))


LINES = dict.fromkeys(line for text in TEXTS.values() for line in (*commands(text), *benchmarks(text)))
