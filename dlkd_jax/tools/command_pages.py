"""Writes the page of all commands, and the table of all fields of a configuration, from what parses them.

  python -m dlkd_jax.tools.command_pages            writes what differs
  python -m dlkd_jax.tools.command_pages --check    changes nothing; names what differs, and wrong examples

The page is `dlkd_jax/COMMANDS.md`. In `configs/README.md` it fills the table of a configuration's fields, between
`<!-- fields -->` and `<!-- end -->`. Examples are the lines `dlkd …` of these, of all other README.md and of the help.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import pathlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from dlkd_jax import __main__, command_help, commands, config_fields, doors, tables
from dlkd_jax.command_help import Option, Page
from dlkd_jax.errors import UserError
from dlkd_jax.files import expand
from tfds_builders import build

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FOLDERS = 'dlkd_jax', 'configs', 'tfds_builders'
# A line, indented or not, that begins with `dlkd` behind variables of the environment; two spaces begin a remark.
_EXAMPLE = re.compile(r'^ *(?:\w+=\S+ )*dlkd (\S.*?)(?:  .*)?$', re.MULTILINE)
_HEAD = """\
# Commands

`dlkd COMMAND …` is `python -m dlkd_jax COMMAND …`. `--help` shows a screen, `--helpfull` all options, `--version` the
version; `--verbosity=1` adds the traceback to an error. Options stand anywhere, as `--top=5` or `--top 5`; where they
name files, `~` is the home folder.

Written by `python -m dlkd_jax.tools.command_pages` from what parses the commands.
"""


class Door:
  """A module that is a program, started up to where it would parse what was typed.

  Attributes:
    pages: what it is called behind `dlkd` (`('train', 'eval')`, `('index build',)`) → its page.
  """

  def __init__(self, module: str, main: Any, required: Sequence[str], names: str):
    """Takes what the module gives to `doors.run`."""
    self._main, self._required, self._names = main, required, names
    several = [*main] if isinstance(main, Mapping) else []
    self.pages = {_called(module, command): doors.page(main, required, names, command) for command in several or [None]}

  def refusal(self, arguments: Sequence[str]) -> str | None:
    """Parses arguments; returns what is wrong with them, or None."""
    flags.FLAGS.unparse_flags()
    before = set(flags.FLAGS)  # A recipe defines its fields where they are given.
    typed, sys.argv = sys.argv, [sys.argv[0], *arguments]  # A recipe's fields are looked for there.
    try:
      rest = flags.FLAGS(sys.argv)[1:]
      if absent := [name for name in self._required if not flags.FLAGS[name].present]:
        return f'--{absent[0]} is absent'
      names = self._names
      if isinstance(self._main, Mapping):
        command, *rest = rest
        doors.only(command, {name: each.flags for name, each in self._main.items()})
        names = self._main[command].names
      return f'{rest} are no options' if rest and not names else None
    except (flags.Error, UserError, AttributeError, LookupError, ValueError) as error:
      return str(error)
    finally:
      sys.argv = typed
      for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@contextlib.contextmanager
def _started(module: str) -> Iterator[Door]:
  """Starts a module; its flags are there until this ends."""
  before, run, found = set(flags.FLAGS), doors.run, []

  def stop(main: Any, required: Sequence[str] = (), stopped: str | None = None, names: str = '') -> None:
    found.append(Door(module, main, required, names))

  doors.run = stop
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
    yield found[0]
  finally:
    doors.run = run
    for name in set(flags.FLAGS) - before:
      delattr(flags.FLAGS, name)


class _Build:
  """`dlkd build`, which is parsed by argparse; as `Door`."""

  def __init__(self):
    self._parser = build.make_parser()
    (collections,) = (each for each in self._parser._actions if isinstance(each, argparse._SubParsersAction))
    alike: dict[tuple[str, ...], list[str]] = {}  # Packs differ in names of files alone.
    for name, parser in collections.choices.items():
      alike.setdefault(tuple(option.usage for option in _options(parser)), []).append(name)
    self.pages = {}
    for names in alike.values():
      parser = collections.choices[names[0]]
      page = Page(f'{parser.description}\n\n{parser.epilog}', '', _options(parser))
      self.pages[tuple(f'build {name}' for name in names)] = page

  def refusal(self, arguments: Sequence[str]) -> str | None:
    """Parses arguments; returns what is wrong with them, or None."""
    said = io.StringIO()
    try:
      with contextlib.redirect_stderr(said):
        self._parser.parse_args(arguments)
      return None
    except SystemExit:
      return said.getvalue().strip().splitlines()[-1]


def _options(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
  found = []
  for action in parser._actions:
    if isinstance(action, argparse._HelpAction):
      continue
    value = {} if action.nargs == 0 else {int: 'N', float: 'X', expand: 'PATH'}
    usage = action.option_strings[0] + (f'={action.metavar or value.get(action.type, "TEXT")}' if value else '')
    meaning = (action.help or '').replace(' (default %(default)s)', '')
    meaning = (
      meaning[:1].upper() + meaning[1:] + '.' + (f' One of {", ".join(action.choices)}.' if action.choices else '')
    )
    default = '' if action.default in (None, False) else str(action.default)
    found.append(Option(usage, default, meaning, action.required))
  return tuple(sorted(found, key=lambda option: not option.required))


def _called(module: str, command: str | None) -> tuple[str, ...]:
  """Returns what a module, or a command of it, is called behind `dlkd`."""
  whole = f'{module} {command}' if command else module
  exact = [name for name, (spec, _) in commands.COMMANDS.items() if spec.partition(' --')[0] == whole]
  return tuple(exact) or tuple(f'{name} {command}' for name in _called(module, None))


@contextlib.contextmanager
def _opened(module: str) -> Iterator[Door | _Build]:
  if module == 'tfds_builders.build':
    yield _Build()
  else:
    with _started(module) as door:
      yield door


def _markdown(text: str) -> str:
  """Returns text whose indented lines are examples."""
  found = []
  for block in text.split('\n\n'):
    for example, group in itertools.groupby(block.splitlines(), lambda line: line.startswith('  ')):
      lines = [*group]
      found.append('\n'.join(['```', *(line[2:] for line in lines), '```'] if example else map(_escaped, lines)))
  return '\n\n'.join(found)


def _escaped(text: str) -> str:
  """Escapes what Markdown would read as its own, outside of code."""
  parts = re.split(r'(`[^`]*`)', text)
  return ''.join(part if part.startswith('`') else re.sub(r'([<*|])', r'\\\1', part) for part in parts)


def table(options: Sequence[Option]) -> str:
  """Returns options as a table."""
  rows = [
    (f'`{o.usage}`', f'`{o.default}`' if o.default else 'required' if o.required else '', _escaped(o.meaning))
    for o in options
  ]
  return tables.as_markdown([('option', 'default', 'meaning'), *rows], left=range(3))


def _section(names: tuple[str, ...], page: Page) -> str:
  required = [option.usage for option in page.options if option.required]
  synopsis = ' '.join(filter(None, [f'[{page.arguments}]' if page.arguments else '', *required, '[OPTION…]']))
  calls = '\n'.join(f'dlkd {name} {synopsis}' for name in names)
  title = ', '.join(f'dlkd {name}' for name in names)
  return f'## {title}\n\n```\n{calls}\n```\n\n{_markdown(page.text)}\n\n{table(page.options)}\n'


def _modules() -> list[str]:
  return list(dict.fromkeys(spec.split()[0] for spec, _ in commands.COMMANDS.values()))


def _fields() -> str:
  """Returns the fields of a configuration as a table."""
  found = [('field', 'default', 'meaning', 'value')]
  for name, (default, rule, meaning) in config_fields.FIELDS.items():
    value = 'unset' if isinstance(default, type) else f'`{default!r}`'
    found.append((f'`{name}`', value, _escaped(meaning), _escaped(rule.expected)))
  return tables.as_markdown(found, left=range(4))


def _readmes() -> list[pathlib.Path]:
  found = [_ROOT / 'README.md', *(path for name in _FOLDERS for path in (_ROOT / name).rglob('README.md'))]
  return sorted(path for path in found if 'golden' not in path.parts)


def documents() -> tuple[dict[pathlib.Path, str], dict[str, str]]:
  """Returns file → what it should hold, and origin → text in which there may be examples."""
  sections, texts = [], {'dlkd --help': __main__.__doc__}
  for module in _modules():
    with _opened(module) as door:
      for names, page in door.pages.items():
        sections.append(_section(names, page))
        texts[f'dlkd {names[0]} --help'] = page.text
  for title, listed in (('Exit codes', command_help.EXIT_CODES), ('Environment variables', command_help.ENVIRONMENT)):
    rows = [(f'`{name}`', _escaped(what)) for name, what in listed.items()]
    sections.append(f'## {title}\n\n{tables.as_markdown([("", ""), *rows], left=(0, 1))}\n')
  texts |= {str(path.relative_to(_ROOT)): path.read_text(encoding='utf-8') for path in _readmes()}
  before, mark, rest = texts['configs/README.md'].partition('<!-- fields -->\n')
  recipes = before + mark + _fields() + '\n' + rest[rest.index('<!-- end -->') :]
  return {_ROOT / 'dlkd_jax/COMMANDS.md': '\n'.join([_HEAD, *sections]), _ROOT / 'configs/README.md': recipes}, texts


def refused(texts: Mapping[str, str]) -> Iterator[str]:
  """Yields the examples `dlkd …` of texts that no command takes, with the reason."""
  wanted: dict[str, list[tuple[str, str, list[str]]]] = {}
  for origin, text in texts.items():
    if origin.endswith('--help') and '\n  dlkd ' not in text:
      yield f'{origin}: there is no example, indented by two spaces'
    if origin.endswith('--help') and text.count('\n') > command_help.SCREEN - 15:
      yield f'{origin}: it leaves no room for options on a screen'
    for line in _EXAMPLE.findall(re.sub(r' *\\\n *', ' ', text)):
      name, *arguments = shlex.split(line, comments=True)
      if name in commands.COMMANDS:
        module, *first = commands.COMMANDS[name][0].split()
        wanted.setdefault(module, []).append((origin, line, [*first, *arguments]))
      elif name not in ('--help', '--version'):
        yield f'{origin}: dlkd {line}: there is no command {name}'
  for module, examples in wanted.items():
    with _opened(module) as door:
      for origin, line, arguments in examples:
        if reason := door.refusal([each for each in arguments if each != '--help']):
          yield f'{origin}: dlkd {line}: {reason}'


def main() -> int:
  """Writes, or compares."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--check', action='store_true', help='change nothing; fail where something differs')
  check = parser.parse_args().check
  commands.program = 'dlkd'
  os.environ.pop('DLKD_INDEX', None)  # It is a default.
  found, texts = documents()
  old = [path for path, text in found.items() if not path.is_file() or path.read_text(encoding='utf-8') != text]
  for path in old:
    print(f'{path.relative_to(_ROOT)} {"is not what the parsers say" if check else "is written"}')
    if not check:
      path.write_text(found[path], encoding='utf-8')
  wrong = list(refused(texts))
  print(*wrong, sep='\n', end='\n' if wrong else '')
  return int(bool(wrong or (check and old)))


if __name__ == '__main__':
  sys.exit(main())
