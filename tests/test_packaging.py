"""What is installed: its files and metadata, each command as in a checkout, and what a search needs."""

import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request

import pytest

import dlkd_jax
from dlkd_jax import doors
from tests.environment import environment
from tests.gallery import worlds
from tests.paths import repository
from tests.test_house import imports
from tests.video import films

# What jax and flax bring along cannot be absent.
ABSENT = {*doors.TRAINING} - {'optax', 'orbax', 'scipy'}
WITHOUT_TRAINING = f"""\
import sys
class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in {ABSENT}:
      raise ModuleNotFoundError('No module named ' + name, name=name)
sys.meta_path.insert(0, Absent())
from dlkd_jax.__main__ import main
main()
"""


@pytest.fixture(scope='session')
def built(tmp_path_factory):
  """A folder with an sdist, and `site` as `site-packages` would be; nothing is written into the checkout."""
  pytest.importorskip('setuptools')
  folder = tmp_path_factory.mktemp('built')
  commands = ['egg_info', f'--egg-base={folder}', 'sdist', f'--dist-dir={folder}', 'build', f'--build-base={folder}/b']
  commands += ['install_lib', f'--install-dir={folder}/site', '--no-compile']
  done = subprocess.run(
    [sys.executable, 'setup.py', '-q', *commands], cwd=repository(), check=False, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return folder


def run(built, *arguments):
  """Runs Python where nothing else of ours lies; what is installed comes before the checkout."""
  variables = dict(os.environ, PYTHONPATH=str(built / 'site'), JAX_PLATFORMS='cpu')
  return subprocess.run(
    [sys.executable, *arguments], cwd=built, env=variables, text=True, capture_output=True, check=False
  )


def without_training(*arguments):
  """Runs a command where nothing is installed that training alone needs."""
  return subprocess.run(
    [sys.executable, '-c', WITHOUT_TRAINING, *arguments], env=environment(), text=True, capture_output=True, check=False
  )


def files(folder):
  return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}


def test_what_runs_is_installed_and_nothing_else(built):
  assert {path.name for path in (built / 'site').iterdir()} == {'dlkd_jax', 'tfds_builders'}
  package = repository() / 'dlkd_jax'
  expected = {str(path.relative_to(package)) for path in package.rglob('*.py')} | {'py.typed'}
  expected |= {f'page/static/{path.name}' for path in (package / 'page/static').iterdir()}
  expected |= {f'configs/{path.name}' for path in (repository() / 'configs').glob('*.py')}
  assert files(built / 'site/dlkd_jax') == expected
  assert (built / 'dlkd_jax.egg-info/entry_points.txt').read_text().split('\n')[1] == 'dlkd = dlkd_jax.__main__:main'
  about = (built / 'dlkd_jax.egg-info/PKG-INFO').read_text(encoding='utf-8')
  assert f'\nVersion: {dlkd_jax.__version__}\n' in about and 'Provides-Extra: train\n' in about
  assert (repository() / 'README.md').read_text(encoding='utf-8') in about


def test_it_can_be_installed_of_the_sdist(built):
  with tarfile.open(built / f'dlkd_jax-{dlkd_jax.__version__}.tar.gz') as archive:
    names = {name.partition('/')[2] for name in archive.getnames()}
  installed = {re.sub('^dlkd_jax/configs/', 'configs/', name) for name in files(built / 'site')}
  assert installed | {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'} <= names
  assert not [name for name in names if name.startswith(('tests/', 'runs/', '.'))]


def test_recipes_are_found_wherever_the_command_runs(built):
  done = run(built, '-c', 'from dlkd_jax import config_defaults as c; print(c.RECIPES, c.load_recipe("demo").seed)')
  assert done.stdout == f'{built}/site/dlkd_jax/configs 0\n', done.stderr
  done = run(built, '-m', 'dlkd_jax', 'train', '--config=configs/custom.py:epochs=3', '--workdir=run')
  assert done.returncode == 1 and 'No built data set in data/custom_prvr' in done.stderr, done.stderr
  done = run(built, '-m', 'dlkd_jax.main', '--config=configs/costum.py', '--workdir=run')
  assert 'there is no such recipe' in done.stderr


def test_a_recipe_of_ones_own_imports_what_it_did(built):
  recipe = built / 'own.py'
  recipe.write_text('from configs import common\n\n\ndef get_config(arg=None):\n  return common.finish(')
  recipe.write_text(recipe.read_text() + "common.base('own_prvr'), arg)\n")
  done = subprocess.run(
    [sys.executable, '-m', 'dlkd_jax.main', f'--config={recipe}:hard', f'--workdir={built}/run'],
    cwd=repository(),
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 1 and 'No built data set in data/own_prvr' in done.stderr, done.stderr


def requirements(built):
  """Returns extra ('' for the installation itself) → import names of what it requires."""
  others = {'absl_py': 'absl', 'orbax_checkpoint': 'orbax', 'faiss_cpu': 'faiss', 'pillow': 'PIL'}
  found = {(extra := ''): set()}
  for line in filter(None, (built / 'dlkd_jax.egg-info/requires.txt').read_text().splitlines()):
    if section := re.fullmatch(r'\[(.*)\]', line):
      found[extra := section[1]] = set()
    else:
      name = re.split(r'[\[<>=]', line)[0].replace('-', '_')
      found[extra].add(others.get(name, name))
  return found


def test_everything_that_is_imported_is_required(built):
  required = requirements(built)
  assert set(doors.TRAINING) == required['train'] <= required['test']
  known = {*sys.stdlib_module_names, *required[''], *required['train'], 'dlkd_jax', 'tfds_builders', 'configs'}
  known |= {'anyio', 'google', 'h11'}  # Of starlette, of tensorflow-datasets, of uvicorn.
  for package in ('dlkd_jax', 'tfds_builders', 'configs'):
    for path in (repository() / package).rglob('*.py'):
      if 'tools' not in path.parts:  # Whose dependencies are optional, and said where they are absent.
        roots = {name.partition('.')[0] for name in imports(path)}
        assert roots <= known, f'{path} imports {roots - known}'


@pytest.mark.parametrize(
  'command',
  [
    'train --config=configs/demo.py --workdir=w',
    'report --workdir=w',
    'extract --videos=. --data_dir=d --teacher=none',
    'build synthetic --data_dir=d',
    'demo --workdir=w',
  ],
)
def test_a_command_names_the_extra_that_it_lacks(command, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  done = without_training(*command.split())
  assert done.returncode == 1 and not any(tmp_path.iterdir())
  assert re.fullmatch(
    r"error: this needs \w+, which is not installed: pip install 'dlkd_jax\[train\]' brings it\n", done.stderr
  ), done.stderr


@pytest.fixture(scope='module')
def program(built):
  """`dlkd` in a fresh environment that the wheel was installed into, the wheel built of the sdist."""
  sdist = built / f'dlkd_jax-{dlkd_jax.__version__}.tar.gz'
  subprocess.run([sys.executable, '-m', 'venv', built / 'venv'], check=True)
  wheel = built / f'dlkd_jax-{dlkd_jax.__version__}-py3-none-any.whl'
  for arguments in (('wheel', '--no-deps', f'--wheel-dir={built}', sdist), ('install', '--only-binary=:all:', wheel)):
    command = [built / 'venv/bin/pip', *arguments, '-c', repository() / 'constraints.txt', '--retries=1']
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode and re.search('No matching distribution|Connection|Temporary failure', done.stderr):
      pytest.skip('there is no package index here')
    assert done.returncode == 0, done.stderr
  return built / 'venv/bin/dlkd'


@pytest.mark.slow
def test_the_wheel_in_a_fresh_environment_searches_films(program, tmp_path):
  """As a new user would: two films and a model in a folder, one command to an index, one to the page."""
  variables = {name: value for name, value in os.environ.items() if not name.startswith(('PYTHON', 'XLA', 'DLKD'))}

  def call(*arguments, code=0):
    done = subprocess.run(
      [program, *arguments], cwd=tmp_path, env=variables, text=True, capture_output=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr

  assert call('--version') == f'dlkd {dlkd_jax.__version__}\n' and '\n  dlkd search ' in call('--help')
  (tmp_path / 'films').mkdir()
  films.render(tmp_path / 'films/first.mp4', films.steady(75))
  films.render(tmp_path / 'films/second.mp4', films.steady(100))
  worlds.clip(tmp_path / 'clip')
  call('add', 'films', '--clip=clip')
  said = call('search', 'a red square')
  assert said.startswith('“a red square”: 2 videos') and 'first.mp4' in said and 'second.mp4' in said, said
  with subprocess.Popen(
    [program, 'serve', '--port=0'], cwd=tmp_path, env=variables, text=True, stdout=subprocess.PIPE
  ) as server:
    address = server.stdout.readline().split()[0]
    with urllib.request.urlopen(f'{address}api/search?q=red') as answer:
      assert {hit['video_id'] for hit in json.load(answer)['hits']} == {'first.mp4', 'second.mp4'}
    server.terminate()
    assert server.stdout.read() == 'stopped\n'
  assert server.returncode == 0
  assert call('info').startswith('index ') and '1 videos removed' in call('remove', 'second.mp4', '--compact')
  assert "pip install 'dlkd_jax[train]'" in call('train', '--config=configs/demo.py', '--workdir=run', code=1)
  listed = subprocess.run([program.with_name('pip'), 'list', '--format=freeze'], capture_output=True, text=True).stdout
  assert len(listed.splitlines()) < 60 and 'tensorflow' not in listed
