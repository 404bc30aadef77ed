"""Searching starts fast: nothing of the training is imported, and what was compiled is kept."""

import os
import pathlib
import subprocess
import sys

import pytest

from dlkd_jax import doors
from tests.paths import repository

_UNUSED = ('optax', 'orbax', 'clu', 'grain', 'matplotlib', 'tensorflow', 'tensorflow_datasets', 'dlkd_jax.training')
_UNUSED += ('dlkd_jax.losses', 'dlkd_jax.similarity', 'dlkd_jax.retrieval', 'dlkd_jax.gallery.building')

_SEARCH = """
import sys
from dlkd_jax import doors, search
from absl import flags
flags.FLAGS(['search', '--index={index}', '--top=1', '--where=split=test'])
search._search(['a red square'])
from dlkd_jax.page import app, server
print([name for name in {unused} if name in sys.modules])
"""


def run(index, **environment):
  return subprocess.run(
    [sys.executable, '-c', _SEARCH.format(index=index, unused=_UNUSED)],
    cwd=repository(),
    env={k: v for k, v in os.environ.items() if not k.startswith(('JAX_COMP', 'JAX_PERSISTENT'))} | environment,
    capture_output=True,
    text=True,
  )


def test_nothing_of_the_training_is_imported_and_programs_are_kept(world, tmp_path):
  done = run(world.index, XDG_CACHE_HOME=str(tmp_path))
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == '[]' and 'a red square' in done.stdout
  assert list(tmp_path.glob('dlkd_jax/compiled-*/*'))


def test_a_cache_that_cannot_be_written_to_is_no_error(world, tmp_path):
  (tmp_path / 'file').write_text('')
  done = run(world.index, XDG_CACHE_HOME=str(tmp_path / 'file'))
  assert done.returncode == 0 and 'cache' not in done.stderr, done.stderr


@pytest.mark.parametrize(
  ('environment', 'expected'),
  [
    ({'XDG_CACHE_HOME': '{here}/x'}, '{here}/x/dlkd_jax/compiled-'),
    ({'XDG_CACHE_HOME': 'relative', 'HOME': '{here}'}, '{here}/.cache/dlkd_jax/compiled-'),
    ({'XDG_CACHE_HOME': '{here}/x', 'JAX_COMPILATION_CACHE_DIR': '{here}/own'}, None),
  ],
)
def test_where_programs_are_kept(environment, expected, tmp_path, monkeypatch):
  import jax

  told = {}
  monkeypatch.setattr(jax.config, 'update', told.__setitem__)
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value.format(here=tmp_path))
  doors.keep_compiled()
  folder = told.get('jax_compilation_cache_dir')
  assert folder is None if expected is None else folder.startswith(expected.format(here=tmp_path))
  assert folder is None or pathlib.Path(folder).is_dir()
