"""The help of a command: what it does, examples, and its options, in one screen or in full."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Iterator

from absl import flags

from dlkd_jax import commands

SCREEN = 45  # Lines of a screen.
_WIDTH = 100
_COLUMN = 24
_VALUES = {
  'string': 'TEXT',
  'int': 'N',
  'float': 'X',
  'path': 'PATH',
  'comma separated list of strings': 'A,B',
  'config object': 'RECIPE',
}
_SENTENCE = re.compile(r'(?<=\.) (?=[A-Z])')


def usage(flag: flags.Flag) -> str:
  """Returns an option as it is written: `--json`, `--top=10` with its default, or `--clip=TEXT`."""
  if flag.boolean:
    return f'--[no]{flag.name}' if flag.default else f'--{flag.name}'
  default = flag.default
  if default is None or default == []:
    kind = flag.flag_type().removeprefix('multi ')
    return f'--{flag.name}={_VALUES.get(kind, "TEXT")}'
  return f'--{flag.name}={",".join(map(str, default)) if isinstance(default, list) else default}'


def meaning(flag: flags.Flag, command: str | None = None) -> str:
  """Returns what an option is, and which values it takes; of `command`, where the text begins with whose it is."""
  text, several, _ = flag.help.partition(';\n    repeat this option')
  text = re.sub(r'^<[^>]*>: ', '', ' '.join(text.split()))
  if command:
    text = re.sub(rf'^(\w+, )*{command}(, \w+)*: (.)', lambda found: found[3].upper(), text)
  if values := getattr(flag.parser, 'enum_values', None):
    text += f' One of {", ".join(values)}.'
  return text + (' May be given several times.' if several and 'several' not in text.lower() else '')


def screen(
  text: str, options: Iterable[flags.Flag], required: Collection[str], full: bool, command: str | None = None
) -> str:
  """Returns the help of a command.

  Args:
    text: what it does, with examples that say `dlkd …`.
    options: the flags, those that matter first.
    required: names of the flags that must be given.
    full: whether all of every option is shown, or what fits on a screen: the first sentence of the first of them.
    command: which one of its module it is.
  """
  found = [commands.as_called(text.strip()), '', 'Options:']
  options = sorted(options, key=lambda flag: flag.name not in required)
  for number, flag in enumerate(options):
    text = meaning(flag, command)
    text = (text if full else _SENTENCE.split(text)[0]) + (' Required.' if flag.name in required else '')
    lines = [*_lines(usage(flag), text)]
    if not full and sum(each.count('\n') + 1 for each in found) + len(lines) > SCREEN - 2:
      found.append(f'  … and {len(options) - number} more')
      break
    found += lines
  return '\n'.join([*found, '  --helpfull              all of this in full; --verbosity=1 shows where an error arose.'])


def _lines(written: str, text: str) -> Iterator[str]:
  """Yields an option and what it is, side by side."""
  written = f'  {written}'
  if len(written) > _COLUMN:
    yield written
    written = ''
  for line in textwrap.wrap(text, _WIDTH - _COLUMN - 2, break_long_words=False, break_on_hyphens=False):
    yield f'{written:{_COLUMN}}  {line}'
    written = ''
