"""The help of a command: what it does, examples, and its options, in one screen or in full."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

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
EXIT_CODES = {
  0: 'done',
  1: 'an error, with a message',
  75: 'stopped by SIGTERM: the same command goes on',
  130: 'stopped by Ctrl-C: the same command goes on',
  141: 'nobody reads the output any more',
}
ENVIRONMENT = {
  'DLKD_INDEX': 'folder of the index where --index is not given',
  'JAX_PLATFORMS': 'the device that computes: cpu, cuda or tpu; unset: the best there is',
  'JAX_COMPILATION_CACHE_DIR': 'folder of compiled programs; unset: below XDG_CACHE_HOME, or in that of a training',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': 'programs that compile faster are not kept; unset: 0',
  'XDG_CACHE_HOME': 'folder of what can be made again; unset: ~/.cache',
  'HF_HOME': 'folder that models given as hf:OWNER/NAME are kept in; unset: huggingface below the caches',
}
_SENTENCE = re.compile(r'(?<=\.) (?=[A-Z])')


class Option(NamedTuple):
  """What is to be known of an option.

  Attributes:
    usage: as it is written, `--json` or `--top=N`.
    default: what it is where it is not given; '' where that is nothing.
    meaning: what it is.
    required: whether it must be given.
  """

  usage: str
  default: str
  meaning: str
  required: bool


class Page(NamedTuple):
  """What is to be known of a command.

  Attributes:
    text: what it does, with examples that say `dlkd …`.
    arguments: what those that are no options are called; '' where it takes none.
    options: those that must be given first, then those that matter most.
  """

  text: str
  arguments: str
  options: tuple[Option, ...]


def page(
  text: str, arguments: str, options: Iterable[flags.Flag], required: Collection[str], command: str | None = None
) -> Page:
  """Returns the page of a command; `command`, which one of its module it is, whose flags begin with whose they are."""
  found = [Option(_usage(flag), _default(flag), _meaning(flag, command), flag.name in required) for flag in options]
  return Page(text.strip(), arguments, tuple(sorted(found, key=lambda option: not option.required)))


def _usage(flag: flags.Flag) -> str:
  if flag.boolean:
    return f'--[no]{flag.name}' if flag.default else f'--{flag.name}'
  return f'--{flag.name}={_VALUES.get(flag.flag_type().removeprefix("multi "), "TEXT")}'


def _default(flag: flags.Flag) -> str:
  if flag.boolean or flag.default is None:
    return ''
  return ','.join(map(str, flag.default)) if isinstance(flag.default, list) else str(flag.default)


def _meaning(flag: flags.Flag, command: str | None) -> str:
  text, several, _ = flag.help.partition(';\n    repeat this option')
  text = re.sub(r'^<[^>]*>: ', '', ' '.join(text.split()))  # The values of an enumeration.
  if command:
    text = re.sub(rf'^(\w+, )*{command}(, \w+)*: (.)', lambda found: found[3].upper(), text)
  if values := getattr(flag.parser, 'enum_values', None):
    text += f' One of {", ".join(values)}.'
  return text + (' May be given several times.' if several and 'several' not in text.lower() else '')


def screen(page: Page, full: bool) -> str:
  """Returns the help of a command: all of every option, or what fits on a screen: first sentences of the first ones."""
  found = [commands.as_called(page.text), '', 'Options:']
  for number, option in enumerate(page.options):
    text = option.meaning if full else _SENTENCE.split(option.meaning)[0]
    written = option.usage.partition('=')[0] + f'={option.default}' if option.default else option.usage
    lines = [*_lines(written, text + (' Required.' if option.required else ''))]
    if not full and sum(each.count('\n') + 1 for each in found) + len(lines) > SCREEN - 2:
      found.append(f'  … and {len(page.options) - number} more')
      break
    found += lines
  if not full:
    return '\n'.join([*found, '  --helpfull              All of this in full.'])
  for title, listed in (('Exit codes', EXIT_CODES), ('Environment variables', ENVIRONMENT)):
    found += ['', f'{title}:', *(line for name, what in listed.items() for line in _lines(str(name), what))]
  return '\n'.join(found)


def _lines(written: str, text: str) -> Iterator[str]:
  """Yields an option and what it is, side by side."""
  written = f'  {written}'
  if len(written) > _COLUMN:
    yield written
    written = ''
  for line in textwrap.wrap(text, _WIDTH - _COLUMN - 2, break_long_words=False, break_on_hyphens=False):
    yield f'{written:{_COLUMN}}  {line}'
    written = ''
