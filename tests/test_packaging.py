"""What is installed: two packages at the top, the recipes within one of them, each command as in a checkout."""

import os
import subprocess
import sys

import pytest

from tests.paths import repository


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder as `site-packages` would be; no network, and nothing written into the checkout."""
  pytest.importorskip('setuptools')
  folder = tmp_path_factory.mktemp('installed')
  commands = ['egg_info', f'--egg-base={folder}', 'build', f'--build-base={folder}/build', 'install_lib']
  subprocess.run(
    [sys.executable, 'setup.py', '-q', *commands, f'--install-dir={folder}/site', '--no-compile'],
    cwd=repository(),
    check=True,
    capture_output=True,
  )
  return folder


def run(installed, *arguments):
  """Runs Python where nothing else of ours lies; what is installed comes before the checkout."""
  environment = dict(os.environ, PYTHONPATH=str(installed / 'site'), JAX_PLATFORMS='cpu')
  return subprocess.run(
    [sys.executable, *arguments], cwd=installed, env=environment, text=True, capture_output=True, check=False
  )


def test_no_package_has_a_name_that_others_have(installed):
  assert (installed / 'dlkd_jax.egg-info/top_level.txt').read_text().split() == ['dlkd_jax', 'tfds_builders']
  assert {path.name for path in (installed / 'site').iterdir()} == {'dlkd_jax', 'tfds_builders'}
  assert (installed / 'site/dlkd_jax/page/static').is_dir()


def test_recipes_are_found_wherever_the_command_runs(installed):
  done = run(installed, '-c', 'from dlkd_jax import config_defaults as c; print(c.RECIPES, c.load_recipe("demo").seed)')
  assert done.stdout == f'{installed}/site/dlkd_jax/configs 0\n', done.stderr
  done = run(installed, '-m', 'dlkd_jax.main', '--config=configs/custom.py:epochs=3', '--workdir=run')
  assert done.returncode == 1 and 'No built data set in data/custom_prvr' in done.stderr, done.stderr
  done = run(installed, '-m', 'dlkd_jax.main', '--config=configs/costum.py', '--workdir=run')
  assert 'there is no such recipe' in done.stderr


def test_a_recipe_of_ones_own_imports_what_it_did(installed):
  recipe = installed / 'own.py'
  recipe.write_text('from configs import common\n\n\ndef get_config(arg=None):\n  return common.finish(')
  recipe.write_text(recipe.read_text() + "common.base('own_prvr'), arg)\n")
  done = subprocess.run(
    [sys.executable, '-m', 'dlkd_jax.main', f'--config={recipe}:hard', f'--workdir={installed}/run'],
    cwd=repository(),
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 1 and 'No built data set in data/own_prvr' in done.stderr, done.stderr
