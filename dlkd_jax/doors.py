"""What all command lines share: paths, errors of one line, exit codes, and output that any terminal takes.

Exit codes: 0 done; 1 an error, with a message; 75 stopped by SIGTERM and 130 by Ctrl-C; 141 nobody read the output.
"""

from __future__ import annotations

import functools
import gc
import inspect
import json
import os
import pathlib
import platform
import re
import signal
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from dlkd_jax import command_help, files
from dlkd_jax.errors import UserError

flags.disclaim_key_flags()  # Flags of paths belong to the module that asks for them, and stand in its --help.

TERMINATED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on.
INTERRUPTED = 128 + signal.SIGINT
_UNREAD = 128 + signal.SIGPIPE
_HELP = ('--help', '-help', '-h', '-?', '--helpshort', '-helpshort', '--helpfull', '-helpfull')
# What training imports and a search does not: the extra `train` of setup.py.
TRAINING = (
  *('array_record', 'chex', 'clu', 'grain', 'h5py', 'importlib_resources', 'matplotlib', 'optax', 'orbax', 'scipy'),
  *('tensorboardX', 'tensorflow_datasets'),
)
# Errors that these raise while flags are parsed are of what was typed.
_PARSERS = ('absl', 'ml_collections')


class _PathParser(flags.ArgumentParser[files.Path]):
  """Reads a path as a person meant it."""

  def __init__(self, bucket: bool = False):
    self._expand = files.expand_any if bucket else files.expand

  def parse(self, argument: str | os.PathLike[str]) -> files.Path:
    return self._expand(argument)

  def flag_type(self) -> str:
    return 'path'


class _Paths(flags.ArgumentSerializer[files.Path]):
  def serialize(self, value: files.Path) -> str:
    return str(value)


def DEFINE_path(name: str, default: str | None, help: str, bucket: bool = False) -> flags.FlagHolder[files.Path | None]:
  """Defines a flag that names a file or a folder; `~` is the home folder. Its value is a path, or None.

  Where `bucket`, it may be one of a bucket (`gs://bucket/folder`); elsewhere that is refused.
  """
  return flags.DEFINE(_PathParser(bucket), name, default, help, serializer=_Paths())


def DEFINE_multi_path(name: str, help: str) -> flags.FlagHolder[list[pathlib.Path] | None]:
  """Defines a flag of paths that may be given several times."""
  return flags.DEFINE_multi(_PathParser(), _Paths(), name, None, help)


def DEFINE_index() -> flags.FlagHolder[files.Path]:
  """Defines the flag that names an index."""
  default = os.environ.get('DLKD_INDEX') or 'index'
  return DEFINE_path('index', default, 'Folder of the index; default: $DLKD_INDEX, or index in this folder.')


class Command(NamedTuple):
  """One of several commands of a module.

  Attributes:
    work: what it does, and its help; gets the arguments that are no flags, and returns an exit code or None.
    flags: those that mean something to it, besides those that no command names.
    names: what the arguments that are no flags are called; '' where it takes none.
  """

  work: Callable[[list[str]], int | None]
  flags: Sequence[flags.FlagHolder] = ()
  names: str = ''


def run(
  main: Callable[[list[str]], int | None] | Mapping[str, Command],
  required: Sequence[str] = (),
  stopped: str | None = None,
  names: str = '',
) -> NoReturn:
  """Parses the flags, runs a command and exits.

  A `UserError`, and an error of the system (a file that is absent, a disk that is full), is one line and exit code 1;
  `--verbosity=1` adds the traceback. Everything else is a bug and keeps its traceback.

  Args:
    main: the command; gets the arguments that are no flags, and returns an exit code or None. Or several by name, of
      which the first of these arguments chooses one.
    required: names of flags that must be given.
    stopped: what to say after SIGTERM or Ctrl-C, where the command lets itself be stopped that way.
    names: what the arguments that are no flags are called; '' where the command takes none.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)
  escape_output()
  if required:
    flags.mark_flags_as_required(required)
  several: Mapping[str, Command] = main if isinstance(main, Mapping) else {}

  def work(given: list[str]) -> int | None:
    return _one_of(main, given) if isinstance(main, Mapping) else _alone(main, names, given)

  def helped(typed: list[str], full: bool) -> str:
    command = next((each for each in typed if each in several), None)
    return command_help.screen(page(main, required, names, command), full)

  parse = functools.partial(_parse, helped)
  code = guarded(lambda: app.run(lambda argv: sys.exit(stoppable(lambda: work(argv[1:]), stopped)), flags_parser=parse))
  sys.exit(code)


def _alone(work: Callable[[list[str]], int | None], names: str, given: list[str]) -> int | None:
  """Runs the only command of a module."""
  if given and not names:
    raise UserError(f'unexpected arguments: {" ".join(given)}; --help shows what there is')
  return work(given)


def _one_of(several: Mapping[str, Command], given: list[str]) -> int | None:
  """Runs one command of several."""
  if not given or given[0] not in several:
    name = given[0] if given else None
    raise UserError(f'the command is {name!r}; expected one of {", ".join(several)}; --help explains them')
  name, *given = given
  only(name, {each: command.flags for each, command in several.items()})
  return _alone(several[name].work, several[name].names, given)


def page(main: Any, required: Sequence[str], names: str, command: str | None = None) -> command_help.Page:
  """Returns what is to be known of the program that runs, or of one command of several; arguments are as of `run`."""
  text, options = sys.modules['__main__'].__doc__ or '', flags.FLAGS.get_key_flags_for_module(sys.argv[0])
  if command:
    text, names = inspect.getdoc(main[command].work) or '', main[command].names
    others = {holder.name for each in main.values() for holder in each.flags}
    others -= {holder.name for holder in main[command].flags}
    options = [flag for flag in options if flag.name not in others]
  return command_help.page(text, names, options, required, command)


def escape_output() -> None:
  """Lets everything be printed: what the terminal lacks, and bytes of names that are no text, are escaped."""
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')


def stoppable(work: Callable[[], int | None], stopped: str | None) -> int:
  """Does some work as `guarded`, which SIGTERM and Ctrl-C end in an orderly way; returns the exit code.

  Args:
    work: what to do.
    stopped: what to say after SIGTERM or Ctrl-C; None: the work does not let itself be stopped, or says so itself.
  """
  before = signal.getsignal(signal.SIGTERM)

  def leave(*_) -> NoReturn:
    ignore_terminations()
    sys.exit(TERMINATED)

  if stopped is not None:
    signal.signal(signal.SIGTERM, leave)
  try:
    return guarded(work)
  except (KeyboardInterrupt, SystemExit) as stop:
    code = stop.code if isinstance(stop, SystemExit) else INTERRUPTED
    if stopped is not None and code in (TERMINATED, INTERRUPTED):
      print(stopped, file=sys.stderr)
    return code if isinstance(code, int) else int(code is not None)
  finally:
    if signal.getsignal(signal.SIGTERM) is leave:
      signal.signal(signal.SIGTERM, before)


def ignore_terminations() -> None:
  """Lets SIGTERM change nothing more in a process that leaves: neither what it puts in order, nor its exit code."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)  # A handler of Python's would be gone before the process is.


def guarded(work: Callable[[], int | None]) -> int:
  """Does some work; errors of what was given, and of the system, become a line on stderr and 1.

  Returns:
    What the work returned, 0 for None; 1 after an error; 141 where the reader of the output has gone.
  """
  try:
    code = work() or 0
    sys.stdout.flush()
    return code
  except BrokenPipeError:
    # Whatever is printed from here on, at the exit too, goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _UNREAD
  except (UserError, OSError) as error:
    return _failed(describe(error))
  except ModuleNotFoundError as error:
    if (package := (error.name or '').partition('.')[0]) not in TRAINING:
      raise
    return _failed(f"this needs {package}, which is not installed: pip install 'dlkd_jax[train]' brings it")
  except (RuntimeError, AssertionError) as error:
    asked = os.environ.get('JAX_PLATFORMS')
    if not asked or os.path.basename(traceback.extract_tb(error.__traceback__)[-1].filename) != 'xla_bridge.py':
      raise
    reason = f' ({error})' if str(error) else ''
    return _failed(
      f'JAX_PLATFORMS is {asked!r}, and JAX has no such device here{reason}; unset it, or install what that '
      'device needs'
    )


def _failed(message: str) -> int:
  """Says what ended a command, within the handling of the error; returns the exit code."""
  absl_logging.debug('the traceback', exc_info=True)
  print(f'error: {message}', file=sys.stderr)
  return 1


def describe(error: BaseException) -> str:
  """Returns what an error says to a person; one of the system begins with the file that it is about."""
  if isinstance(error, OSError) and error.errno is not None and error.strerror:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ': '.join([' → '.join(names), error.strerror] if names else [error.strerror])
  return str(error)


def only(command: str, meant: Mapping[str, Sequence[flags.FlagHolder]]) -> None:
  """Refuses flags that were given and mean nothing to a command.

  Args:
    command: the command that was given.
    meant: command → the flags that it knows, besides those of all commands.

  Raises:
    UserError: a flag is of other commands; they are named.
  """
  own = {holder.name for holder in meant[command]}
  for holder in {holder.name: holder for holders in meant.values() for holder in holders}.values():
    if holder.present and holder.name not in own:
      others = [name for name, holders in meant.items() if holder.name in {each.name for each in holders}]
      raise UserError(f'--{holder.name} means nothing to {command}; it is of {", ".join(others)}')


def print_json(content: Any, indent: int | None = None) -> None:
  """Prints JSON that stays JSON where the terminal lacks some characters, and where a name is no text."""
  text = json.dumps(content, ensure_ascii=False, indent=indent)
  try:
    text.encode(sys.stdout.encoding or 'ascii')
  except UnicodeEncodeError:
    text = json.dumps(content, indent=indent)
  print(text)


def config_of(holder: flags.FlagHolder) -> Any:
  """Returns the configuration that a recipe made, with the fields that were given.

  Raises:
    UserError: there is no such recipe, or it refuses its arguments.
  """
  try:
    config = holder.value
    _ = config.keys  # ml_collections keeps the error of a recipe that is absent until it is used.
    return config
  except OSError as error:
    given = next((arg for arg in sys.argv[1:] if arg.lstrip('-').startswith(f'{holder.name}=')), f'--{holder.name}')
    raise UserError(f'{given}: there is no such recipe; expected a file, as configs/charades.py') from error


def _parse(helping: Callable[[list[str], bool], str], argv: list[str]) -> list[str]:
  """Parses the flags; returns what is left, the program first."""
  typed = argv[1 : argv.index('--')] if '--' in argv else argv[1:]
  if any(arg in _HELP for arg in typed):
    print(helping(typed, any('full' in arg for arg in typed)), flush=True)
    sys.exit(0)
  try:
    return flags.FLAGS([_expanded(arg) for arg in argv])
  except Exception as error:
    # ml_collections wraps the recipe's own error in one of the same class that holds the traceback as text.
    wrapped = 'Error whilst parsing config file' in str(error)
    reason = next((each for each in reversed([*_chain(error)]) if wrapped and isinstance(each, UserError)), None)
    if reason is None and not _typed(error):
      raise
    print(f'error: {_reason(reason or error)}', file=sys.stderr)
    sys.exit(1)


def _expanded(arg: str) -> str:
  """A recipe in the home folder, or one of ours away from a checkout: ml_collections takes its name as it is."""
  name, sign, value = arg.partition('=')
  if not sign or name not in ('--config', '-config'):
    return arg
  from dlkd_jax.config_defaults import RECIPES  # Here, since most commands take no recipe.

  path, colon, more = os.path.expanduser(value).partition(':')
  folder, _, file = path.partition('/')
  if folder == 'configs' and not os.path.exists(path) and (RECIPES / file).is_file():
    path = str(RECIPES / file)
  return f'{name}={path}{colon}{more}'


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _typed(error: BaseException) -> bool:
  """Whether what was typed is at fault, rather than the recipe that it names."""
  for each in _chain(error):
    raised_in = traceback.extract_tb(each.__traceback__)[-1].filename if each.__traceback__ else ''
    if not isinstance(each, UserError) and not any(f'{os.sep}{name}{os.sep}' in raised_in for name in _PARSERS):
      return False
  return True


def _reason(error: BaseException) -> str:
  """Returns a message of a parser without its line breaks, and that on a misspelt field in our words."""
  text = ' '.join(str(error).replace('\\n', ' ').replace('\\', '').split())
  from dlkd_jax.config_fields import REPLACED  # Here, since most commands take no recipe.

  if isinstance(error, AttributeError | LookupError) and (field := re.search(r"'(\w+)'", text)):
    if now := next((new for old, new in REPLACED.items() if old.endswith(f'.{field[1]}')), None):
      return f'the configuration has no field {field[1]!r} any more; set {now}'
    near = re.search(r'Did you mean "(\w+)"', text)
    return f'the configuration has no field {field[1]!r}' + (f'; did you mean {near[1]!r}?' if near else '')
  return text


def keep_compiled(folder: files.Path | None = None) -> None:
  """Lets JAX keep what it compiles, so that the next process need not compile it again.

  In JAX_COMPILATION_CACHE_DIR where that is set, or else in `folder`, which is made with the first program, or else in
  the user's cache folder, XDG_CACHE_HOME or ~/.cache. Where that cannot be written to, nothing is kept.
  """
  import jax

  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    folder = _cache_of_user() if folder is None else folder / _processor()
    if folder is None:
      return
    jax.config.update('jax_compilation_cache_dir', str(folder))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  warnings.filterwarnings('ignore', 'Error (writing|reading) persistent compilation cache')


def collect_seldom() -> None:
  """Has Python search for cycles seldom: a training makes objects by the million, and nearly all are freed without it.

  Of the 9 s of CPU of a short training, most of which is importing and tracing, the search takes 0.7.
  """
  gc.set_threshold(50_000, 20, 50)


def _cache_of_user() -> pathlib.Path | None:
  """Makes the folder of compiled programs below the user's home; None where it cannot be written to."""
  try:
    folder = files.cache_folder() / f'compiled-{_processor()}'
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      return folder
  except (OSError, RuntimeError):  # No home, or a disk that is full or read only.
    return None


def _processor() -> str:
  """Returns a name of this kind of processor: homes are shared, and programs are compiled for what it can do."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').split('\n')
    flags = next(line for line in lines if line.lower().startswith(('flags', 'features')))
  except (OSError, StopIteration):
    flags = platform.processor()
  return f'{platform.machine()}-{zlib.crc32(flags.encode()):08x}'
