"""The house rules that a machine can check: style, sizes of files and functions, which room imports which."""

import ast
import subprocess
import sys
import warnings

import pytest

from tests.paths import repository

PACKAGES = ('dlkd_jax', 'tfds_builders', 'configs', 'tests')
FILES = sorted(path for package in PACKAGES for path in (repository() / package).rglob('*.py'))
# Below every room.
EVERYWHERE = (
  'dlkd_jax.allocation',
  'dlkd_jax.annotations',
  'dlkd_jax.begun',
  'dlkd_jax.commands',
  'dlkd_jax.errors',
  'dlkd_jax.file_kinds',
  'dlkd_jax.files',
  'dlkd_jax.plugins',
  'dlkd_jax.progress',
  'dlkd_jax.tables',
  'dlkd_jax.vectors',
)
# A room may import rooms named before it and itself; similarities and losses know arrays only.
ROOMS = {
  'dlkd_jax.similarity': ('dlkd_jax.layout',),
  'dlkd_jax.models': ('dlkd_jax.layout',),
  'dlkd_jax.losses': ('dlkd_jax.similarity', 'dlkd_jax.layout'),
  'dlkd_jax.data': ('dlkd_jax.layout',),
  'dlkd_jax.retrieval': (
    'dlkd_jax.layout',
    'dlkd_jax.data',
    'dlkd_jax.models',
    'dlkd_jax.similarity',
    'dlkd_jax.sharding',
    'dlkd_jax.multihost',
  ),
  'dlkd_jax.training': (
    'dlkd_jax.data',
    'dlkd_jax.models',
    'dlkd_jax.similarity',
    'dlkd_jax.losses',
    'dlkd_jax.retrieval',
    'dlkd_jax.config',
    'dlkd_jax.layout',
    'dlkd_jax.sharding',
    'dlkd_jax.multihost',
  ),
  'dlkd_jax.video': (
    'dlkd_jax.models',
    'dlkd_jax.layout',
    'dlkd_jax.sharding',
    'tfds_builders',  # Extraction packs what it extracted.
  ),
  'dlkd_jax.demo': (
    'dlkd_jax.doors',
    'dlkd_jax.gallery',
    'dlkd_jax.video',
    'dlkd_jax.models',
    'dlkd_jax.reporting.bootstrap',  # Numpy alone.
    'dlkd_jax.retrieval',
    'dlkd_jax.training',
    'dlkd_jax.sharding',
    'tfds_builders',
    'dlkd_jax.config_defaults',  # It is a command, and has a recipe.
  ),
  'dlkd_jax.gallery': (
    'dlkd_jax.video',
    'dlkd_jax.data',
    'dlkd_jax.models',
    'dlkd_jax.similarity',
    'dlkd_jax.retrieval',
    'dlkd_jax.training',
    'dlkd_jax.config',
    'dlkd_jax.layout',
    'dlkd_jax.sharding',
  ),
  'dlkd_jax.page': ('dlkd_jax.gallery', 'dlkd_jax.video', 'dlkd_jax.layout'),
  'dlkd_jax.reporting': (
    'dlkd_jax.gallery',
    'dlkd_jax.data',
    'dlkd_jax.models',
    'dlkd_jax.retrieval',
    'dlkd_jax.training',
    'dlkd_jax.config',
    'dlkd_jax.sharding',
    'dlkd_jax.multihost',
  ),
  'tfds_builders': ('dlkd_jax.doors',),  # For its command line.
}


def module(path):
  return '.'.join(path.relative_to(repository()).with_suffix('').parts)


def imports(path, modules=()):
  tree = ast.parse(path.read_text(encoding='utf-8'))
  for_types = [each for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test) == 'TYPE_CHECKING']
  unused = {node for each in for_types for node in ast.walk(each)} if modules else ()
  for node in ast.walk(tree):
    if node in unused:
      continue
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
      if node.module in modules:
        yield node.module


@pytest.mark.parametrize('arguments', [('check',), ('format', '--check')], ids=' '.join)
def test_style(arguments):
  pytest.importorskip('ruff')
  done = subprocess.run(
    [sys.executable, '-m', 'ruff', *arguments, '.'], cwd=repository(), capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_long():
  long = {str(path): n for path in FILES if (n := len(path.read_text(encoding='utf-8').splitlines())) > 400}
  assert not long


def test_no_function_is_long():
  long = []
  for path in FILES:
    if 'tests' in path.relative_to(repository()).parts:
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.FunctionDef):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if lines > 60:
          long.append(f'{path}:{node.name} {lines}')
  assert not long


@pytest.mark.parametrize('room', ROOMS)
def test_rooms_import_downwards(room):
  allowed = (room, *EVERYWHERE, *ROOMS[room])
  for path in FILES:
    if not module(path).startswith(room + '.'):
      continue
    for name in imports(path):
      if name.startswith(('dlkd_jax.', 'tfds_builders.', 'configs')):
        assert name.startswith(tuple(f'{a}.' for a in allowed) + allowed), f'{module(path)} imports {name}'


def test_what_is_installed_imports_no_folder_of_a_checkout():
  installed = [path for path in FILES if module(path).startswith(('dlkd_jax.', 'tfds_builders.'))]
  found = {module(path): name for path in installed for name in imports(path) if name.startswith(('configs', 'tests'))}
  assert not found


def test_no_import_comes_back_to_where_it_began():
  """A module and what its package imports for others count alike, and imports within functions; not those for types."""
  modules = {module(path).removesuffix('.__init__'): path for path in FILES}
  wanted = {name: {n for n in imports(path, modules) if n in modules and n != name} for name, path in modules.items()}
  while ready := [name for name, others in wanted.items() if not others]:
    wanted = {name: others.difference(ready) for name, others in wanted.items() if name not in ready}
  assert not wanted, f'these modules import each other, or import some that do: {sorted(wanted)}'


def test_public_functions_have_docstrings():
  missing = []
  for path in FILES:
    if 'tests' in path.relative_to(repository()).parts:
      continue
    tree = ast.parse(path.read_text(encoding='utf-8'))
    nodes = [tree, *(n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != '_')]
    missing += [f'{path}:{getattr(n, "name", "module")}' for n in nodes if not ast.get_docstring(n)]
  assert not missing


def test_what_is_deprecated_is_an_error_where_we_call_it():
  """As the settings of pytest have it; of others it is not ours to mend."""
  warnings.warn_explicit('old', DeprecationWarning, 'of_others.py', 1, module='of_others')
  with pytest.raises(DeprecationWarning):
    warnings.warn_explicit('old', DeprecationWarning, 'made_up.py', 1, module='dlkd_jax.made_up')
